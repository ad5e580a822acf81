"""How much a passage says about a question: likelihood, words and cosine in one number.

The part of the question's surprise that the passage explains (query likelihood, zero-shot: at most
1, below 0 where the passage misleads), plus what word score and cosine count for. Ordering by that
sum finds more than each alone; one threshold on it says whether a passage is about the question.
The weights were chosen on questions that are not used to report: see docs/benchmarks.md.
"""

from __future__ import annotations

from gem_rag.compute.ranker import Ranked
from gem_rag.config import RelevanceWeights
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


def is_relevant(passage: Citation, threshold: float | None) -> bool:
    """Whether a ranked passage reaches the threshold; what was not ranked passes."""
    return passage.rank_score is None or threshold is None or passage.rank_score >= threshold
