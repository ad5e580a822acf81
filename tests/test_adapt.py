"""From a folder of documents to a better checkpoint, or to none, on a tiny base."""

import json
import random

import pytest
import torch
from tiny import WORDS

from gem_rag.config import AdapterConfig
from gem_rag.errors import GemError, MissingExtraError
from gem_rag.model import GemModel, create
from gem_rag_train import adapt as module
from gem_rag_train.adapt import adapt
from gem_rag_train.loop import preflight
from gem_rag_train.loop.trainer import Trainer
from gem_rag_train.material import questions
from gem_rag_train.material.gather import Asked, read_chunks

OPTIONS = {"steps": 4, "chunk_tokens": 48, "show_progress": False}


@pytest.fixture(scope="module")
def checkpoint(base_folder, tmp_path_factory):
    model = create(base_folder, num_special_tokens=2, adapter=AdapterConfig(rank=2, alpha=4))
    return model.save_pretrained(tmp_path_factory.mktemp("adapt") / "start")


@pytest.fixture
def docs(tmp_path):
    """25 chunks of 14 words, under headings."""
    rng, folder = random.Random(0), tmp_path / "docs"
    folder.mkdir()
    words = sorted({w.strip(".,!?") for w in WORDS.split()} - {"🙂"})
    for page in range(5):
        parts = (f"## Part {page} {i}\n\n{' '.join(rng.sample(words, 14))}.\n" for i in range(5))
        (folder / f"{page}.md").write_text("\n".join(parts))
    return folder


@pytest.fixture(autouse=True)
def written(monkeypatch):
    """The tiny model writes no questions: some of a passage's words stand in. Counts passages."""
    asked = []

    def write(model, passages, *, per_passage, seed, **_):
        asked.extend(passages)
        for i, passage in enumerate(passages):
            rng = random.Random(f"{seed}:{passage}")
            for _ in range(per_passage):
                yield i, " ".join(rng.sample(passage.split(), 5)) + "?"

    monkeypatch.setattr(questions, "write_questions", write)
    return asked


def found_first(candidate, material):
    return torch.zeros(len(material.held_out), dtype=torch.long)


def found_last(candidate, material):
    return material.before + 1


def run(docs, checkpoint, tmp_path, **options):
    return adapt([docs], tmp_path / "out", model=checkpoint, **{**OPTIONS, **options})


def test_what_is_better_is_written(docs, checkpoint, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "measure", found_first)
    result = run(docs, checkpoint, tmp_path)
    assert result.kept
    assert result.verdict.after.recall1 == 1 > result.verdict.before.recall1
    assert result.checkpoint == str(tmp_path / "out")
    new, old = GemModel.from_pretrained(tmp_path / "out"), GemModel.from_pretrained(checkpoint)
    assert new.fingerprint != old.fingerprint
    assert new.parts.reading_fingerprint == old.parts.reading_fingerprint
    assert new.config.num_special_tokens == 2
    assert not list((tmp_path / "out.adapt").glob("*.readings"))


@pytest.mark.parametrize("places", [found_last, lambda candidate, material: material.before])
def test_what_is_not_better_is_not_written(docs, checkpoint, tmp_path, monkeypatch, places):
    monkeypatch.setattr(module, "measure", places)
    result = run(docs, checkpoint, tmp_path)
    assert not result.kept
    assert result.checkpoint == str(checkpoint)
    assert not (tmp_path / "out").exists()
    assert GemModel.from_pretrained(result.candidate).fingerprint
    facts = json.loads(json.dumps(result.to_dict()))
    assert facts["kept"] is False
    assert facts["before"]["ndcg10"] >= facts["after"]["ndcg10"]


def test_nothing_of_a_held_out_chunk_is_trained_on(docs, checkpoint, tmp_path, monkeypatch):
    seen = {}

    def look(candidate, material):
        seen["held"] = {material.texts[i] for i in material.held_out.chunks}
        return material.before

    monkeypatch.setattr(module, "measure", look)
    result = run(docs, checkpoint, tmp_path)
    lines = (tmp_path / "out.adapt" / "rows.jsonl").read_text().splitlines()
    trained_on = {row.get("positive") or row["text"] for row in map(json.loads, lines)}
    assert len(seen["held"]) == result.held_out_chunks == 5
    assert trained_on
    assert not trained_on & seen["held"]
    assert result.questions_used == sum("query" in json.loads(line) for line in lines)


def test_an_interrupted_call_goes_on(docs, checkpoint, tmp_path, monkeypatch, written):
    monkeypatch.setattr(module, "measure", found_first)
    whole = tmp_path / "whole"
    adapt([docs], whole, model=checkpoint, **OPTIONS)
    asked, step, steps = len(written), Trainer.train_step, []

    def interrupted(self):
        steps.append(self.step)
        if len(steps) == 4:
            raise KeyboardInterrupt
        return step(self)

    monkeypatch.setattr(Trainer, "train_step", interrupted)
    monkeypatch.setattr(module, "CHECKPOINT_EVERY", 2)
    with pytest.raises(KeyboardInterrupt):
        run(docs, checkpoint, tmp_path)
    assert run(docs, checkpoint, tmp_path).kept
    assert steps == [0, 1, 2, 3, 2, 3]  # goes on from the state of step 2
    assert len(written) == 2 * asked  # the second call of `out` wrote none
    for name in ("adapter_model.safetensors", "special_tokens.safetensors"):
        assert (tmp_path / "out" / name).read_bytes() == (whole / name).read_bytes()


