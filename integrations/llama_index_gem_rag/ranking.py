"""Nodes ranked by how likely each makes the question, from kept readings where there are any."""

from __future__ import annotations

from collections.abc import Sequence

from llama_index.core.schema import MetadataMode, NodeWithScore

from gem_rag.errors import GemError
from gem_rag.model import GemModel
from gem_rag.store import ReadingStore


def store_for(model: GemModel, readings: ReadingStore | None) -> ReadingStore:
    """The store given, or a new one in memory.

    Raises:
        GemError: The store is another model's.
    """
    if readings is None:
        return ReadingStore(model)
    if readings.model.reading_fingerprint != model.reading_fingerprint:
        raise GemError("the readings were made by another model; give a ReadingStore of this one")
    return readings


def rank(
    readings: ReadingStore, question: str, nodes: Sequence[NodeWithScore]
) -> list[NodeWithScore]:
    """Nodes best first; scores are calibrated query likelihoods, as `Ranked.score`.

    Read is what is embedded, so that one reading of a node serves both.
    """
    if not nodes:
        return []
    places = readings.rank(question, [n.node.get_content(MetadataMode.EMBED) for n in nodes])
    return [NodeWithScore(node=nodes[p.index].node, score=p.score) for p in places]
