"""The trainer on a tiny base: it learns, repeats, resumes, and leaves the base alone."""

import errno
import json
import math
import random
import re
import shutil
from collections import ChainMap
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from tiny import FAMILIES, WORDS, disturb, make_base

from gem_rag.checkpoints.fingerprint import weights_hash
from gem_rag.errors import GemError
from gem_rag.model import GemModel, create
from gem_rag_train import TrainConfig, train
from gem_rag_train.data.batches import same_source
from gem_rag_train.data.mix import Pool, TrainingMix
from gem_rag_train.data.pairs import (
    WHO,
    Pair,
    cloze,
    crop,
    drop_words,
    exchange_word,
    phrase,
    sentences,
)
from gem_rag_train.data.tasks import PROSE, sources_of
from gem_rag_train.kept.readings import KeptReadings
from gem_rag_train.loop import prepare as preparing
from gem_rag_train.loop import start
from gem_rag_train.loop import trainer as module
from gem_rag_train.loop.grouped import use_grouped_attention
from gem_rag_train.loop.prepare import prepare
from gem_rag_train.loop.schedule import rate
from gem_rag_train.loop.start import new_model
from gem_rag_train.loop.trainer import Trainer
from gem_rag_train.material import questions
from gem_rag_train.material.questions import as_question, found_again, written_pairs
from gem_rag_train.objectives import contrastive
from gem_rag_train.objectives.losses import (
    LOG_SCALE_START,
    Rotation,
    alignment,
    distillation,
    info_nce,
    neighbourhood,
)
from gem_rag_train.objectives.teacher import Teacher
from gem_rag_train.objectives.whitening import half_whitening


class TinyMix:
    """Pairs made of the same few words, by seed and step."""

    def __init__(self, shares, prose, *, seed, batch_size):
        self.seed, self.size = seed, batch_size

    def batch(self, step, size=None):
        rng = random.Random(f"{self.seed}:{step}")
        words = WORDS.split()
        pairs = []
        for i in range(size or self.size):
            some = rng.sample(words, 6)
            kind = "query_document" if i % 2 else "document_document"
            pairs.append(Pair(" ".join(some[:4]), " ".join(some[2:]), kind, str(i)))
        return pairs

    def draw(self, count):
        return self.batch(0, count)


@pytest.fixture
def config(base_folder, tmp_path, monkeypatch):
    monkeypatch.setattr(start, "TrainingMix", TinyMix)
    monkeypatch.setattr(module, "write_report", lambda run, checkpoint: None)
    import gem_rag_train.monitor.card as card

    monkeypatch.setattr(card, "sources_of", lambda shares, prose: [])
    return TrainConfig(
        base=str(base_folder),
        output=str(tmp_path / "out"),
        steps=6,
        batch_size=8,
        learning_rate=5e-3,
        warmup_steps=1,
        checkpoint_every=2,
        num_special_tokens=2,
        adapter_rank=4,
        query_instruction=" Who?",
    )


def with_output(config, path, **changes):
    return replace(config, output=str(path), **changes)


def test_it_learns_and_writes_a_checkpoint_that_loads(config, base_folder):
    before = weights_hash(base_folder)
    folder = train(with_output(config, config.output, steps=30))
    log = [json.loads(line) for line in Path(f"{config.output}.run/log.jsonl").open()]
    assert len(log) == 30
    assert np.mean([r["loss"] for r in log[-5:]]) < 0.8 * np.mean([r["loss"] for r in log[:5]])
    model = GemModel.from_pretrained(folder)
    assert model.embed_documents(["a"]).shape == (1, model.dim)
    assert weights_hash(base_folder) == before
    card = (folder / "README.md").read_text()
    assert "steps = 30" in card
    assert TrainConfig.from_recipe(folder / "recipe.toml") == with_output(
        config, config.output, steps=30
    )


def test_the_base_is_not_touched(config):
    trainer = Trainer(config, resume=False)
    before = {n: p.clone() for n, p in trainer.model.base.model.named_parameters()}
    trainer.train_step()
    after = dict(trainer.model.base.model.named_parameters())
    assert all(torch.equal(before[n], after[n]) for n in before)
    assert not any(p.requires_grad for p in after.values())
    assert all(p.grad is not None for p in trainer.model.parts.parameters())


def test_one_seed_gives_one_checkpoint(config, tmp_path):
    one = train(with_output(config, tmp_path / "one"))
    two = train(with_output(config, tmp_path / "two"))
    other = train(with_output(config, tmp_path / "other", seed=1))
    for name in ("adapter_model.safetensors", "special_tokens.safetensors"):
        assert (one / name).read_bytes() == (two / name).read_bytes()
        assert (one / name).read_bytes() != (other / name).read_bytes()


