"""Evaluation on a tiny model and sets made here: the numbers, what is kept, the whole report."""

import hashlib
import json
import math

import numpy as np
import pytest
import torch
from tiny import disturb

from gem_rag import cli
from gem_rag.compute.adapter import applied
from gem_rag.config import AdapterConfig
from gem_rag.errors import GemError, MissingExtraError
from gem_rag.model import GemModel, create
from gem_rag_train import TrainConfig
from gem_rag_train.evaluation import EvalSettings, evaluate, run, sets, statistics, systems
from gem_rag_train.evaluation import kept as kept_module
from gem_rag_train.evaluation.answers import TwoModels, best, contains, exact, f1, plain
from gem_rag_train.evaluation.embedding import gains, places, retrieval
from gem_rag_train.evaluation.kept import KeptAnswers, KeptVectors
from gem_rag_train.evaluation.report import SYSTEMS
from gem_rag_train.evaluation.sets import Choice, Labelled, Question, Retrieval
from gem_rag_train.evaluation.statistics import Sample
from gem_rag_train.evaluation.systems import BASE, CHECKPOINT, MEAN_POOLED, MINILM, GemEmbedder
from gem_rag_train.loop.start import untrained

WORDS = ["kettle", "warranty", "river", "sea", "winter", "letter", "steam", "engine"]
WORDS += ["child", "horse", "grey", "young"]


def sentence(i):
    return " ".join(WORDS[(i * step + step) % len(WORDS)] for step in (1, 3, 5, 7)) + f" {i}."


PARAGRAPHS = [f"{sentence(i)} {sentence(i + 7)}" for i in range(14)]
SQUAD = (
    PARAGRAPHS,
    [Question(f"Which {sentence(p)[:-1]}?", p, (WORDS[p % 12],)) for p in range(14) for _ in "ab"],
)
CHOICES = [
    Choice(f"What is a {w}?", ("a thing", "an animal", "no"), i % 3) for i, w in enumerate(WORDS)
]


def peer(texts):
    """An embedder that knows words: unit ``[n, 384]``."""
    out = np.zeros((len(texts), systems.MINILM_DIM), dtype=np.float32)
    for row, text in enumerate(texts):
        out[row, 256:384] = (
            np.frombuffer(hashlib.sha512(text.encode()).digest() * 2, np.uint8) / 999
        )
        for word in text.split():
            out[row, hashlib.sha256(word.encode()).digest()[0]] += 1
    return out / np.maximum(1e-9, np.linalg.norm(out, axis=1, keepdims=True))


@pytest.fixture
def small_sets(monkeypatch):
    """No network: every set is one made here."""
    monkeypatch.setattr(sets, "squad", lambda name=sets.SQUAD: SQUAD)
    monkeypatch.setattr(
        sets,
        "labelled_sets",
        lambda: [Labelled("words", [sentence(i) for i in range(24)], list("abc") * 8)],
    )
    monkeypatch.setattr(sets, "choices", lambda file: CHOICES)
    monkeypatch.setattr(sets, "held_out_passages", lambda: PARAGRAPHS)
    monkeypatch.setattr(systems, "minilm", lambda _: peer)
    monkeypatch.setattr(statistics, "RESAMPLES", 20)


@pytest.fixture
def stsb(tmp_path):
    file = tmp_path / "sts.csv"
    rows = [f"{sentence(i)},{sentence(i + i % 4)},{5 - i % 4}" for i in range(12)]
    file.write_text("\n".join(rows), encoding="utf-8")
    return file


@pytest.fixture
def beir(tmp_path):
    """A retrieval folder of ten documents and queries."""
    folder = tmp_path / "words"
    (folder / "qrels").mkdir(parents=True)
    corpus = [{"_id": f"d{i}", "title": "", "text": PARAGRAPHS[i]} for i in range(10)]
    queries = [{"_id": f"q{i}", "text": SQUAD[1][2 * i].text} for i in range(10)]
    for name, rows in (("corpus", corpus), ("queries", queries)):
        (folder / f"{name}.jsonl").write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    qrels = ["query-id\tcorpus-id\tscore", *(f"q{i}\td{i}\t1" for i in range(10))]
    (folder / "qrels" / "test.tsv").write_text("\n".join(qrels), encoding="utf-8")
    return folder


