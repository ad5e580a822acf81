"""Which of the best passages answers: each is answered from alone, and the likeliest answer counts.

Ranking asks how well a passage explains the question; how sure the model is of the answer that it
finds there is known once it is written. Readings are at hand after ranking, so that three short
answers are three rows of the same few steps.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any

from torch import Tensor

from gem_rag.engine.options import GenerationOptions
from gem_rag.engine.results import Generation
from gem_rag.model import GemModel
from gem_rag.rag.retrieve import Found
from gem_rag.store import ReadingStore

TRIED = 3  # passages that are answered from, where nobody says otherwise
# What a nat of an answer's mean log-likelihood counts for beside the rank score: chosen on held-out
# questions (docs/benchmarks.md).
SURETY = 0.4


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


def alone(found: Found, place: int) -> Found:
    """What was found, with one of its passages only."""
    one = slice(place, place + 1)
    return replace(
        found,
        citations=found.citations[one],
        readings=found.readings[one],
        texts=found.texts[one],
    )


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
    if any(cited.rank_score is None for cited in found.citations):
        found = alone(found, 0)  # the search's order stays
    sureties = [Surety() for _ in found.texts]
    waited = [
        model.submit(asked, after=reading, **(options | {"logits_hook": surety}))
        for reading, surety in zip(found.readings or store.read(found.texts), sureties, strict=True)
    ]
    answers = [each.result() for each in waited]
    scores = [
        (cited.rank_score or 0.0) + SURETY * surety.mean
        for cited, surety in zip(found.citations, sureties, strict=True)
    ]
    best = scores.index(max(scores))
    return alone(found, best), Written(answers[best])