@pytest.mark.parametrize(("stop_at", "cycles"), [(1, 1), (3, 1), (4, 1), (5, 2)])
def test_an_interrupted_run_resumes_to_the_same_weights(
    config, tmp_path, monkeypatch, stop_at, cycles
):
    config = replace(config, cycles=cycles)
    whole = train(with_output(config, tmp_path / "whole"))
    broken = with_output(config, tmp_path / "broken")
    step = Trainer.train_step

    def interrupted(self):
        if self.step == stop_at:
            raise KeyboardInterrupt
        return step(self)

    monkeypatch.setattr(Trainer, "train_step", interrupted)
    with pytest.raises(KeyboardInterrupt):
        train(broken)
    monkeypatch.setattr(Trainer, "train_step", step)
    saved = stop_at >= config.checkpoint_every
    if not saved:  # say so; starting again is allowed
        with pytest.raises(GemError, match="nothing to resume"):
            train(broken, resume=True)
    resumed = train(broken, resume=saved)
    for name in ("adapter_model.safetensors", "special_tokens.safetensors"):
        assert (resumed / name).read_bytes() == (whole / name).read_bytes()
    steps = [json.loads(line)["step"] for line in (tmp_path / "broken.run" / "log.jsonl").open()]
    assert steps == [1, 2, 3, 4, 5, 6]


@pytest.mark.parametrize(("steps", "at"), [(6, (2, 4, 6)), (8, (2, 4, 8)), (2, (1, 2))])
def test_a_checkpoint_is_the_mean_of_its_cycles_ends(config, steps, at):
    trainer = Trainer(replace(config, steps=steps, cycles=3), resume=False)
    ends, train_step = [], trainer.train_step

    def step():
        facts = train_step()
        if trainer.step in at:
            ends.append([w.detach().clone() for w in trainer.model.parts.parameters()])
        return facts

    trainer.train_step = step
    written = list(GemModel.from_pretrained(trainer.run()).parts.parameters())
    for *of_cycles, mean in zip(*ends, written, strict=True):
        assert not torch.equal(of_cycles[0], of_cycles[-1])
        expected = sum(of_cycles) / len(at)
        torch.testing.assert_close(mean, expected, rtol=2e-3, atol=1e-5)  # kept in fp16


def test_a_run_is_not_overwritten_or_resumed_by_another_recipe(config):
    train(config)
    with pytest.raises(GemError, match="--resume"):
        train(config)
    with pytest.raises(GemError, match="learning_rate"):
        train(with_output(config, config.output, learning_rate=1.0), resume=True)


def test_a_loss_that_is_not_finite_stops_the_run(config, monkeypatch):
    monkeypatch.setattr(contrastive, "info_nce", lambda *a, **k: torch.tensor(math.nan))
    with pytest.raises(GemError, match=r"nan at step 0"):
        train(config)


def test_training_and_embedding_are_one_forward(config):
    trainer = Trainer(config, resume=False)
    texts = [(f"Rivers run {i} " * (i + 1), "document") for i in range(5)]
    with torch.no_grad():
        vectors = trainer.embedder.embed(texts)
    expected = trainer.model.embed_documents([t for t, _ in texts])
    np.testing.assert_allclose(vectors.numpy(), expected, rtol=0, atol=1e-4)


def test_info_nce_is_the_mean_of_two_cross_entropies():
    torch.manual_seed(0)
    a, b = (torch.nn.functional.normalize(torch.randn(5, 8), dim=-1) for _ in range(2))
    scale = torch.tensor(LOG_SCALE_START)
    scores = (20 * a @ b.T).double().numpy()

    def nll(rows):
        return -np.mean([rows[i, i] - np.log(np.exp(rows[i]).sum()) for i in range(5)])

    expected = (nll(scores) + nll(scores.T)) / 2
    assert info_nce(a, b, scale).item() == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("instruction", [" Who wrote this?", " Who? {query}"])
def test_kept_readings_give_what_reading_afresh_gives(base_folder, tmp_path, instruction):
    gem = disturb(create(base_folder, query_instruction=instruction))
    texts = ["Rivers run to the sea.", "Who?", "The kettle has a warranty of seven years. " * 3]
    tokenized = gem.codec.encode_texts(texts, 20)
    ids = [t.ids for t in tokenized]
    both = [(i, task) for i in ids for task in ("query", "document")]
    kept = KeptReadings(gem, tmp_path, most_bytes=10**9)
    kept.add("first", both[:2])
    kept.add("second", both)  # only what is new is read
    assert kept.tokens == sum(len(i) + len(gem.embedder.with_instruction(i, "query")) for i in ids)
    for task in ("query", "document"):
        fresh = gem.embedder.forward_texts([ids[2], ids[0]], task)
        again = kept.forward_texts([ids[2], ids[0]], task)
        torch.testing.assert_close(again, fresh, atol=2e-3, rtol=0)
    [read] = gem.read(texts[:1])
    reading = kept.reading(texts[0], tokenized[0])
    assert torch.equal(reading.ids, read.ids)
    np.testing.assert_allclose(reading.embed(), read.embed(), atol=2e-3)


