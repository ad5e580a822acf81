"""Beam search: the likeliest whole answers, found beside whatever else is generated."""

import asyncio
import gc
import itertools
import time

import numpy as np
import pytest
import torch
from test_skills import skilled
from tiny import disturb, make_base

from gem_rag.compute.parts import Parts
from gem_rag.config import AdapterConfig
from gem_rag.documents import Document
from gem_rag.engine.beams import BEHIND, LENGTH, Beams
from gem_rag.engine.committee import Committee
from gem_rag.engine.slots import Slots
from gem_rag.errors import GemError
from gem_rag.model import create
from gem_rag.rag import GemRAG

TEXT = "The kettle has a warranty of seven years."
PROMPTS = ["Rivers run", "Who wrote it?", "A kettle " * 12, "In winter", "naïve café"]
END = 1


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return make_base(tmp_path_factory.mktemp("beams") / "base")


@pytest.fixture(scope="module")
def gem(base):
    return disturb(create(base, dtype="float32", adapter=AdapterConfig(rank=4, alpha=8)))


def by_hand(model, prompt, width, limit):
    """The same search with every beginning run anew from its first token on."""
    ids = model.codec.prompt_ids(prompt, raw=False, continued=False, tools=[])

    def after(own):
        logits = torch.tensor(0)
        with torch.inference_mode():
            slots = Slots(model.parts)
            logits = slots.run([slots.open(None, 0, 40)], [[*ids, *own]]).all[-1]
        return logits.log_softmax(-1).tolist()

    def score(one):
        return one[1] / len(one[0]) ** LENGTH

    kept, whole = [((), 0.0)], []
    while kept:
        longer = [
            ((*own, token), so_far + likely)
            for own, so_far in kept
            for token, likely in enumerate(after(own))
        ]
        longer.sort(key=lambda one: -one[1])
        kept = []
        for one in longer[: 2 * width]:
            if one[0][-1] in model.parts.end_ids or len(one[0]) >= limit:
                whole.append(one)
            elif len(kept) < width:
                kept.append(one)
        if whole and kept and kept[0][1] < max(n for _, n in whole) - BEHIND:
            break
    return sorted(whole, key=score, reverse=True)


@pytest.mark.parametrize("width", [2, 3])
@pytest.mark.parametrize("prompt", PROMPTS[:3])
def test_a_search_finds_what_one_without_kept_keys_finds(gem, prompt, width):
    found = gem.generate(prompt, beams=width, max_new_tokens=6)
    expected = by_hand(gem, prompt, width, 6)
    assert [one.ids for one in found.candidates] == [ids for ids, _ in expected]
    for one, (_, log_likelihood) in zip(found.candidates, expected, strict=True):
        assert one.log_likelihood == pytest.approx(log_likelihood, abs=1e-3)
        assert one.finish_reason == ("stop" if one.ids[-1] in gem.parts.end_ids else "length")
    assert found.usage.prompt_tokens == len(found.prompt_ids)
    first = found.candidates[0]
    assert (first.ids, first.text, first.finish_reason) == (
        found.ids,
        found.text,
        found.finish_reason,
    )


def test_with_every_beginning_kept_it_is_the_best_of_all_answers():
    rng = np.random.default_rng(0)
    vocabulary, limit = 4, 3
    likely = {
        own: torch.tensor(rng.normal(size=vocabulary)).log_softmax(-1)
        for n in range(limit)
        for own in itertools.product(range(vocabulary), repeat=n)
    }
    beams = Beams(vocabulary**limit, {END}, limit)
    while beams.kept:
        beams.advance(torch.stack([likely[one.ids] for one in beams.kept]))

    def answers(own=(), so_far=0.0):
        if own and (own[-1] == END or len(own) == limit):
            yield so_far / len(own) ** LENGTH, own
            return
        for token in range(vocabulary):
            yield from answers((*own, token), so_far + float(likely[own][token]))

    assert [one.ids for one in beams.whole] == [own for _, own in sorted(answers(), reverse=True)]


def test_one_beam_is_greedy_and_says_no_likelihood(gem):
    one = gem.generate(PROMPTS[0], beams=1, max_new_tokens=8)
    assert one == gem.generate(PROMPTS[0], max_new_tokens=8)
    assert one.candidates == ()


