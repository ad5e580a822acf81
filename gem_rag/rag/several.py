"""Several passages before the model: read together, as a committee of readings, or joined."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Literal, get_args

from gem_rag.engine.committee import After, Committee
from gem_rag.errors import GemError
from gem_rag.model import GemModel
from gem_rag.rag.citation import Citation
from gem_rag.rag.retrieve import Found
from gem_rag.store import ReadingStore
from gem_rag.text.prompts import BETWEEN

Several = Literal["together", "committee", "join"]


def require_several(name: str) -> Several:
    """The way of this name.

    Raises:
        GemError: There is none.
    """
    for known in get_args(Several):
        if name == known:
            return known  # type: ignore[no-any-return]
    raise GemError(f"several is {name!r}; expected one of {', '.join(get_args(Several))}")


def before(model: GemModel, store: ReadingStore, found: Found, several: Several) -> After:
    """What an answer goes on from.

    Args:
        model: Reads.
        store: Kept readings.
        found: One passage or several.
        several: What is made of several: they are read together afresh, answer side by side from
            their readings, or their readings are put together.
    """
    if several == "together" and len(found.texts) > 1:
        return model.read([BETWEEN.join(found.texts)], max_length=model.max_context)[0]
    readings = found.readings or store.read(found.texts)
    if len(readings) == 1:
        return readings[0]
    if several == "join":
        return model.join(readings)
    return Committee(readings, worths(found.citations))


def worths(passages: Sequence[Citation]) -> list[float]:
    """What each passage is worth in a committee: e to the power of its rank score, or cosine."""
    scores = [c.score if c.rank_score is None else c.rank_score for c in passages]
    return [math.exp(score or 0.0) for score in scores]


def with_shares(passages: Sequence[Citation], sources: Sequence[int]) -> list[Citation]:
    """A committee's passages, each with its share of the answer's tokens."""
    if not sources:
        return list(passages)
    return [
        replace(passage, tokens_share=sources.count(place) / len(sources))
        for place, passage in enumerate(passages)
    ]