@pytest.fixture
def always(base_folder):
    """A checkpoint whose generation is adapted too."""
    model = create(base_folder, adapter_scope="always", adapter=AdapterConfig(rank=4, alpha=8))
    return disturb(model, 0.2)


# Sets


def test_a_sample_gives_every_paragraphs_first_question_first():
    data = Retrieval(*SQUAD)
    small = data.sample(5, 5, seed=3)
    assert small.gold == [0, 1, 2, 3, 4]
    assert all(
        p.split()[0] in q.text for p, q in zip(small.paragraphs, small.questions, strict=True)
    )
    assert len(data.sample(5, None, seed=3).questions) == 10
    assert data.sample(None, None, seed=3) == data
    few = data.sample(None, 6, seed=3)
    assert few.paragraphs == PARAGRAPHS
    assert len(few.questions) == 6
    assert few == data.sample(None, 6, seed=3) != data.sample(None, 6, seed=4)


def test_the_sample_of_the_benchmarks(monkeypatch):
    monkeypatch.setattr(sets, "squad", lambda: SQUAD)
    paragraphs, questions = sets.squad_sample(4, seed=1)
    assert [q.paragraph for q in questions] == [0, 1, 2, 3]
    assert len(set(paragraphs)) == 4


def test_options_are_taken_apart():
    row = {
        "question": "Q?",
        "options": "\nA. bank\nB. a mall\nC. D. H. Lawrence",
        "answer": "B. a mall",
    }
    assert sets.parse_choice(row) == Choice("Q?", ("bank", "a mall", "D. H. Lawrence"), 1)
    assert sets.parse_choice({**row, "answer": "Z. nothing"}) is None
    assert sets.parse_choice({"question": "Q?", "options": "A. one\nB. two"}) is None
    assert sets.parse_choice({**row, "options": "C. one\nD. two"}) is None
    assert sets.parse_choice({**row, "options": "A. \nB. two"}) is None


def test_classes_with_one_text_are_left_out():
    data = Labelled("x", list("abcde"), ["one", "two", "two", "three", "three"])
    assert sorted(data.sample(None, 1).labels) == ["three", "three", "two", "two"]
    with pytest.raises(GemError, match=r"\(0 classes\); draw more"):
        data.sample(1, 1)


def test_a_damaged_csv_is_named(tmp_path):
    file = tmp_path / "x.csv"
    file.write_text("sentence1,sentence2,score\na,b,3\n")
    assert sets.load_stsb(file) == [("a", "b", 3.0)]
    for text, match in (("a,b,c\n", "row 1"), ("", "is empty"), ("a,b,3\nc,d\n", "row 2")):
        file.write_text(text)
        with pytest.raises(GemError, match=match):
            sets.load_stsb(file)


# Statistics


def test_intervals_hold_the_value_and_differences_are_paired():
    rng = np.random.default_rng(0)
    hard = rng.random(200)
    mine, theirs = Sample.mean(hard + 0.05), Sample.mean(hard)
    score = mine.score()
    assert score.low < score.value < score.high
    assert score.high - score.low > 0.05
    difference = mine.minus(theirs)  # far narrower than the intervals of each
    assert difference.low == pytest.approx(0.05)
    assert difference.high == pytest.approx(0.05)
    with pytest.raises(ValueError, match="same items"):
        mine.minus(Sample.mean(hard[:5]))


def test_an_interval_of_clusters_holds_their_value():
    """Resamples alone agree better than the sample: they hold items twice."""
    rng = np.random.default_rng(0)
    sample = Sample("v_measure", (rng.integers(0, 15, 150), rng.integers(0, 15, 150)))
    score = sample.score()
    assert score.low < score.value < score.high