def test_searches_beside_other_answers_say_what_they_say_alone(gem):
    def options(i):
        return {"beams": 1 + i % 3, "max_new_tokens": 12 + i}

    alone = [gem.generate(p, **options(i)).ids for i, p in enumerate(PROMPTS)]
    asked = [gem.submit(p, **options(i)) for i, p in enumerate(PROMPTS)]
    assert [each.result().ids for each in asked] == alone


def test_a_search_goes_on_from_a_reading_by_a_skill(gem):
    skilled(gem)
    (reading,) = gem.read([TEXT])
    asked = {"after": reading, "skill": "answer", "beams": 3, "max_new_tokens": 10}
    found = gem.generate("\nHow long?", **asked)
    assert found.ids != gem.generate("\nHow long?", **asked | {"skill": None}).ids
    assert found.candidates[0].log_likelihood < 0
    assert found.usage.cached_tokens == len(reading)
    assert "".join(gem.stream("\nHow long?", **asked)) == found.text
    assert gem.generate("\nHow long?", **asked).ids == found.ids, "the reading is as it was"
    gem.parts.skills.clear()


def test_a_prompt_that_was_searched_from_is_kept_for_others(gem, base):
    asked = f"Words of their own, {PROMPTS[2] * 3}"
    searched = gem.generate(asked, beams=3, max_new_tokens=8)
    before = gem.engine.stats().prefix_hits
    found = gem.generate(f"{asked} and more", max_new_tokens=8)
    assert gem.engine.stats().prefix_hits == before + 1
    assert searched.ids
    fresh = disturb(create(base, dtype="float32", adapter=AdapterConfig(rank=4, alpha=8)))
    assert found.ids == fresh.generate(f"{asked} and more", max_new_tokens=8).ids


def test_a_search_that_is_left_gives_its_rows_back(gem, monkeypatch):
    monkeypatch.setattr(Parts, "end_ids", frozenset())
    future = gem.submit(PROMPTS[0], beams=3, max_new_tokens=900)
    time.sleep(0.2)
    future.cancel()
    stream = gem.stream(PROMPTS[0], beams=3, max_new_tokens=900)
    stream.close()
    until(lambda: not gem.engine.stats().rows)


async def test_a_search_that_is_awaited_ends_when_that_is_cancelled(gem, monkeypatch):
    monkeypatch.setattr(Parts, "end_ids", frozenset())
    skilled(gem)
    rag = GemRAG(gem, threshold=None, tried=1)
    rag.add(Document(TEXT, "kettle"))
    asked = asyncio.ensure_future(rag.aanswer("How long is the warranty?", max_new_tokens=900))
    await asyncio.to_thread(until, lambda: gem.engine.stats().rows)
    asked.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asked
    begun = time.monotonic()
    await asyncio.to_thread(until, lambda: not gem.engine.stats().rows)
    assert time.monotonic() - begun < 2, "and not when all 900 tokens are there"
    gem.parts.skills.clear()


def until(true):
    end = time.monotonic() + 20
    while not true():
        assert time.monotonic() < end
        time.sleep(0.005)
        gc.collect()


def test_without_memory_for_one_more_row_the_others_go_on(gem, monkeypatch):
    alone = gem.generate(PROMPTS[0], max_new_tokens=60).ids
    asked = gem.submit(PROMPTS[0], max_new_tokens=60)
    monkeypatch.setattr(Slots, "fork", no_memory)
    with pytest.raises(MemoryError):
        gem.generate(PROMPTS[1], beams=3, max_new_tokens=20)
    assert asked.result().ids == alone
    until(lambda: not gem.engine.stats().rows)


def no_memory(*_):
    raise MemoryError


@pytest.mark.parametrize(
    "other",
    [{"temperature": 0.5}, {"stop": "x"}, {"schema": {"type": "object"}},
     {"logits_hook": lambda ids, logits: logits}],
)  # fmt: skip
def test_what_a_search_cannot_go_with_is_refused(gem, other):
    with pytest.raises(ValueError, match="beams is 2 with"):
        gem.generate("x", beams=2, **other)


def test_a_committee_does_not_search(gem):
    readings = gem.read([TEXT, "Rivers run to the sea."])
    with pytest.raises(GemError, match="beams is 3 after a committee"):
        gem.generate("x", after=Committee(readings), beams=3)


def test_fewer_than_one_is_refused_and_other_libraries_name_is_known(gem):
    with pytest.raises(ValueError, match="beams is 0"):
        gem.generate("x", beams=0)
    assert gem.generate("x", num_beams=2, max_new_tokens=4).candidates