def test_a_shallow_checkpoint_its_output_among_the_documents(
    docs, base_folder, tmp_path, monkeypatch
):
    monkeypatch.setattr(module, "measure", found_first)
    monkeypatch.setattr(module, "CHECKPOINT_EVERY", 1)
    for page in docs.glob("*.md"):  # as text out of a PDF has it
        page.write_text(page.read_text().replace(".", "\u2028and so on."))
    adapter = AdapterConfig(rank=2, alpha=4)
    model = create(base_folder, num_special_tokens=2, embed_layers=1, adapter=adapter)
    start = model.save_pretrained(tmp_path / "shallow")
    step, steps = Trainer.train_step, []

    def interrupted(self):
        steps.append(self.step)
        if len(steps) == 2:
            raise KeyboardInterrupt
        return step(self)

    monkeypatch.setattr(Trainer, "train_step", interrupted)
    with pytest.raises(KeyboardInterrupt):
        adapt([docs], docs / "model", model=start, **OPTIONS)
    result = adapt([docs], docs / "model", model=start, **OPTIONS)
    assert (result.kept, result.chunks) == (True, 25)
    assert steps == [0, 1, 1, 2, 3]
    assert "\u2028" in (docs / "model.adapt" / "rows.jsonl").read_text(encoding="utf-8")
    assert GemModel.from_pretrained(docs / "model").parts.embed_layers == 1


def test_another_plan_starts_again(docs, checkpoint, tmp_path, monkeypatch, written):
    monkeypatch.setattr(module, "measure", found_last)
    assert run(docs, checkpoint, tmp_path).steps == 4
    asked = len(written)
    assert run(docs, checkpoint, tmp_path, steps=2).steps == 2
    assert len(written) == asked


def test_minutes_become_steps(docs, checkpoint, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "measure", found_last)
    monkeypatch.setattr(module, "seconds_per_step", lambda config, show: 2.0)
    assert run(docs, checkpoint, tmp_path, steps=None, minutes=0.2).steps == 6


def test_steps_are_timed(docs, checkpoint, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "measure", found_last)
    times = []
    timed = module.seconds_per_step
    monkeypatch.setattr(module, "seconds_per_step", lambda *a: times.append(timed(*a)) or 1e9)
    assert run(docs, checkpoint, tmp_path, steps=None, minutes=1).steps == 1
    assert 0 < times[0] < 60


def test_the_verdict_needs_more_than_chance(docs, checkpoint, tmp_path, monkeypatch):
    def one_better(candidate, material):
        after = material.before.clone()
        after[0] = 0
        return after

    monkeypatch.setattr(module, "measure", one_better)
    result = run(docs, checkpoint, tmp_path)
    assert result.verdict.gain >= 0
    assert result.verdict.low <= 0
    assert not result.kept


def test_errors_say_what_is_needed(docs, checkpoint, tmp_path, monkeypatch):
    model = GemModel.from_pretrained(checkpoint)
    few = tmp_path / "few.txt"
    few.write_text("Rivers run to the sea, and the kettle has a warranty of seven long years.")
    with pytest.raises(GemError, match=r"found 1 chunks .* needs 20"):
        read_chunks([few], model, 48)
    empty = tmp_path / "empty"
    empty.mkdir()
    with pytest.raises(GemError, match="no text"):
        read_chunks([empty], model, 48)
    (empty / "bad.txt").write_bytes(bytes(range(256)))
    with pytest.raises(GemError, match=r"bad\.txt"):
        read_chunks([empty], model, 48)
    (tmp_path / "out").mkdir()
    with pytest.raises(GemError, match="exists already"):
        run(docs, checkpoint, tmp_path)
    with pytest.raises(GemError, match="one of them"):
        run(docs, checkpoint, tmp_path, minutes=1.0)
    monkeypatch.setattr(preflight, "find_spec", lambda name: None)
    with pytest.raises(MissingExtraError, match=r"gem-rag\[train\]"):
        run(docs, checkpoint, tmp_path)


def test_a_model_that_writes_nothing_is_an_error(docs, checkpoint, tmp_path, monkeypatch):
    monkeypatch.setattr(questions, "write_questions", lambda *a, **k: iter(()))
    with pytest.raises(GemError, match="the model wrote 0 questions to measure on"):
        run(docs, checkpoint, tmp_path)


def test_other_scopes_are_refused_at_once(docs, base_folder, tmp_path, written):
    other = create(base_folder, adapter_scope="always").save_pretrained(tmp_path / "always")
    with pytest.raises(GemError, match="adapting needs 'tokens'"):
        run(docs, other, tmp_path)
    assert not written


def test_rows_of_questions_are_chosen_together():
    asked = Asked(["a", "b", "c"], [0, 0, 4]).only([2, 0])
    assert (asked.questions, asked.chunks) == (["c", "a"], [4, 0])
