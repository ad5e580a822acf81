"""Stored chunks as LangChain's documents, and the scores that documents carry."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from langchain_core.documents import Document

from gem_rag.index import Hit
from gem_rag.index.records import Chunk
from gem_rag.rag.finding import Finding

# In whose metadata a `GemRetriever` tells a `GemReranker` what it knew; other stores' scores have
# other names, and say nothing to our weights.
FINDING = "gem_rag"
SCORES = ("score", "word_score", "fused_score", "rank_score")


def document_of(chunk: Chunk) -> Document:
    """A stored chunk as a document; its place is told where the user's metadata does not."""
    ours = {
        "source": chunk.source,
        "start": chunk.start,
        "end": chunk.end,
        "heading": chunk.heading or None,
        "page": chunk.page,
    }
    place = {name: value for name, value in ours.items() if value is not None}
    return Document(id=chunk.id, page_content=chunk.text, metadata={**place, **chunk.metadata})


def with_metadata(document: Document, **facts: Any) -> Document:
    """A copy of a document whose metadata has more facts, as far as they are known."""
    known = {name: fact for name, fact in facts.items() if fact is not None}
    return _with(document, {**document.metadata, **known})


def with_scores(document: Document, hit: Hit, asked: str | None) -> Document:
    """A copy of a document that tells what it was found by.

    Args:
        document: The document.
        hit: As what it was found.
        asked: For which question and model (`gem_rag.rag.finding`); None is not told.
    """
    finding = None
    if asked is not None:
        finding = dataclasses.asdict(Finding(asked, hit.score, hit.word_score))
    facts = {"score": hit.score, "word_score": hit.word_score, "fused_score": hit.fused_score}
    return with_metadata(document, **facts, **{FINDING: finding})


def without_scores(document: Document) -> Document:
    """A copy of a document without what a `GemRetriever` told of it; others come as they are."""
    if finding_of(document) is None:
        return document
    left = {n: v for n, v in document.metadata.items() if n not in (*SCORES, FINDING)}
    return _with(document, left)


def finding_of(document: Document) -> Finding | None:
    """What a `GemRetriever` told of a document; None where none did."""
    told = document.metadata.get(FINDING)
    names = {field.name for field in dataclasses.fields(Finding)}
    return Finding(**told) if isinstance(told, Mapping) and told.keys() == names else None


def _with(document: Document, metadata: dict[str, Any]) -> Document:
    return Document(id=document.id, page_content=document.page_content, metadata=metadata)