def test_statistics():
    x = np.arange(20.0)
    assert Sample("spearman", (x, x**3)).value == pytest.approx(1)
    assert Sample("v_measure", (np.array([0, 0, 1, 1]), np.array([5, 5, 2, 2]))).value == 1
    perplexity = Sample("perplexity", (np.array([-2.0, -4.0]), np.array([1.0, 2.0])))
    assert perplexity.value == pytest.approx(math.exp(2))
    assert Sample.mean([0.5]).score().low is None


def test_questions_about_one_paragraph_hang_together():
    values, paragraph = np.repeat([0.0, 1.0] * 20, 5), np.repeat(np.arange(40), 5)
    alone, together = Sample.mean(values).score(), Sample.mean(values, paragraph).score()
    assert alone.value == together.value == 0.5
    width = (together.high - together.low) / (alone.high - alone.low)
    assert width == pytest.approx(5**0.5, rel=0.15)  # 40 independent ones instead of 200
    assert Sample.mean(values, np.zeros(200)).score().low is None


def test_places_and_gains():
    documents = np.eye(12, dtype=np.float32)
    queries = documents[[0, 1, 2]] + 0.5 * documents[[5, 5, 5]]
    place, top = places(documents, queries, [0, 5, 7])
    assert place.tolist() == [0, 1, 11]  # ten are as near as the third's
    assert top[:, 0].tolist() == [0, 1, 2]
    assert gains(np.array([0, 1, 10])).tolist() == [1, 1 / math.log2(3), 0]
    scores, _ = retrieval(documents, queries, [0, 5, 7])
    assert scores.recall1 == pytest.approx(1 / 3)
    alike, _ = retrieval(np.ones_like(documents), queries, [0, 5, 7])
    assert alike.ndcg10 == 0  # a model that finds all alike finds nothing


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        ("The Eiffel Tower!", (1, 1, 1)),
        ("It is the Eiffel tower in Paris.", (0, 4 / 8, 1)),
        ("Eiffel", (0, 2 / 3, 0)),
        ("", (0, 0, 0)),
    ],
)
def test_squad_metrics(answer, expected):
    question = Question("?", 0, ("Eiffel Tower", "no"))
    assert [best(m, answer, question) for m in (exact, f1, contains)] == pytest.approx(expected)


# What is kept


def test_each_text_is_embedded_once_also_after_an_interruption(gem, tmp_path, monkeypatch):
    monkeypatch.setattr(kept_module, "CHUNK_CHARACTERS", 100)
    texts = [sentence(i) for i in range(20)]
    kept = KeptVectors(GemEmbedder(gem), tmp_path)
    vectors = kept.embed([*texts, texts[0]])
    np.testing.assert_allclose(vectors[:-1], gem.embed_documents(texts), atol=1e-5)
    assert not np.allclose(vectors[0], kept.embed(texts[:1], "query")[0], atol=1e-3)
    with (tmp_path / kept.embedder.key / "document.f32").open("ab") as file:
        file.write(b"torn")  # vectors are written before their names
    again = KeptVectors(GemEmbedder(gem), tmp_path)
    asked = []
    embed = again.embedder.embed
    monkeypatch.setattr(again.embedder, "embed", lambda t, k: asked.extend(t) or embed(t, k))
    np.testing.assert_array_equal(again.embed(["new", *texts])[1:], vectors[:-1])
    assert asked == ["new"]


def test_answers_survive_a_torn_line(tmp_path):
    file = tmp_path / "a.jsonl"
    answers = KeptAnswers(file)
    answers["one"] = {"x": 1}
    with file.open("a") as opened:
        opened.write('["two", ')
    again = KeptAnswers(file)
    assert again["one"] == {"x": 1}
    assert "two" not in again
    again["two"] = 2
    assert KeptAnswers(file)["two"] == 2


