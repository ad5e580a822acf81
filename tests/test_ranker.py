"""The base's ranking as soft labels, and the questions the model writes, on a tiny base."""

import json
from pathlib import Path

import pytest
import torch

from gem_rag.errors import GemError
from gem_rag_train.loop.trainer import Trainer, train
from gem_rag_train.material import questions
from gem_rag_train.material.questions import as_question, kept_questions, places, write_questions
from gem_rag_train.objectives.losses import soft_labels
from gem_rag_train.objectives.ranker import Ranker
from gem_rag_train.recipes.config import TrainConfig

PASSAGES = [
    "The kettle has a warranty of seven years.",
    "Rivers run to the sea.",
    "A young child is riding a grey horse!",
    "Steam engines in winter, and a long letter about them.",
]
QUESTIONS = ["Who wrote the letter?", "Where do rivers run?"]


def test_scores_are_the_models_own_ranking(gem):
    ranker = Ranker(gem)
    scores = ranker.scores(QUESTIONS, PASSAGES, [[3, 0], [1, 2]])
    for question, row, candidates in zip(QUESTIONS, scores, [[3, 0], [1, 2]], strict=True):
        ranked = gem.rank(question, [PASSAGES[j] for j in candidates])
        expected = {r.index: r.log_likelihood for r in ranked}
        assert row.tolist() == pytest.approx([expected[0], expected[1]], abs=1e-4)


def test_each_pair_is_scored_once_and_found_again_to_the_last_bit(gem, tmp_path, monkeypatch):
    file = tmp_path / "scores.jsonl"
    everything = [[0, 1, 2, 3], [3, 2, 1, 0]]
    ranker = Ranker(gem, memory=file)
    ranker.scores(QUESTIONS, PASSAGES, [[0, 1], [3, 2]])
    read: list[str] = []
    reads = ranker.read
    monkeypatch.setattr(ranker, "read", lambda texts: read.extend(texts) or reads(texts))
    scores = ranker.scores(QUESTIONS[:1], PASSAGES, [[0, 1, 2]])
    assert read == [PASSAGES[2]]
    whole = ranker.scores(QUESTIONS, PASSAGES, everything)
    assert torch.equal(whole[0, :3], scores[0])
    with file.open("a") as out:
        out.write('{"cut')  # a crash while writing
    again = Ranker(gem, memory=file)
    again.read = lambda texts: [] if not texts else pytest.fail("read again")
    assert torch.equal(again.scores(QUESTIONS, PASSAGES, everything), whole)


def test_candidates_are_the_own_passage_and_the_nearest(gem, monkeypatch):
    ranker = Ranker(gem, candidates=2)
    similarity = torch.tensor([[0.1, 0.9, 0.3, 0.2], [0.8, 0.1, 0.2, 0.7]])
    assert ranker._nearest(similarity, [2, 0]).tolist() == [[2, 1], [0, 3]]
    assert Ranker(gem, candidates=0)._nearest(similarity, [2, 0]).shape == (2, 4)


def test_the_loss_pulls_the_embedding_to_the_ranking(gem):
    ranker = Ranker(gem, candidates=0, temperature=0.1)
    similarity = torch.zeros(2, 4, requires_grad=True)
    optimizer = torch.optim.Adam([similarity], lr=0.2)
    losses = []
    for _ in range(200):
        optimizer.zero_grad()
        loss = ranker.loss(QUESTIONS, PASSAGES, [3, 1], similarity)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.05 * losses[0]
    scores = ranker.scores(QUESTIONS, PASSAGES, [[0, 1, 2, 3]] * 2)
    assert torch.equal(similarity.argmax(1), scores.argmax(1))
    assert ranker.loss([], PASSAGES, [], torch.zeros(0, 4)) == 0


def test_soft_labels_are_a_divergence():
    scores = torch.tensor([[1.0, 0.0, -1.0]])
    assert soft_labels(scores / 0.5, scores, 0.5).item() == pytest.approx(0, abs=1e-6)
    p, q = (scores / 0.5).softmax(1), torch.full((1, 3), 1 / 3)
    expected = (p * (p / q).log()).sum().item()
    assert soft_labels(torch.zeros(1, 3), scores, 0.5).item() == pytest.approx(expected, rel=1e-5)


def test_a_ranker_needs_readings_that_stay(base_folder):
    from gem_rag.model import create

    with pytest.raises(GemError, match="ranker_weight=0"):
        Ranker(create(base_folder, adapter_scope="always"))


@pytest.fixture
def recipe(base_folder, tmp_path):
    rows = [
        {"query": f"Who wrote letter {i}?", "positive": f"Letter {i}. {text}"}
        for i in range(4)
        for text in PASSAGES
    ]
    data = tmp_path / "rows.jsonl"
    texts = [{"text": " ".join(PASSAGES[i:] + PASSAGES[:i])} for i in range(4)]
    data.write_text("".join(json.dumps(row) + "\n" for row in rows + texts))
    return TrainConfig(
        base=str(base_folder),
        output=str(tmp_path / "out"),
        data_files=(str(data),),
        shares={"labelled": 3, "texts": 1},
        steps=4,
        batch_size=6,
        checkpoint_every=2,
        num_special_tokens=2,
        adapter_rank=2,
        ranker_weight=0.5,
        ranker_candidates=3,
    )


