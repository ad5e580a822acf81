"""LangChain documents as candidates, and what was chosen of them as documents again."""

from __future__ import annotations

from collections.abc import Sequence

from langchain_core.documents import Document

from gem_rag.rag.retrieve import Candidate, Choice


def chosen(choice: Choice, query: str, documents: Sequence[Document]) -> list[Document]:
    """The documents to use, best first; ranked ones carry ``rank_score`` in their metadata."""
    found = [Candidate(d, d.page_content, d.metadata.get("score", 0.0)) for d in documents]
    return [
        c.item if c.rank_score is None else with_metadata(c.item, rank_score=c.rank_score)
        for c in choice.best(query, found)
    ]


def with_metadata(document: Document, **facts: float) -> Document:
    """A copy of a document that carries more metadata."""
    return Document(
        id=document.id,
        page_content=document.page_content,
        metadata={**document.metadata, **facts},
    )
