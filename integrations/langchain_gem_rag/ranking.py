"""LangChain documents as candidates, and what was chosen of them as documents again."""

from __future__ import annotations

from collections.abc import Sequence

from langchain_core.documents import Document

from gem_rag.rag.retrieve import Candidate, Choice


def chosen(choice: Choice, query: str, candidates: Sequence[Candidate[Document]]) -> list[Document]:
    """The documents to use, best first; ranked ones carry ``rank_score`` in their metadata."""
    return [with_metadata(c.item, rank_score=c.rank_score) for c in choice.best(query, candidates)]


def with_metadata(document: Document, **facts: float | None) -> Document:
    """A copy of a document whose metadata has more facts, as far as they are known."""
    known = {name: fact for name, fact in facts.items() if fact is not None}
    return Document(
        id=document.id,
        page_content=document.page_content,
        metadata={**document.metadata, **known},
    )