def test_readings_in_bfloat16_are_nearly_the_same_and_not_mistaken_for_the_others(gem, tmp_path):
    ids = [t.ids for t in gem.codec.encode_texts(["Rivers run to the sea."] * 2, 20)]
    coarse = KeptReadings(gem, tmp_path, most_bytes=10**9, precision="bf16")
    coarse.add("texts", [(ids[0], "document")])
    rough = coarse.forward_texts(ids, "document")
    fine = KeptReadings(gem, tmp_path, most_bytes=10**9)
    fine.add("texts", [(ids[0], "document")])
    exact = fine.forward_texts(ids, "document")
    assert not torch.equal(rough, exact)
    torch.testing.assert_close(rough, exact, atol=2e-2, rtol=0)


def test_readings_without_room_are_refused_before_anything_is_read(
    config, gem, tmp_path, monkeypatch
):
    folder = tmp_path / "kept"
    config = replace(config, adapter_scope="tokens", examples=8, readings=str(folder))

    def fails(match, **changes):
        with pytest.raises(GemError, match=match):
            prepare(replace(config, **changes), gem, TinyMix({}, {}, seed=0, batch_size=4), None)
        assert all(file.suffix == ".lock" for file in folder.glob("*"))

    fails("raise kept_gigabytes", kept_gigabytes=1e-6)
    monkeypatch.setattr("shutil.disk_usage", lambda _: shutil._ntuple_diskusage(10, 10, 0))
    fails("0.0 GB free; lower examples .*set readings")
    monkeypatch.undo()

    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("os.posix_fallocate", full, raising=False)  # filled up meanwhile
    fails("No space left on device; free some")


@pytest.mark.parametrize("family", FAMILIES)
def test_grouped_attention_is_the_bases_own(family, tmp_path):
    model = disturb(create(make_base(tmp_path, family), num_special_tokens=2))
    ids = [t.ids for t in model.codec.encode_texts(["Rivers run to the sea.", "Who?"], 20)]
    outputs = []
    for _ in range(2):
        vectors = model.embedder.forward_texts(ids, "document")
        vectors[0, 0].backward()
        outputs.append((vectors.detach(), model.parts.special_vectors.grad))
        model.parts.special_vectors.grad = None
        use_grouped_attention(model.base)
    for own, grouped in zip(*outputs, strict=True):
        torch.testing.assert_close(grouped, own, atol=1e-5, rtol=1e-4)


def test_kept_readings_are_made_once_and_bounded(gem, tmp_path):
    texts = [(t.ids, "document") for t in gem.codec.encode_texts(["One.", "Two two."], 20)]
    KeptReadings(gem, tmp_path, most_bytes=10**9).add("texts", texts)
    made = (tmp_path / "texts.f16").stat().st_mtime_ns
    KeptReadings(gem, tmp_path, most_bytes=10**9).add("texts", texts)
    assert (tmp_path / "texts.f16").stat().st_mtime_ns == made
    KeptReadings(gem, tmp_path, most_bytes=10**9).add("texts", texts[:1])
    assert (tmp_path / "texts.f16").stat().st_mtime_ns != made
    with pytest.raises(GemError, match="lower examples"):
        KeptReadings(gem, tmp_path, most_bytes=10).add("texts", texts)


def test_readings_that_float16_cannot_hold_are_refused(base_folder, tmp_path):
    loud = create(base_folder, forward="transformers")  # its weights are changed
    for layer in loud.base.blocks:
        layer.self_attn.k_proj.weight.data *= 1e7
    with pytest.raises(GemError, match="beyond what float16 holds"):
        KeptReadings(loud, tmp_path, most_bytes=10**9).add("texts", [((5, 6), "document")])
    assert not list(tmp_path.glob("*.unfinished"))


def test_readings_in_use_survive_another_runs(gem, tmp_path):
    first, second = (KeptReadings(gem, tmp_path, most_bytes=10**9) for _ in range(2))
    mine, theirs = ([t.ids for t in gem.codec.encode_texts([x * 9], 20)] for x in ("a b ", "c d "))
    first.add("texts", [(mine[0], "document")])
    before = first.forward_texts(mine, "document")
    second.add("texts", [(theirs[0], "document")])
    assert torch.equal(first.forward_texts(mine, "document"), before)


