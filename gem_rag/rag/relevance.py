"""Whether a passage says anything about the question: likelihood, words and cosine in one."""

from __future__ import annotations

from gem_rag.compute.ranker import Ranked
from gem_rag.config import RelevanceWeights
from gem_rag.rag.citation import Citation

# Of query likelihood alone: a passage that raises the question's mean log-likelihood by less than
# this (nats per token) says nothing about it.
RELEVANCE_THRESHOLD = 0.6


def rank_score(
    ranked: Ranked, cosine: float | None, word_score: float | None, weights: RelevanceWeights
) -> float:
    """How relevant a passage is, in nats per token of likelihood.

    Args:
        ranked: How likely it makes the question.
        cosine: With the question's vector; None counts as 0.
        word_score: How well the question's words stand in it; None counts as 0.
        weights: What they count for.
    """
    return ranked.score + weights.words * (word_score or 0.0) + weights.cosine * (cosine or 0.0)


def is_relevant(passage: Citation, threshold: float | None) -> bool:
    """Whether a ranked passage reaches the threshold; what was not ranked passes."""
    return passage.rank_score is None or threshold is None or passage.rank_score >= threshold
