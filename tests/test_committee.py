"""Several readings that answer together: rows of one request, one token for all."""

import gc
import time

import numpy as np
import pytest
import torch
from tiny import TEXTS, disturb

from gem_rag.config import AdapterConfig, SkillConfig
from gem_rag.documents import Document
from gem_rag.engine.committee import Committee
from gem_rag.engine.slots import Slots
from gem_rag.errors import ContextLengthError, GemError, ReadingError
from gem_rag.model import create
from gem_rag.rag import GemRAG

ASKED = "Who wrote it?"


@pytest.fixture
def readings(gem):
    return gem.read([TEXTS[0], TEXTS[1], "A young child is riding a grey horse!"])


@pytest.fixture
def idle(gem):
    """The engine, with nothing of earlier tests in it."""
    gc.collect()
    wait_until(lambda: gem.engine.stats().rows == 0)
    return gem.engine


def wait_until(true, seconds=20.0):
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.005)


def by_hand(gem, committee, count):
    """The rule as it is written, each row run whole for each token by transformers' own model."""
    codec, base = gem.codec, gem.base.model
    asked = codec.prompt_ids(ASKED, continued=True)
    weights = committee.weights or [1.0] * len(committee.readings)
    ids, sources = [], []
    for _ in range(count):
        texts = [*committee.readings, *gem.read([""])]
        rows = [torch.tensor([[*r.ids.tolist(), *asked, *ids]]) for r in texts]
        with torch.inference_mode():
            logs = [base(row).logits[0, -1].float().log_softmax(-1) for row in rows]
        b, g = committee.contrast, committee.trust
        scores = torch.stack(
            [
                (1 + b) * log - b * logs[-1] + g * float(np.log(weight))
                for log, weight in zip(logs[:-1], weights, strict=True)
            ]
        )
        best = int(scores.argmax())
        sources.append(best // scores.shape[1])
        ids.append(best % scores.shape[1])
    return tuple(ids), tuple(sources)


@pytest.mark.parametrize(
    "settings",
    [
        {"contrast": 0.0, "trust": 0.0},
        {"contrast": 0.5, "trust": 0.0},
        {"contrast": 1.0, "trust": 2.5, "weights": [0.2, 1.0, 0.9]},
    ],
)
def test_each_token_is_the_best_of_all_readings_and_is_appended_to_all(gem, readings, settings):
    committee = Committee(readings, **settings)
    answer = gem.generate(ASKED, after=committee, max_new_tokens=6)
    ids, sources = by_hand(gem, committee, 6)
    assert answer.ids == ids[: len(answer.ids)]
    assert answer.sources == sources[: len(answer.ids)]


def test_one_reading_without_contrast_is_that_reading(gem, readings):
    for reading in readings:
        alone = gem.generate(ASKED, after=reading, max_new_tokens=20)
        committee = gem.generate(ASKED, after=Committee([reading], contrast=0), max_new_tokens=20)
        assert committee.ids == alone.ids
        assert committee.sources == (0,) * len(alone.ids)
        assert (committee.usage, committee.prompt_ids) == (alone.usage, alone.prompt_ids)
        assert alone.sources == ()


def test_equal_readings_are_as_one(gem, readings):
    for contrast in (0.0, 0.5):
        one = gem.generate(ASKED, after=Committee(readings[:1], contrast=contrast))
        three = gem.generate(ASKED, after=Committee([readings[0]] * 3, contrast=contrast))
        assert three.ids == one.ids


def test_a_weight_decides_where_it_is_trusted(gem, readings):
    for place, reading in enumerate(readings):
        weights = [1.0 if i == place else 1e-9 for i in range(3)]
        committee = Committee(readings, weights, contrast=0, trust=50.0)
        answer = gem.generate(ASKED, after=committee, max_new_tokens=8)
        assert set(answer.sources) == {place}
        assert answer.ids == gem.generate(ASKED, after=reading, max_new_tokens=8).ids
        indifferent = Committee(readings, weights, contrast=0, trust=0)
        fair = gem.generate(ASKED, after=Committee(readings, contrast=0), max_new_tokens=8)
        assert gem.generate(ASKED, after=indifferent, max_new_tokens=8) == fair


def test_a_stream_has_the_same_pieces_and_names_its_sources(gem, readings):
    committee = Committee(readings)
    whole = gem.generate(ASKED, after=committee, max_new_tokens=12)
    stream = gem.stream(ASKED, after=committee, max_new_tokens=12)
    assert "".join(stream) == whole.text
    assert stream.generation == whole
    assert len(whole.sources) == len(whole.ids)
    assert set(whole.sources) <= {0, 1, 2}


def test_stop_strings_end_it(gem, readings):
    committee = Committee(readings)
    whole = gem.generate(ASKED, after=committee, max_new_tokens=30)
    stop = whole.text[6:9]
    short = gem.generate(ASKED, after=committee, max_new_tokens=30, stop=stop)
    assert short.text == whole.text[: whole.text.index(stop)]
    assert short.finish_reason == "stop"
    assert short.sources == whole.sources[: len(short.ids)]


def test_a_schema_holds_the_one_token_stream(gem, readings):
    schema = {"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"]}
    answer = gem.generate(ASKED, after=Committee(readings), max_new_tokens=40, schema=schema)
    assert answer.misfit is None
    assert len(answer.sources) == len(answer.ids)


