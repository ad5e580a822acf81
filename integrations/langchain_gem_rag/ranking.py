"""What was chosen of LangChain's documents, as documents again."""

from __future__ import annotations

from collections.abc import Sequence

from langchain_core.documents import Document

from gem_rag.rag.retrieve import Candidate, Choice
from langchain_gem_rag.documents import with_metadata


def chosen(
    choice: Choice, query: str, candidates: Sequence[Candidate[Document]], *, scores: bool
) -> list[Document]:
    """The documents to use, best first; ranked ones with ``rank_score`` in their metadata, where
    scores are to be told."""
    best = choice.best(query, candidates)
    return [with_metadata(c.item, rank_score=c.rank_score) if scores else c.item for c in best]
