"""Haystack's ranker over a GEM model."""

from haystack_integrations.components.rankers.gem_rag.ranker import GemRanker

__all__ = ["GemRanker"]
