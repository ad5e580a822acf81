"""Texts in batches: bounded, with little padding, and the next one while the last is used."""

from __future__ import annotations

import math
from threading import Event

import pytest

from gem_rag.compute.batches import START_TOKENS_CPU, by_budget, longest_first
from gem_rag.engine.work import ahead

QUESTION = "Who wrote it?"


def cut(lengths, budget=1024, **options):
    """The lengths of each batch's rows."""
    rows = by_budget(longest_first(lengths), lengths, budget, **options)
    return [[lengths[i] for i in batch] for batch in rows]


def test_a_row_that_would_be_mostly_padding_is_a_batch_of_its_own():
    assert cut([0, 256, 256, 250], padding=32) == [[256, 256, 250], [0]]
    assert cut([256, 256, 250, 0], padding=math.inf) == [[256, 256, 250, 0]]


def test_rows_of_like_length_fill_the_budget():
    assert cut([100] * 25, padding=32) == [[100] * 10, [100] * 10, [100] * 5]
    assert cut([20, 40, 60], padding=32) == [[60, 40], [20]]


def tokens_run(model, monkeypatch):
    """Tokens of each pass from now on, padding included."""
    passes = []
    run = type(model.parts).run
    monkeypatch.setattr(
        type(model.parts),
        "run",
        lambda *given: passes.append(given[2].numel()) or run(*given),
    )
    return passes


@pytest.fixture
def passages():
    return [f"Rivers run to the sea, {name} says." * 3 for name in ("one", "two", "three")]


def test_passages_are_ranked_in_the_pass_that_reads_them(gem, passages, monkeypatch):
    """And the empty one, which they are compared with, is not run as wide as they are."""
    gem.rank(QUESTION, passages)
    asked = len(gem.ranker.asked(QUESTION).ids)
    longest = max(len(own.ids) for own in gem.codec.encode_texts(passages, None))
    assert longest > START_TOKENS_CPU
    passes = tokens_run(gem, monkeypatch)
    gem.rank(QUESTION, passages)
    assert passes == [len(passages) * (longest + asked), asked]


def test_only_the_question_is_run_after_kept_passages(gem, passages, monkeypatch):
    readings = gem.read([*passages, "Short."])
    asked = len(gem.ranker.asked(QUESTION).ids)
    passes = tokens_run(gem, monkeypatch)
    gem.rank(QUESTION, readings)
    assert passes == [(len(readings) + 1) * asked]


def test_the_next_item_is_made_while_one_is_used():
    made = Event()

    def items():
        yield "first"
        made.set()
        yield "second"

    used = []
    for item in ahead(items()):
        used.append(item)
        assert made.wait(5)
    assert used == ["first", "second"]


def test_what_goes_wrong_while_an_item_is_made_is_told():
    def items():
        yield 1
        raise ValueError("no more")

    with pytest.raises(ValueError, match="no more"):
        list(ahead(items()))
    assert list(ahead(iter([]))) == []