# Systems


def test_mean_pooling_is_the_mean_of_the_raw_base(gem):
    embedder = systems.MeanPooled(gem)
    texts = ["Rivers run to the sea.", "A young child", ""]
    vectors = embedder.embed(texts, "document")
    ids = torch.tensor([gem.codec.tokenizer(texts[1])["input_ids"]])
    with torch.inference_mode():
        mean = gem.base.decoder(ids).last_hidden_state[0].mean(0)
    np.testing.assert_allclose(vectors[1], (mean / mean.norm()).numpy(), atol=1e-5)
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)


def test_the_two_model_stack_generates_with_the_base_alone(always, gem, tmp_path, small_sets):
    bare = plain(always)
    assert plain(gem) is gem
    question = [{"role": "user", "content": "Who wrote it?"}]
    adapted = always.generate(question, max_new_tokens=8).ids
    with applied(always.parts.adapter.at(None)):
        assert bare.generate(question, max_new_tokens=8).ids != adapted
    stack = TwoModels(always, KeptVectors(systems.MiniLM(), tmp_path), PARAGRAPHS)
    assert stack.answer("winter?") == stack.answer("winter?")


# Libraries, offline


def test_mteb_runs_a_local_retrieval_task_and_agrees_with_us(gem, tmp_path, beir, stsb, small_sets):
    from gem_rag_train.evaluation.mteb_tasks import find_task, run_tasks

    kept = [
        KeptVectors(GemEmbedder(gem), tmp_path / "v"),
        KeptVectors(systems.MiniLM(), tmp_path / "v"),
    ]
    tasks = [find_task(str(beir)), find_task(str(stsb))]
    found, sts = run_tasks(kept, tasks, tmp_path / "mteb", False)
    queries = [SQUAD[1][2 * i].text for i in range(10)]
    for system in kept:
        mine, _ = retrieval(
            system.embed(PARAGRAPHS[:10]), system.embed(queries, "query"), range(10)
        )
        assert found.scores[system.name].value == pytest.approx(mine.ndcg10, abs=1e-4)
    assert found.task == "mteb Retrieval: words"
    assert found.metric == "ndcg_at_10"
    assert set(sts.scores) == {CHECKPOINT, MINILM}


def test_mteb_encodes_queries_and_documents_by_the_prompt_type(gem):
    from mteb.types import PromptType

    from gem_rag_train.evaluation.mteb_tasks import GemEncoder

    encoder, batches = GemEncoder(gem), [{"text": ["kettle"]}, {"text": ["sea"]}]
    query = encoder.encode(batches, prompt_type=PromptType.query)
    np.testing.assert_allclose(query, gem.embed_queries(["kettle", "sea"]), atol=1e-5)
    document = encoder.encode(batches, prompt_type=PromptType.document)
    np.testing.assert_allclose(document, gem.embed_documents(["kettle", "sea"]), atol=1e-5)
    np.testing.assert_array_equal(document, encoder.encode(batches))


def test_a_local_task_that_is_not_there_is_named(tmp_path):
    from gem_rag_train.evaluation.mteb_tasks import find_task

    with pytest.raises(GemError, match=r"corpus\.jsonl"):
        find_task(str(tmp_path))
    with pytest.raises(GemError, match="NoSuchTask"):
        find_task("NoSuchTask")


DOCUMENTS = {
    "words": [{"prompt": f"What is a {w}?", "choices": ["thing", "no"], "gold": 0} for w in WORDS],
    "boolq_dev_perplexity": [{"text": text} for text in PARAGRAPHS[:5]],
}


