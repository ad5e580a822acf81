"""The likeliest answer: whole answers are compared, of each of the best passages.

A small model is often unsure how an answer begins, so a skill's short answer is searched for
(`gem_rag.engine.beams`). Which passage it comes from is decided likewise: ranking asks how well a
passage explains the question; how sure the model is of the answer that it finds there is known once
that is written. Where ranking leaves little between the first ones, each is answered from: readings
are at hand then, and their answers are rows of the same steps.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from gem_rag.compute.reading import Reading
from gem_rag.engine.options import GenerationOptions
from gem_rag.engine.results import Generation
from gem_rag.engine.work import finished
from gem_rag.model import GemModel
from gem_rag.rag.retrieve import Found
from gem_rag.store import ReadingStore

# Beginnings of an answer that are kept, and passages that are answered from at most, where nobody
# says otherwise.
BEAMS, TRIED = 3, 3
# By how much of a rank score another passage may be behind the first to be tried, and what an
# answer's score counts for beside it: chosen on held-out questions (docs/experiments/several.md).
NEAR, SURETY = 0.2, 0.2


@dataclass(frozen=True)
class Written:
    """An answer that is whole, as a stream of one piece."""

    generation: Generation

    def __iter__(self) -> Iterator[str]:
        if self.generation.text:
            yield self.generation.text

    def close(self, *, wait: bool = True) -> None:
        """Nothing is computed any more."""


def can_be_searched(options: GenerationOptions) -> bool:
    """Whether answers are short, by a skill, and in the model's own words."""
    return options.skill is not None and options.is_free


def near(found: Found, tried: int) -> Found:
    """The best passage, and those that ranking puts so near to it that an answer may decide.

    Args:
        found: Passages, best first.
        tried: How many at most.
    """
    scores = [c.rank_score for c in found.citations if c.rank_score is not None]
    if len(scores) < len(found.citations):
        return _only(found, slice(1))  # not ranked: the search's order stays
    return _only(found, slice(sum(score >= scores[0] - NEAR for score in scores[:tried])))


def _only(found: Found, places: slice) -> Found:
    """What was found, with these of its passages only."""
    return replace(
        found,
        citations=found.citations[places],
        readings=found.readings[places],
        texts=found.texts[places],
    )


def answers_from(
    model: GemModel, readings: Sequence[Reading], asked: str, **options: Any
) -> list[Generation]:
    """An answer from each reading alone."""
    return finished([model.submit(asked, after=reading, **options) for reading in readings])


def surety(answer: Generation) -> float:
    """How sure the model is of an answer that was searched for; of none it is not at all."""
    return answer.candidates[0].score if answer.candidates else float("-inf")


def likeliest(
    model: GemModel, store: ReadingStore, found: Found, asked: str, **options: Any
) -> tuple[Found, Written]:
    """The passage whose answer is likeliest, and that answer.

    Args:
        model: Answers.
        store: Kept readings.
        found: Passages, ranked where there are several.
        asked: What is said after each.
        **options: See `GenerationOptions`; it is searched by two beams or more.

    Returns:
        What was found with that passage alone, and the answer.
    """
    readings = found.readings or store.read(found.texts)
    answers = answers_from(model, readings, asked, **options)
    scores = [
        (cited.rank_score or 0.0) + SURETY * surety(answer)
        for cited, answer in zip(found.citations, answers, strict=True)
    ]
    best = scores.index(max(scores))
    return _only(found, slice(best, best + 1)), Written(answers[best])
