"""Which of the best passages answers: each is answered from alone, and the likeliest answer counts.

Ranking asks how well a passage explains the question; how sure the model is of the answer that it
finds there is known once it is written. Where ranking leaves little between the first ones, each is
answered from: readings are at hand then, and three short answers are three rows of the same steps.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from torch import Tensor

from gem_rag.compute.reading import Reading
from gem_rag.engine.options import GenerationOptions
from gem_rag.engine.results import Generation
from gem_rag.model import GemModel
from gem_rag.rag.retrieve import Found
from gem_rag.store import ReadingStore

TRIED = 3  # passages that are answered from at most, where nobody says otherwise
# By how much of a rank score another passage may be behind the first to be tried, and what a nat of
# an answer's mean log-likelihood counts for beside it: chosen on held-out questions
# (docs/experiments/several.md).
NEAR, SURETY = 0.2, 0.4


@dataclass
class Surety:
    """Looks at the logits of a greedy answer, and changes none: how likely it is by the model."""

    likelihoods: list[float] = field(default_factory=list)

    def __call__(self, ids: list[int], logits: Tensor) -> Tensor:
        """Called before each token, its end among them."""
        best = logits.float().log_softmax(-1).max()
        self.likelihoods[len(ids) :] = [float(best)]
        return logits

    @property
    def mean(self) -> float:
        """Mean log-likelihood of its tokens, nats; of none 0."""
        return sum(self.likelihoods) / max(1, len(self.likelihoods))


@dataclass(frozen=True)
class Written:
    """An answer that is whole, as a stream of one piece."""

    generation: Generation

    def __iter__(self) -> Iterator[str]:
        if self.generation.text:
            yield self.generation.text

    def close(self, *, wait: bool = True) -> None:
        """Nothing is computed any more."""


def can_be_tried(options: GenerationOptions) -> bool:
    """Whether answers are short, by a skill, and what the model is surest of."""
    free = options.schema is None and not options.tools and options.logits_hook is None
    return free and options.skill is not None and options.temperature == 0


def near(found: Found) -> Found:
    """The best passage, and those that ranking puts so near to it that an answer may decide."""
    scores = [c.rank_score for c in found.citations if c.rank_score is not None]
    if len(scores) < len(found.citations):
        return _only(found, slice(1))  # not ranked: the search's order stays
    return _only(found, slice(sum(score >= scores[0] - NEAR for score in scores)))


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
) -> list[tuple[Generation, float]]:
    """An answer from each reading, and the mean log-likelihood of its tokens, nats."""
    sureties = [Surety() for _ in readings]
    waited = [
        model.submit(asked, after=reading, **(options | {"logits_hook": surety}))
        for reading, surety in zip(readings, sureties, strict=True)
    ]
    try:
        answers = [each.result() for each in waited]
    except BaseException:
        for each in waited:
            each.cancel()
        raise
    return [(answer, surety.mean) for answer, surety in zip(answers, sureties, strict=True)]


def likeliest(
    model: GemModel, store: ReadingStore, found: Found, asked: str, **options: Any
) -> tuple[Found, Written]:
    """The passage whose answer is likeliest, and that answer.

    Args:
        model: Answers.
        store: Kept readings.
        found: Passages, ranked.
        asked: What is said after each.
        **options: See `GenerationOptions`.

    Returns:
        What was found with that passage alone, and the answer.
    """
    readings = found.readings or store.read(found.texts)
    answers = answers_from(model, readings, asked, **options)
    scores = [
        (cited.rank_score or 0.0) + SURETY * surety
        for cited, (_, surety) in zip(found.citations, answers, strict=True)
    ]
    best = scores.index(max(scores))
    return _only(found, slice(best, best + 1)), Written(answers[best][0])