def test_a_run_on_kept_readings_resumes_to_the_same_weights(config, tmp_path, monkeypatch):
    pooled = with_output(config, tmp_path / "whole", examples=16, steps=5)
    whole = GemModel.from_pretrained(train(pooled))
    cut = with_output(pooled, tmp_path / "cut")
    step = Trainer.train_step

    def stops(self):
        if self.step == 3:
            raise KeyboardInterrupt
        return step(self)

    monkeypatch.setattr(Trainer, "train_step", stops)
    with pytest.raises(KeyboardInterrupt):
        train(cut)
    monkeypatch.setattr(Trainer, "train_step", step)
    again = GemModel.from_pretrained(train(cut, resume=True))
    for a, b in zip(whole.parts.parameters(), again.parts.parameters(), strict=True):
        assert torch.equal(a, b)


def test_a_pool_is_gone_through_in_epochs():
    pairs = TinyMix({}, {}, seed=0, batch_size=4).draw(12)
    pool = Pool(pairs, seed=0, batch_size=4)
    seen = [p.group for step in range(3) for p in pool.batch(step)]
    assert sorted(seen) == sorted(p.group for p in pairs)
    assert [p.group for step in range(3, 6) for p in pool.batch(step)] != seen
    assert pool.batch(5) == pool.batch(5)