def test_closing_a_stream_frees_all_its_rows(gem, readings, idle):
    stream = gem.stream(ASKED, after=Committee(readings, contrast=0.5), max_new_tokens=300)
    next(stream)
    held = idle.stats().kv_bytes
    stream.close()
    wait_until(lambda: idle.stats().rows == 0)
    assert idle.stats().kv_bytes < held
    assert stream.generation.finish_reason == "cancelled"
    assert len(stream.generation.sources) == len(stream.generation.ids)


async def test_awaited_it_is_the_same(gem, readings):
    committee = Committee(readings)
    whole = gem.generate(ASKED, after=committee, max_new_tokens=8)
    assert await gem.agenerate(ASKED, after=committee, max_new_tokens=8) == whole
    assert gem.submit(ASKED, after=committee, max_new_tokens=8).result() == whole


def test_beside_other_rows_each_is_what_it_would_be_alone(gem, readings, idle, monkeypatch):
    committee = Committee(readings, contrast=0.5)
    alone = gem.generate(ASKED, after=committee, max_new_tokens=40)
    plain = gem.generate("Rivers run", max_new_tokens=60)
    widths, run = [], Slots.run
    monkeypatch.setattr(
        Slots, "run", lambda self, slots, ids: widths.append(len(slots)) or run(self, slots, ids)
    )
    futures = [
        gem.submit("Rivers run", max_new_tokens=60),
        gem.submit(ASKED, after=committee, max_new_tokens=40),
        gem.submit(ASKED, after=committee, max_new_tokens=40),
    ]
    assert [future.result() for future in futures] == [plain, alone, alone]
    assert max(widths) >= 1 + 4  # three readings and the empty text
    batch = gem.generate_batch([ASKED] * 2, after=[committee, readings[0]], max_new_tokens=40)
    assert batch == [alone, gem.generate(ASKED, after=readings[0], max_new_tokens=40)]


def test_its_rows_are_counted_in_bytes(gem, readings):
    held = sum(map(len, readings)) + len(gem.read([""])[0])
    prompt = len(gem.codec.prompt_ids(ASKED, continued=True))
    answer = gem.generate(ASKED, after=Committee(readings, contrast=0.5), max_new_tokens=3)
    assert answer.usage.cached_tokens == held
    assert answer.usage.prompt_tokens == held + 4 * prompt
    assert answer.usage.completion_tokens == len(answer.ids)
    without = gem.generate(ASKED, after=Committee(readings), max_new_tokens=3)
    assert without.usage.prompt_tokens == sum(map(len, readings)) + 3 * prompt