@pytest.mark.parametrize("examples", [0, 12])
def test_a_run_with_a_ranker_resumes_to_the_same_weights(recipe, tmp_path, monkeypatch, examples):
    from dataclasses import replace

    recipe = replace(recipe, examples=examples)
    whole = train(replace(recipe, output=str(tmp_path / "whole")))
    step = Trainer.train_step

    def interrupted(self):
        if self.step == 3:
            raise KeyboardInterrupt
        return step(self)

    monkeypatch.setattr(Trainer, "train_step", interrupted)
    with pytest.raises(KeyboardInterrupt):
        train(recipe)
    monkeypatch.setattr(Trainer, "train_step", step)
    resumed = train(recipe, resume=True)
    for name in ("adapter_model.safetensors", "special_tokens.safetensors"):
        assert (resumed / name).read_bytes() == (whole / name).read_bytes()
    log = Path(f"{recipe.output}.run/log.jsonl").read_text().splitlines()
    first = json.loads(log[0])
    assert first["ranking"] > 0
    total = first["contrastive"] + 0.5 * first["ranking"]
    assert first["loss"] == pytest.approx(total, rel=1e-4)
    assert "own file" in (resumed / "README.md").read_text()


def test_files_of_other_columns_are_refused(recipe, tmp_path):
    Path(recipe.data_files[0]).write_text('{"question": "a"}\n')
    with pytest.raises(GemError, match=r"rows\.jsonl:1: found the columns \['question'\]"):
        Trainer(recipe, resume=False)


def test_written_questions_depend_on_the_seed_and_hold_no_control_tokens(gem, monkeypatch):
    monkeypatch.setattr(questions, "as_question", lambda text, _: text.strip())
    options = {"per_passage": 2, "show_progress": False}
    written = list(write_questions(gem, PASSAGES, seed=1, **options))
    assert written == list(write_questions(gem, PASSAGES, seed=1, **options))
    assert written != list(write_questions(gem, PASSAGES, seed=2, **options))
    assert {i for i, _ in written} <= set(range(4))
    assert not any("<|im_" in text for _, text in written)


def test_empty_and_duplicate_questions_are_dropped(gem, monkeypatch):
    answers = iter(["", "Where do they run?", "where do they RUN?", "And who wrote it?"])
    monkeypatch.setattr(questions, "as_question", lambda *_: next(answers))
    written = list(write_questions(gem, PASSAGES[:1], per_passage=4, show_progress=False))
    assert written == [(0, "Where do they run?"), (0, "And who wrote it?")]
    assert as_question("  \n", "stop") == ""
    assert as_question("Question: 1. What is the kettle for", "stop") == "What is the kettle for?"
    assert as_question('**Question 2:** "Who sells 3 kettles', "stop") == "Who sells 3 kettles?"


def test_questions_that_fit_any_text_are_dropped(gem, monkeypatch):
    answers = iter(["What is this about?", "Where do they run?"] * 2)
    monkeypatch.setattr(questions, "as_question", lambda *_: next(answers))
    options = {"per_passage": 2, "show_progress": False}
    both = [q for _, q in write_questions(gem, PASSAGES[:1], **options)]
    scores = {q: gem.rank(q, PASSAGES[:1])[0].score for q in both}
    between = sum(scores.values()) / 2
    kept = [q for _, q in write_questions(gem, PASSAGES[:1], least_score=between, **options)]
    assert kept == [max(both, key=lambda q: scores[q])]


@pytest.mark.parametrize("scope", ["embedding", "always"])
def test_other_scopes_write_questions_too(base_folder, monkeypatch, scope):
    from gem_rag.model import create

    monkeypatch.setattr(questions, "as_question", lambda text, _: text)
    model = create(base_folder, adapter_scope=scope)
    options = {"least_score": -100.0, "show_progress": False}
    assert list(write_questions(model, PASSAGES[:2], **options))


def test_questions_are_written_once(gem, tmp_path, monkeypatch):
    asked = []

    def write(model, passages, **_):
        asked.append(list(passages))
        if len(asked) == 2:
            raise KeyboardInterrupt
        return ((i, f"What of {passage}") for i, passage in enumerate(passages))

    monkeypatch.setattr(questions, "write_questions", write)
    monkeypatch.setattr(questions, "AT_ONCE", 2)
    file, options = tmp_path / "q.jsonl", {"per_passage": 1, "max_length": 20, "seed": 0}
    with pytest.raises(KeyboardInterrupt):
        kept_questions(gem, PASSAGES, file, **options)
    written = kept_questions(gem, PASSAGES, file, **options)
    assert written == [[f"What of {passage}"] for passage in PASSAGES]
    assert asked == [PASSAGES[:2], PASSAGES[2:], PASSAGES[2:]]
    kept_questions(gem, PASSAGES[:1], file, **{**options, "seed": 1})
    assert asked[-1] == PASSAGES[:1]
    with file.open("ab") as out:
        out.write('{"key": ["Was ist ü'.encode()[:-1])  # cut short within a character
    assert kept_questions(gem, PASSAGES, file, **options) == written


def test_places():
    passages = torch.eye(3)
    asked = torch.tensor([[1.0, 0, 0], [0.1, 0.2, 0.9]])
    assert places(asked, passages, [0, 0]).tolist() == [0, 2]