def test_batches_of_neighbours_hold_what_is_near():
    angles = torch.arange(12) // 3 * torch.pi / 4  # four places, three texts at each
    vectors = torch.stack([angles.cos(), angles.sin()], 1)
    pairs = [Pair("q", str(i), "query_document", str(i)) for i in range(12)]
    pool = Pool(pairs, seed=0, batch_size=6, vectors=vectors, neighbours=3)
    for step in range(4):
        places = [int(p.second) // 3 for p in pool.batch(step)]
        assert sorted(places) == sorted(3 * list(dict.fromkeys(places)))
    order = [int(p.second) for step in range(2) for p in pool.batch(step)]
    assert sorted(order) == list(range(12))


def test_written_questions_are_questions_made_once(gem, tmp_path, monkeypatch):
    pairs = [Pair("a", "Rivers run to the sea. " * 8, "document_document", "r")] * 2
    kept = KeptReadings(gem, tmp_path, most_bytes=10**9)
    tokenized = gem.codec.encode_texts([pairs[0].second], 20)
    kept.add("pairs", [(tokenized[0].ids, "document")])
    options = {"max_length": 20, "seed": 0}
    monkeypatch.setattr(questions, "as_question", lambda text, _: f"Is it {len(text)} long?")
    written = written_pairs(gem, pairs, 4, kept, tmp_path, **options)
    assert {(p.second, p.group, p.kind) for p in written} == {
        (pairs[0].second, "r", "query_document")
    }
    monkeypatch.setattr(questions, "write_questions", None)  # not called again
    assert written_pairs(gem, pairs, 4, kept, tmp_path, **options) == written


def test_without_a_teacher_the_checkpoint_it_starts_from_judges_written_questions(
    config, gem, tmp_path, monkeypatch
):
    gem.save_pretrained(tmp_path / "start")
    words = WORDS.split()
    passages = [" ".join(random.Random(i).sample(words, 5)) for i in range(20)]
    written = [Pair(p.split()[0], p, "query_document", p) for p in passages]
    monkeypatch.setattr(preparing, "written_pairs", lambda *_, **__: list(written))
    vectors = gem.embed_queries([p.first for p in written]), gem.embed_documents(passages)
    found = found_again(*map(torch.from_numpy, vectors), range(20), top=3)
    assert 0 < sum(found) < 20

    def kept(**changes):
        settings = {"examples": 8, "written_questions": 20, "readings": str(tmp_path / "kept")}
        settings |= {"adapter_scope": "tokens", "output": str(tmp_path / "out")} | changes
        mix = TinyMix({}, {}, seed=0, batch_size=4)
        return prepare(replace(config, **settings), gem, mix, None)[0].pairs[8:]

    chosen = [p for p, ok in zip(written, found, strict=True) if ok]
    assert kept(start_from=str(tmp_path / "start")) == chosen
    assert kept() == written  # untrained, nobody can judge


def test_a_question_is_tidy_or_nothing():
    assert as_question(' "Where do rivers run to', "stop") == "Where do rivers run to?"
    assert as_question("Where do rivers run to", "length") == ""
    assert as_question("Yes", "stop") == ""


def test_a_sentence_without_words_is_no_question():
    assert cloze('".', random.Random(0)) == ""


def test_questions_that_do_not_lead_back_are_known():
    passages = torch.eye(3)
    asked = torch.tensor([[1.0, 0, 0], [0.1, 0.2, 0.9]])
    assert found_again(asked, passages, [0, 0], top=1) == [True, False]
    assert found_again(asked, passages, [0, 0], top=3) == [True, True]
    alike = torch.ones(3, 3)
    assert found_again(asked, alike, [0, 0], top=2) == [False, False]


def test_near_texts_are_no_negatives_by_the_teacher(config, monkeypatch):
    class Fixed:
        def __init__(self, name):
            pass

        def embed(self, texts):
            return torch.stack(
                [torch.tensor([1.0, 0.0] if "x" in t else [0.0, 1.0]) for t in texts]
            )

    monkeypatch.setattr(module, "Teacher", Fixed)
    trainer = Trainer(with_output(config, config.output, teacher="t"), resume=False)
    texts = (("x1", "x2"), ("x3", "x4"), ("y1", "y2"))
    pairs = [Pair(a, b, "document_document", a) for a, b in texts]
    same = trainer.losses.no_negatives(pairs)
    assert same.tolist() == [[True, True, False], [True, True, False], [False, False, True]]


def test_a_student_equal_to_its_teacher_loses_nothing():
    vectors = torch.nn.functional.normalize(torch.randn(6, 8), dim=1)
    assert float(distillation(vectors, vectors, 0.05)) == pytest.approx(0, abs=1e-6)
    other = torch.nn.functional.normalize(torch.randn(6, 8), dim=1)
    assert float(distillation(vectors, other, 0.05)) > 0.1


def unit(*shape):
    return torch.nn.functional.normalize(torch.randn(*shape), dim=-1)


def turned(size, teacher_size):
    """The same 64 vectors in two spaces with other axes."""
    torch.manual_seed(0)
    wide = unit(64, min(size, teacher_size))
    return (
        torch.nn.functional.pad(wide, (0, n - wide.shape[1]))
        @ torch.linalg.qr(torch.randn(n, n))[0]
        for n in (size, teacher_size)
    )


@pytest.mark.parametrize(("size", "teacher_size"), [(8, 5), (8, 8), (5, 8)])
def test_the_teachers_space_is_turned_onto_the_students(size, teacher_size):
    student, teacher = turned(size, teacher_size)
    places = torch.arange(64)

    def losses(student):
        rotation = Rotation(size, teacher_size)(student, teacher)
        near = neighbourhood(student, teacher, rotation, teacher, places, 0.1)
        return float(alignment(student, teacher, rotation)), float(near)

    assert losses(student) == pytest.approx((0, 0), abs=1e-5)
    for found in losses(unit(64, size)):
        assert found > 0.3


def test_a_text_is_no_neighbour_of_itself():
    axes, text, moved = (
        torch.eye(3),
        torch.tensor([[1.0, 0.6, 0.0]]),
        torch.tensor([[0.2, 0.6, 0.0]]),
    )
    for place, other in ((0, False), (2, True)):  # they differ in the first direction alone
        loss = neighbourhood(moved, text, axes, axes, torch.tensor([place]), 0.1)
        assert (float(loss) > 0.1) == other


def test_a_run_learns_the_teachers_neighbours_among_all_its_texts(config, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "Teacher", Remembering)
    options = {"teacher": "x", "contrastive": 0.0, "neighbourhood": 2.0}
    taught = with_output(config, tmp_path / "t", examples=12, **options)
    train(taught)
    log = [json.loads(line) for line in Path(f"{taught.output}.run/log.jsonl").open()]
    assert log[0]["loss"] == pytest.approx(2 * log[0]["neighbourhood"], rel=1e-4)
    assert log[-1]["neighbourhood"] < log[0]["neighbourhood"]
    with pytest.raises(GemError, match="compares with all examples"):
        with_output(taught, tmp_path / "u", examples=0)


class WordCounts:
    """A teacher that looks at letters."""

    dim = 3

    def __init__(self, name):
        pass

    def forget(self):
        pass

    def embed(self, texts):
        rows = [torch.tensor([len(t), t.count("e"), 1.0]) for t in texts]
        return torch.nn.functional.normalize(torch.stack(rows), dim=1)


class Remembering(Teacher):
    """The real one but for its vectors, which it counts."""

    dim = 3

    def __init__(self, weights):
        self.weights, self._max_length, self.embedded = weights, 8, 0
        self._known = ChainMap({}, {})

    def _embed(self, texts):
        self.embedded += len(texts)
        return WordCounts("x").embed(texts)


def test_a_teachers_vectors_are_kept(tmp_path):
    file, texts = tmp_path / "kept" / "teacher.safetensors", ["one", "three", "one"]
    first = Remembering("t")
    first.keep(texts, file)
    again = Remembering("t")
    again.keep(texts, file)
    assert (first.embedded, again.embedded) == (2, 0)
    assert torch.equal(first.embed(texts), again.embed(texts))
    again.embed(["two"])
    again.forget()
    again.embed([*texts, "two"])
    assert again.embedded == 2  # what is kept is known still
    for other, wanted in ((Remembering("u"), texts), (Remembering("t"), ["two"])):
        other.keep(wanted, file)
        assert other.embedded == len(set(wanted))


def test_a_teacher_that_is_none_or_is_not_mean_pooled_is_refused(tmp_path):
    with pytest.raises(GemError, match="no teacher 'no/such/teacher'"):
        Teacher("no/such/teacher")
    folder = tmp_path / "encoder"
    make_base(folder)
    assert Teacher(str(folder)).embed(["a text"]).shape == (1, Teacher(str(folder)).dim)
    (folder / "1_Pooling").mkdir()
    pooling = folder / "1_Pooling" / "config.json"
    for facts, fits in (
        ('{"pooling_mode_cls_token": true, "pooling_mode_mean_tokens": false}', False),
        ('{"pooling_mode_cls_token": false, "pooling_mode_mean_tokens": true}', True),
        ('{"pooling_mode": "lasttoken"}', False),
        ('{"pooling_mode": ["mean"], "include_prompt": true}', True),
    ):
        pooling.write_text(facts)
        with nullcontext() if fits else pytest.raises(GemError, match="its tokens' mean"):
            Teacher(str(folder))


def test_a_teacher_takes_part_in_the_loss(config, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "Teacher", WordCounts)
    taught = with_output(
        config, tmp_path / "t", teacher="x", distillation=2.0, alignment=3.0, contrastive=0.5
    )
    train(taught)
    log = [json.loads(line) for line in Path(f"{taught.output}.run/log.jsonl").open()]
    line = log[0]
    expected = 0.5 * line["contrastive"] + 2 * line["distillation"] + 3 * line["alignment"]
    assert line["loss"] == pytest.approx(expected, rel=1e-4)
    for name in ("distillation", "alignment", "neighbourhood"):
        with pytest.raises(GemError, match=f"no teacher, but {name} above 0"):
            with_output(config, tmp_path / "u", **{name: 1.0})


def test_a_teacher_says_where_hard_negatives_lie(config, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "Teacher", WordCounts)
    trainer = Trainer(with_output(config, tmp_path / "n", teacher="x", alignment=1.0), resume=False)
    taught = []
    trainer.rotation.register_forward_pre_hook(lambda _, vectors: taught.append(vectors[1]))
    pairs = [
        Pair("a", "be", "document_document", "1", ("hard, else",)),
        Pair("see", "dee", "document_document", "2"),
    ]
    trainer.contrastive.backward(pairs, 1.0)
    expected = WordCounts("x").embed(["a", "see", "be", "dee", "hard, else"])
    assert torch.equal(taught[0], expected)


def test_a_run_with_a_teacher_resumes_to_the_same_weights(config, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "Teacher", WordCounts)
    taught = with_output(config, tmp_path / "whole", teacher="x", alignment=3.0)
    whole = GemModel.from_pretrained(train(taught))
    cut = with_output(taught, tmp_path / "cut")
    trainer = Trainer(cut, resume=False)
    for _ in range(3):
        trainer.train_step()
    trainer._save()
    assert GemModel.from_pretrained(train(cut, resume=True)).fingerprint == whole.fingerprint


@pytest.mark.parametrize("scope", ["tokens", "embedding", "always"])
def test_a_run_goes_on_from_an_earlier_checkpoint(config, tmp_path, scope):
    config = with_output(config, tmp_path / "a", adapter_scope=scope)
    first = train(config)
    second = Trainer(with_output(config, tmp_path / "b", start_from=str(first)), resume=False)
    earlier = GemModel.from_pretrained(first)
    assert second.model.fingerprint == earlier.fingerprint
    trained = GemModel.from_pretrained(second.run(show_progress=False))
    assert trained.fingerprint != earlier.fingerprint
    assert earlier.fingerprint == GemModel.from_pretrained(first).fingerprint
    for name, other in (("num_special_tokens", 9), ("embed_layers", 1), ("pooling", "concat")):
        with pytest.raises(GemError, match=rf"differs from the recipe in \['{name}'\]"):
            new_model(replace(second.config, **{name: other}))


def test_half_a_whitening_brings_large_variances_half_the_way_down():
    generator = torch.Generator().manual_seed(0)
    sizes = torch.tensor([9.0, 3.0, 1.0, 1.0, 0.5, 0.1])
    turned = torch.linalg.qr(torch.randn(6, 6, generator=generator))[0]
    vectors = torch.randn(20_000, 6, generator=generator) * sizes.sqrt() @ turned.T + 5
    found = half_whitening(vectors, most=4)
    assert found.shape == (6, 2)  # the others vary less than the mean
    after = (vectors - vectors @ found @ found.T).T.cov().double()
    middle = sizes.mean()
    expected = torch.tensor([(9 * middle) ** 0.5, (3 * middle) ** 0.5, *sizes[2:]]).double()
    torch.testing.assert_close(torch.linalg.eigvalsh(after).flip(0), expected, rtol=0.05, atol=0)
    assert half_whitening(vectors, most=1).shape == (6, 1)


def test_a_run_whitens_what_it_trained_and_one_that_goes_on_keeps_it(config, tmp_path):
    config = with_output(config, tmp_path / "a", steps=16)
    plain = GemModel.from_pretrained(train(config))
    whitened = GemModel.from_pretrained(train(with_output(config, tmp_path / "b", whitening=4)))
    assert plain.parts.whitening.shape[1] == 0 < whitened.parts.whitening.shape[1] <= 4
    for a, b in zip(plain.parts.parameters(), whitened.parts.parameters(), strict=True):
        assert torch.equal(a, b)  # training itself is the same
    on = with_output(config, tmp_path / "c", start_from=str(tmp_path / "b"), steps=1)
    later = GemModel.from_pretrained(train(on))
    assert torch.equal(later.parts.whitening, whitened.parts.whitening)
    with pytest.warns(UserWarning, match="no whitening: the run has"):
        train(with_output(config, tmp_path / "d", whitening=4, steps=1))


def test_rows_of_one_source_are_no_negatives():
    a = torch.nn.functional.normalize(torch.randn(4, 8), dim=-1)
    pairs = [Pair(f"x{i}", f"y{i}", "document_document", g) for i, g in enumerate("ABBC")]
    same = same_source(pairs)
    assert same.tolist()[1] == [False, True, True, False]
    again = Pair("x1", "y4", "query_document", "D", ("hard",))  # the same question, another answer
    assert same_source([*pairs, again]).tolist()[1] == [False, True, True, False, True, False]
    scale = torch.tensor(LOG_SCALE_START)
    moved = a.clone()
    moved[2] = a[1]  # what would have been the hardest negative
    gap = info_nce(a, moved, scale, same=same) - info_nce(a, moved, scale)
    assert gap < 0


def test_the_rate_warms_up_and_falls_to_zero(config):
    rates = [rate(step, config) for step in range(config.steps + 1)]
    assert rates[0] < rates[1] == max(rates)
    assert rates[-1] == pytest.approx(0)


def test_recipes(tmp_path):
    default = TrainConfig.from_recipe("default")
    assert default.base == "embedded:smollm2-135m-instruct"
    changed = TrainConfig.from_recipe("default", {"steps": "7", "output": "x", "pooling": "concat"})
    assert (changed.steps, changed.output, changed.pooling) == (7, "x", "concat")
    with pytest.raises(GemError, match="no recipe 'none'"):
        TrainConfig.from_recipe("none")
    with pytest.raises(GemError, match="stepz"):
        TrainConfig.from_recipe("default", {"stepz": "7"})
    with pytest.raises(GemError, match="batch_size"):
        TrainConfig(batch_size=1)


def test_settings_of_another_kind_are_refused_or_understood(tmp_path):
    def recipe(**settings):
        return TrainConfig.from_recipe("default", settings)

    assert recipe(tensorboard="False").tensorboard is False
    assert recipe(tensorboard="true").tensorboard is True
    assert recipe(output="2024").output == "2024"
    assert recipe(output='"my runs"').output == "my runs"
    assert recipe(data_files="faq.jsonl").data_files == ("faq.jsonl",)
    assert recipe(adapter_targets='["q_proj", "v_proj"]').adapter_targets == ("q_proj", "v_proj")
    assert recipe(learning_rate="1").learning_rate == 1
    for name, text, expected in (
        ("steps", "abc", "a whole number"),
        ("steps", "1.5", "a whole number"),
        ("learning_rate", "fast", "a number"),
        ("tensorboard", "yes", "true or false"),
        ("adapter_targets", "[1]", "list of texts"),
        ("data_files", "2024", "list of texts"),
        ("shares", "3", "a table of numbers"),
    ):
        with pytest.raises(GemError, match=f"{name} is .*; expected .*{expected}"):
            recipe(**{name: text})
    with pytest.raises(GemError, match="written_questions are about the passages of examples"):
        TrainConfig(written_questions=5)
    with pytest.raises(GemError, match="so is every other loss"):
        TrainConfig(contrastive=0.0)
    for setting in ("ranker_temperature", "neighbourhood_temperature"):
        with pytest.raises(GemError, match=f"{setting} is 0.0; expected above 0"):
            TrainConfig(**{setting: 0.0})
    for setting in ("learning_rate", "heldout_passages", "written_questions"):
        with pytest.raises(GemError, match=f"{setting} is -1.*; expected >= 0"):
            TrainConfig(**{setting: -1})
    broken = tmp_path / "broken.toml"
    broken.write_text("steps =")
    with pytest.raises(GemError, match=r"broken\.toml is no TOML"):
        TrainConfig.from_recipe(broken)
    assert TrainConfig(output="~/mine").output == str(Path.home() / "mine")
    assert TrainConfig(data_files=("~$notes.md",)).data_files == ("~$notes.md",)
    with pytest.raises(GemError, match="with others it never changes"):
        TrainConfig(best_metric="heldout_ntp_loss", eval_every=5)


def test_text_tools():
    rng = random.Random(0)
    text = "One is here. Two is there! Is three? Yes."
    assert sentences(text) == ["One is here.", "Two is there!", "Is three?", "Yes."]
    assert all(crop(text, rng) in text for _ in range(20))
    assert set(drop_words(text, rng, 0.5).split()) < set(text.split())
    assert drop_words("word", rng, 1.0) == "word"


def test_a_phrase_is_a_few_words_of_the_sentence():
    rng = random.Random(0)
    sentence = "When it rains, all rivers run to the sea; " + "and on and on it goes " * 5
    found = {phrase(sentence, rng) for _ in range(40)}
    assert "all rivers run to the sea" in found
    assert all(p in sentence and 4 <= len(p.split()) <= 14 for p in found)
    assert phrase("Short.", rng) == "Short."


def test_exchanging_a_word_changes_one_word():
    new = exchange_word("the river runs south", "A KETTLE boils", random.Random(0)).split()
    old = ["the", "river", "runs", "south"]
    assert new.count("boils") == 1
    assert sum(a != b for a, b in zip(new, old, strict=True)) == 1
    assert exchange_word("Rome", "boils", random.Random(0)) == "Rome"


def test_a_cloze_asks_for_what_is_missing():
    rng = random.Random(0)
    sentence = "The bridge over the old river was built in 1894 by Anna Berg from 12000 bricks."
    asked = {cloze(sentence, rng) for _ in range(60)}
    assert all(q.endswith("?") and len(q.split()) <= 18 for q in asked)
    when = [q for q in asked if q.startswith("When ")]
    who = [q for q in asked if q.startswith("Who ")]
    assert any("built" in q for q in when)
    assert any("river" in q for q in who)
    assert not any("1894" in q for q in when)
    assert not any("Anna" in q or "Berg" in q for q in who)
    assert any(q.startswith("How many ") and "bricks" in q for q in asked)
    assert cloze("it rains.", rng).startswith(WHO)


@pytest.mark.model
def test_the_real_mix_depends_on_seed_and_step_alone():
    names = ("crops", "questions", "clozes", "titles", "sentences", "phrases", "verses")
    shares = dict.fromkeys(names, 1.0)
    prose = dict.fromkeys(PROSE, 1.0)
    mix = TrainingMix(shares, prose, seed=3, batch_size=32)
    batch = mix.batch(5)
    assert batch == TrainingMix(shares, prose, seed=3, batch_size=32).batch(5)
    assert batch != mix.batch(6)
    assert len({p.group for p in batch}) == 32
    with pytest.raises(GemError, match=r"shares are .* expected shares"):
        TrainingMix({"nothing": 1}, prose, seed=0, batch_size=2)
    with pytest.raises(GemError, match=r"prose are .* expected .*'factbook'"):
        TrainingMix(shares, {"almanac": 1}, seed=0, batch_size=2)


@pytest.mark.model
def test_prose_comes_from_the_sources_with_a_share_and_the_card_names_them():
    mix = TrainingMix({"crops": 1.0}, {"factbook": 1.0, "wikipedia": 0.0}, seed=0, batch_size=32)
    paragraphs = {p.group for p in PROSE["factbook"][1]()}
    assert {pair.group for pair in mix.batch(0)} <= paragraphs
    shares = {"crops": 1, "verses": 1, "titles": 0, "questions": 0}
    named = [s.name for s in sources_of(shares, {"factbook": 1, "bbc": 0})]
    assert named == ["King James Bible", "World English Bible", "The World Factbook"]


@pytest.mark.model
def test_no_dev_passage_is_trained_on():
    from gem_rag_train.data.sources import boolq, web

    for source, least in ((boolq, 7000), (web, 700)):
        train_part = {p.body for p in source("train")}
        assert len(train_part) > least
        assert not train_part & {p.body for p in source("dev")}


@pytest.mark.model
def test_articles_and_the_almanac_are_prose_under_headings():
    from gem_rag_train.data.sources import factbook, wikipedia, wikipedia_starts

    for source, least in ((wikipedia, 4900), (factbook, 6400), (wikipedia_starts, 990)):
        passages = source()
        assert len({p.body for p in passages}) == len(passages) > least
        marked = [p for p in passages if re.search(r"\[\[|\{\{|</?\w+>|&\w+;", p.body)]
        assert len(marked) < len(passages) / 200  # what the articles' authors forgot to close
    articles = {p.title.partition(":")[0] for p in wikipedia()}
    assert {"Aristotle", "Alaska", "Algorithm"} <= articles
    assert "Anarchism" not in articles  # it shares paragraphs with a set that is measured on
    assert "Aristotle: Logic" in {p.title for p in wikipedia()}
    assert any(p.title == "Austria: Climate" for p in factbook())
