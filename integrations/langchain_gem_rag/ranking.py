"""Ranking LangChain documents by how likely each makes the query."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from langchain_core.documents import Document

from gem_rag.ranking import Ranked

Rank = Callable[[str, Sequence[str]], list[Ranked]]  # of `GemModel` or a `ReadingStore`


def ranked(rank: Rank, query: str, documents: Sequence[Document]) -> list[Document]:
    """Documents by calibrated query likelihood, best first, with ``rank_score`` in the metadata."""
    if not documents:
        return []
    places = rank(query, [document.page_content for document in documents])
    return [with_metadata(documents[p.index], rank_score=p.score) for p in places]


def with_metadata(document: Document, **facts: float) -> Document:
    """A copy of a document that carries more metadata."""
    return Document(
        id=document.id,
        page_content=document.page_content,
        metadata={**document.metadata, **facts},
    )
