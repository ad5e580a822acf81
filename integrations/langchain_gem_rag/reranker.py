"""GemReranker: ranks what any retriever found, with the model that is loaded anyway."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from langchain_core.callbacks import Callbacks
from langchain_core.documents import BaseDocumentCompressor, Document
from pydantic import ConfigDict

from gem_rag.arguments import renamed
from gem_rag.model import LOADING, GemModel, as_model, name_of
from gem_rag.rag.finding import UNKNOWN, weights_for
from gem_rag.rag.question import readable
from gem_rag.rag.retrieve import Candidate, Choice
from gem_rag.store import ReadingStore
from langchain_gem_rag.documents import finding_of, without_scores
from langchain_gem_rag.options import MODEL, RERANKING, StrictFields
from langchain_gem_rag.ranking import chosen


class GemReranker(StrictFields, BaseDocumentCompressor):
    """Ranks documents by query likelihood (zero-shot) and keeps the best.

    Where all of them come from `GemRetriever`s that were asked the same with the same model, the
    words and cosines they were found by count too: ``rank_score`` is then theirs, as of
    `gem_rag.rag.relevance`, and otherwise nats per token above an empty passage. A blank query
    leaves the order as it is.

    Args:
        model: A bundled name, folder or hub id, or a loaded `GemModel`; None is the default, or the
            readings' own.
        top_n: How many to keep; None keeps all.
        min_score: Least ``rank_score`` to keep.
        scores: Tell ``rank_score`` in the metadata. False leaves it out, and what a `GemRetriever`
            told: then one document found twice is the same twice.
        readings: Where readings are kept; None keeps them in memory.
        **fields: Options of `GemModel.from_pretrained` (``device``, ``dtype``, ``revision``).
    """

    model_config = ConfigDict(arbitrary_types_allowed=True)
    aliases = RERANKING

    top_n: int | None = 4
    min_score: float | None = None
    scores: bool = True
    readings: ReadingStore

    def __init__(
        self,
        model: str | Path | GemModel | None = None,
        *,
        readings: ReadingStore | None = None,
        **fields: Any,
    ) -> None:
        own = renamed({"model": model, **fields}, MODEL)
        given, loading = own.pop("model"), {n: own.pop(n) for n in LOADING if n in own}
        if readings is None:
            readings = ReadingStore(as_model(given, **loading))
        elif given is not None or loading:
            readings.require_embeds_as(as_model(given or readings.model, **loading))
        super().__init__(**{**own, "readings": readings})

    @property
    def gem(self) -> GemModel:
        """The model that ranks."""
        return self.readings.model

    @property
    def model(self) -> str:
        """Its name."""
        return name_of(self.gem)

    def compress_documents(
        self,
        documents: Sequence[Document],
        query: str,
        callbacks: Callbacks | None = None,  # noqa: ARG002
    ) -> list[Document]:
        """The best documents, best first, each with ``rank_score`` in its metadata."""
        query = readable(query)
        findings = [finding_of(document) or UNKNOWN for document in documents]
        choice = Choice(
            k=self.top_n,
            rank=self.readings.rank,
            least_rank=self.min_score,
            weights=weights_for(findings, query, self.gem),
        )
        candidates = [
            Candidate(
                document if self.scores else without_scores(document),
                document.page_content,
                finding.score,
                finding.word_score,
            )
            for document, finding in zip(documents, findings, strict=True)
        ]
        return chosen(choice, query, candidates, scores=self.scores)

    async def acompress_documents(
        self,
        documents: Sequence[Document],
        query: str,
        callbacks: Callbacks | None = None,
    ) -> list[Document]:
        """`compress_documents` without blocking the event loop."""
        return await asyncio.to_thread(self.compress_documents, documents, query, callbacks)