def test_a_skill_acts_in_every_row(gem, readings, base_folder):
    from gem_rag.compute.skill import Skill

    model = disturb(create(base_folder, num_special_tokens=3))
    adapter = AdapterConfig(rank=4, alpha=8)
    config = SkillConfig("answer", "answer", model.config.base, "{question}", adapter)
    skill = Skill.new(model.base, config)
    with torch.no_grad():
        for parameter in skill.adapter.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.3)
    model.parts.skills["answer"] = skill
    own = model.read([r.text for r in readings])
    single = model.generate(ASKED, after=own[2], max_new_tokens=12, skill="answer")
    weights = [1e-9, 1e-9, 1.0]
    committee = Committee(own, weights, contrast=0, trust=50.0)
    together = model.generate(ASKED, after=committee, max_new_tokens=12, skill="answer")
    assert together.ids == single.ids
    assert model.generate(ASKED, after=committee, max_new_tokens=12).ids != single.ids


def test_what_cannot_be_is_said(gem, readings, base_folder):
    with pytest.raises(ValueError, match="no readings"):
        Committee([])
    with pytest.raises(ValueError, match="2 weights of 3 readings"):
        Committee(readings, [1.0, 2.0])
    with pytest.raises(ValueError, match="above 0"):
        Committee(readings, [1.0, 0.0, 1.0])
    with pytest.raises(ValueError, match="contrast -1"):
        Committee(readings, contrast=-1)
    other = disturb(create(base_folder, num_special_tokens=3)).read([TEXTS[0]])
    if other[0].fingerprint != readings[0].fingerprint:
        with pytest.raises(ReadingError, match="made by model"):
            gem.generate(ASKED, after=Committee([*readings, *other]))
    with pytest.raises(ContextLengthError):
        gem.generate("sea " * 1000, after=Committee(readings))


# In GemRAG


@pytest.fixture
def rag(gem):
    rag = GemRAG(gem, threshold=None, context=3, several="committee")
    rag.add([Document(text, f"{i}.txt") for i, text in enumerate(TEXTS) if text])
    return rag


def test_an_answer_says_how_much_of_it_came_from_each_passage(rag):
    answer = rag.answer(ASKED, max_new_tokens=8)
    shares = [citation.tokens_share for citation in answer.citations]
    assert len(shares) == 3
    assert sum(shares) == pytest.approx(1)
    stream = rag.stream(ASKED, max_new_tokens=8)
    assert "".join(stream).strip() == answer.answer
    assert stream.answer.citations == answer.citations


def test_one_passage_is_answered_from_as_ever(rag):
    rag.context = 1
    as_ever = GemRAG(rag.model, rag.index, threshold=None).answer(ASKED, max_new_tokens=8)
    answer = rag.answer(ASKED, max_new_tokens=8)
    assert answer.answer == as_ever.answer
    assert answer.citations == as_ever.citations
    assert answer.citations[0].tokens_share is None


def test_passages_are_not_read_again(rag, gem, monkeypatch):
    rag.answer(ASKED, max_new_tokens=1)
    read = gem.reader.read
    texts = []

    def noted(ids, *args, **options):
        texts.extend(map(len, ids))
        return read(ids, *args, **options)

    monkeypatch.setattr(gem.reader, "read", noted)
    rag.answer(ASKED, max_new_tokens=4)
    assert max(texts, default=0) <= len(gem.codec.encode_texts([ASKED], None)[0].ids) + 8


def test_words_before_the_passages_have_them_read_together(rag):
    rag.prompt = "These are the documents: {context} {question}"
    answer = rag.answer(ASKED, max_new_tokens=4)
    assert answer.usage.cached_tokens == 0
    assert [citation.tokens_share for citation in answer.citations] == [None] * 3


def test_an_unknown_way_names_those_there_are(gem):
    with pytest.raises(GemError, match="'apart'; expected one of together, committee, join"):
        GemRAG(gem, several="apart")
