"""How much a passage says about a question: likelihood, words and cosine in one number.

The part of the question's surprise that the passage explains (query likelihood, zero-shot: at most
1, below 0 where the passage misleads), plus what word score and cosine count for. Ordering by that
sum finds more than each alone.

Whether the best passage answers at all is a question of its own: a probability, made of the same,
but for the word score. That of a passage which names one of the question's words often is high;
here it counts which of them stand in it at all. All weights were chosen on questions that are not
used to report: see docs/benchmarks.md.
"""

from __future__ import annotations

import math

from gem_rag.compute.ranker import Ranked
from gem_rag.config import AnswerableWeights, RelevanceWeights
from gem_rag.rag.citation import Citation

# Of query likelihood alone: a passage that raises the question's mean log-likelihood by less than
# this (nats per token) says nothing about it.
RELEVANCE_THRESHOLD = 0.6
MOST_EXPLAINED = 1.0  # a likelihood is at most 1, so no more of the surprise can be explained


def explained(ranked: Ranked) -> float:
    """The part of the question's surprise that a passage explains, at most 1."""
    return ranked.score / max(-ranked.floor, 1e-6)


def known_before(
    cosine: float | None, word_score: float | None, weights: RelevanceWeights
) -> float:
    """What words and cosine count for in a rank score; one that is not known counts as 0."""
    return weights.words * (word_score or 0.0) + weights.cosine * (cosine or 0.0)


def confidence(
    explained: float, covered: float | None, cosine: float | None, weights: AnswerableWeights
) -> float:
    """The probability that a passage answers the question, 0 to 1.

    As it is where the passage that answers is as often there as it is not.

    Args:
        explained: The part of the question's surprise that the passage explains, at most 1.
        covered: Which part of the question's words stands in it, 0 to 1; None where that is not
            known.
        cosine: Its cosine with the question; None likewise.
        weights: The checkpoint's.
    """
    held = weights.usual_covered if covered is None else covered
    near = weights.usual_cosine if cosine is None else cosine
    odds = (
        weights.bias
        + weights.explained * explained
        + weights.covered * held
        + weights.cosine * near
    )
    return (1 + math.tanh(odds / 2)) / 2  # the logistic function, which overflows nowhere


def is_relevant(passage: Citation, threshold: float | None) -> bool:
    """Whether a ranked passage reaches the threshold; what was not ranked passes."""
    return passage.confidence is None or threshold is None or passage.confidence >= threshold
