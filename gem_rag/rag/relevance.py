"""Whether a passage says anything about the question."""

from __future__ import annotations

from gem_rag.rag.citation import Citation

# A passage that raises the question's mean log-likelihood by less than this (nats per token) says
# nothing about it. Chosen on BoolQ's dev part: see docs/benchmarks.md.
RELEVANCE_THRESHOLD = 0.6


def is_relevant(passage: Citation, threshold: float | None) -> bool:
    """Whether a ranked passage reaches the threshold; what was not ranked passes."""
    return passage.rank_score is None or threshold is None or passage.rank_score >= threshold
