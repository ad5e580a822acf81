"""Nodes as candidates, and what was chosen of them as nodes again."""

from __future__ import annotations

from collections.abc import Sequence

from llama_index.core.schema import MetadataMode, NodeWithScore

from gem_rag.errors import GemError
from gem_rag.model import GemModel
from gem_rag.rag.retrieve import Candidate, Choice
from gem_rag.store import ReadingStore


def store_for(model: GemModel, readings: ReadingStore | None) -> ReadingStore:
    """The store given, or a new one in memory.

    Raises:
        GemError: The store is another model's.
    """
    if readings is None:
        return ReadingStore(model)
    if readings.model.parts.reading_fingerprint != model.parts.reading_fingerprint:
        raise GemError("the readings were made by another model; give a ReadingStore of this one")
    return readings


def chosen(
    choice: Choice, question: str, candidates: Sequence[Candidate[NodeWithScore]]
) -> list[NodeWithScore]:
    """The nodes to use, best first; a ranked one's score is what the ranking makes of it."""
    return [
        c.item if c.rank_score is None else NodeWithScore(node=c.item.node, score=c.rank_score)
        for c in choice.best(question, candidates)
    ]


def candidate(
    node: NodeWithScore, score: float | None = None, word_score: float | None = None
) -> Candidate[NodeWithScore]:
    """A node to be ranked. Read is what is embedded, so that one reading serves both."""
    return Candidate(node, node.node.get_content(MetadataMode.EMBED), score, word_score)