def test_the_harness_scores_the_base_once_where_generation_is_the_bases(gem, tmp_path):
    from gem_rag_train.evaluation.generation import compare

    accuracy, perplexity = compare(gem, gem, tmp_path, DOCUMENTS)
    assert "torch.equal" in accuracy.note
    assert accuracy.scores[BASE] == accuracy.scores[CHECKPOINT]
    assert accuracy.difference.value == 0
    log_likelihood = words = 0.0
    for text in PARAGRAPHS[:5]:
        ids = gem.codec.tokenizer(text)["input_ids"]
        with torch.inference_mode():
            logits = gem.base.model(torch.tensor([[gem.codec.tokenizer.bos_token_id, *ids]])).logits
        chosen = logits[0, :-1].log_softmax(-1)[range(len(ids)), ids]
        log_likelihood += chosen.double().sum().item()
        words += len(text.split())
    assert perplexity.scores[BASE].value == pytest.approx(
        math.exp(-log_likelihood / words), rel=1e-3
    )


def test_the_harness_sees_the_adapter_where_generation_is_adapted(always, tmp_path):
    from gem_rag_train.evaluation.generation import compare

    _, perplexity = compare(always, always, tmp_path, DOCUMENTS)
    assert perplexity.note == ""
    assert perplexity.scores[BASE].value != pytest.approx(perplexity.scores[CHECKPOINT].value)


def test_logits_that_differ_are_an_error(gem, monkeypatch):
    from gem_rag_train.evaluation import generation

    def other_weights(*args, **kwargs):
        fresh, tokenizer = load(*args, **kwargs)
        with torch.no_grad():
            fresh.lm_head.weight[0] += 1e-3
        return fresh, tokenizer

    load = generation.load_base
    assert generation.same_logits(gem, ["kettle", "sea"]) == 2
    monkeypatch.setattr(generation, "load_base", other_weights)
    with pytest.raises(GemError, match="must be equal"):
        generation.same_logits(gem, ["kettle"])


# The whole


def settings(**more):
    sizes = {"ranked": 6, "rag": 4, "lm": 5, "passages": 4, "questions": 12}
    return EvalSettings(**{**sizes, **more})


def test_one_report_has_every_system_side_by_side(gem, tmp_path, small_sets, stsb, beir):
    out = tmp_path / "out"
    report = evaluate(gem, out, settings(stsb=stsb, mteb=(str(beir),)), show_progress=False)
    assert list(report.parts()) == list(run.PARTS)
    assert report.systems == list(SYSTEMS)
    saved = json.loads((out / "eval.json").read_text())
    assert saved["facts"]["scope"] == "tokens"
    sts = saved["measures"][0]
    assert sts["items"] == 12
    assert set(sts["scores"]) == {MEAN_POOLED, MINILM, CHECKPOINT}
    assert sts["difference"]["low"] <= sts["difference"]["value"] <= sts["difference"]["high"]
    table = (out / "eval.md").read_text()
    for part in run.PARTS:
        assert (out / f"{part}.svg").read_text().startswith("<?xml")
        assert f"({part}.svg)" in table
    rows = [line for line in table.splitlines() if line.startswith("|")]
    assert len(rows) == 2 + len(report.measures)
    assert len({row.count("|") for row in rows}) == 1


def test_an_evaluation_goes_on_where_it_was(gem, tmp_path, small_sets, stsb, monkeypatch):
    parts = ("sts", "retrieval", "ranking", "classification", "clustering", "rag")
    first = evaluate(gem, tmp_path, settings(only=parts, stsb=stsb), show_progress=False)

    def never(*args, **kwargs):
        raise AssertionError("done before")

    for owner, name in (
        (systems.GemEmbedder, "embed"),
        (systems.MeanPooled, "embed"),
        (systems.MiniLM, "embed"),
        (type(gem), "rank"),
        (type(gem), "stream"),
        (type(gem), "generate"),
    ):
        monkeypatch.setattr(owner, name, never)
    again = evaluate(gem, tmp_path, settings(only=parts, stsb=stsb), show_progress=False)
    assert again.measures == first.measures


