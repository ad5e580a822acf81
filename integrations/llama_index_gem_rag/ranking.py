"""Nodes as candidates, and what was chosen of them as nodes again."""

from __future__ import annotations

from collections.abc import Sequence

from llama_index.core.bridge.pydantic import Field
from llama_index.core.schema import MetadataMode, NodeWithScore

from gem_rag.errors import GemError
from gem_rag.model import GemModel
from gem_rag.rag.finding import UNKNOWN, Finding
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


class FoundNode(NodeWithScore):
    """A node that tells a `GemReranker` what a `GemRetriever` knew of it.

    That stands beside the node, whose metadata is read and hashed by many.
    """

    finding: Finding = Field(default=UNKNOWN, exclude=True, repr=False)


def chosen(
    choice: Choice, question: str, candidates: Sequence[Candidate[NodeWithScore]]
) -> list[NodeWithScore]:
    """The nodes to use, best first; a ranked one's score is what the ranking makes of it."""
    best = choice.best(question, candidates)
    return [
        c.item if c.rank_score is None else c.item.model_copy(update={"score": c.rank_score})
        for c in best
    ]


def finding_of(node: NodeWithScore) -> Finding:
    """What a `GemRetriever` knew of a node."""
    return node.finding if isinstance(node, FoundNode) else UNKNOWN


def candidate(node: NodeWithScore) -> Candidate[NodeWithScore]:
    """A node to be ranked. Read is what is embedded, so that one reading serves both."""
    finding = finding_of(node)
    words = node.node.get_content(MetadataMode.EMBED)
    return Candidate(node, words, finding.score, finding.word_score)