def test_a_report_keeps_the_parts_made_before_of_the_same_checkpoint_and_sizes(
    gem, always, tmp_path, small_sets, stsb
):
    def parts(model=gem, **more):
        report = evaluate(model, tmp_path, settings(**more), show_progress=False)
        saved = json.loads((tmp_path / "eval.json").read_text())
        assert saved == json.loads(json.dumps(report.to_dict()))
        assert saved["settings"]["only"] == list(report.parts())
        return list(report.parts())

    assert parts(only=("sts",), stsb=stsb) == ["sts"]
    assert parts(only=("retrieval",)) == ["sts", "retrieval"]
    assert json.loads((tmp_path / "eval.json").read_text())["settings"]["stsb"] == stsb.name
    assert parts(only=("sts",), stsb=stsb) == ["retrieval", "sts"]
    before = (tmp_path / "eval.json").read_text()
    assert parts(only=("retrieval",), questions=10) == ["retrieval"]
    assert (tmp_path / "eval-1.json").read_text() == before  # of other sizes: set aside
    assert (tmp_path / "eval-1.md").exists()
    assert parts(always, only=("sts",), stsb=stsb, questions=10) == ["sts"]


def test_a_fully_fine_tuned_checkpoint_stands_beside_the_base_it_came_from(
    base_folder, tmp_path, small_sets
):
    config = TrainConfig(
        base=str(base_folder), adapter_scope="always", adapter_rank=0, full_fine_tuning=True
    )
    model = untrained(config)
    with torch.no_grad():
        for weight in model.base.model.parameters():
            weight += 0.05 * torch.randn_like(weight)
    folder = model.save_pretrained(tmp_path / "tuned", with_base=True)
    tuned = GemModel.from_pretrained(folder)
    with pytest.raises(GemError, match=r"no recipe\.toml"):
        systems.base_of(tuned)
    (folder / "recipe.toml").write_text(config.to_toml())
    assert systems.base_of(tuned).config.base.weights == create(base_folder).config.base.weights
    report = evaluate(tuned, tmp_path / "out", settings(only=("generation",)), show_progress=False)
    perplexity = report.measures[-1].scores
    assert perplexity[BASE].value != pytest.approx(perplexity[CHECKPOINT].value)


def test_settings_that_do_not_fit_are_errors():
    with pytest.raises(GemError, match="sts, retrieval"):
        EvalSettings(only=("stss",))
    with pytest.raises(GemError, match="--stsb"):
        EvalSettings(only=("sts",))
    with pytest.raises(GemError, match="ranked"):
        EvalSettings(ranked=0)
    assert "sts" not in EvalSettings().parts
    assert EvalSettings.quick(rag=7).rag == 7


def test_a_missing_library_is_said_at_the_door(gem, tmp_path, monkeypatch):
    monkeypatch.setattr(run.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(MissingExtraError, match=r"gem-rag\[eval\]"):
        evaluate(gem, tmp_path)


def test_the_command(gem, tmp_path, small_sets, stsb, monkeypatch, capsys):
    checkpoint = gem.save_pretrained(tmp_path / "checkpoint")
    arguments = ["eval", "--model", checkpoint, "--output", tmp_path / "out", "--stsb", stsb]
    arguments += ["--only", "sts,ranking", "--ranked", 4, "--json"]
    monkeypatch.setattr("sys.argv", ["gem-rag", *map(str, arguments)])
    with pytest.raises(SystemExit) as stop:
        cli.main()
    assert stop.value.code == 0
    report = json.loads(capsys.readouterr().out)
    assert {m["part"] for m in report["measures"]} == {"sts", "ranking"}
    (first, *_) = (m for m in report["measures"] if m["part"] == "ranking")
    ways = (systems.WORDS, MINILM, systems.MINILM_WORDS, systems.VECTORS, systems.HYBRID)
    assert set(first["scores"]) == {*ways, CHECKPOINT}
    assert "bytes each on disk" in first["task"]
    assert (tmp_path / "out" / "eval.md").exists()
