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
from gem_rag.rag.retrieve import Candidate, Choice
from gem_rag.store import ReadingStore
from langchain_gem_rag.options import MODEL, RERANKING, StrictFields
from langchain_gem_rag.ranking import chosen


class GemReranker(StrictFields, BaseDocumentCompressor):
    """Ranks documents by query likelihood (zero-shot) and keeps the best.

    Args:
        model: A bundled name, folder or hub id, or a loaded `GemModel`; None is the default, or the
            readings' own.
        top_n: How many to keep; None keeps all.
        min_score: Least ``rank_score`` to keep (nats per token above an empty passage).
        readings: Where readings are kept; None keeps them in memory.
        **fields: Options of `GemModel.from_pretrained` (``device``, ``dtype``, ``revision``).
    """

    model_config = ConfigDict(arbitrary_types_allowed=True)
    aliases = RERANKING

    top_n: int | None = 4
    min_score: float | None = None
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
        choice = Choice(k=self.top_n, rank=self.readings.rank, least_rank=self.min_score)
        return chosen(choice, query, [Candidate(d, d.page_content) for d in documents])

    async def acompress_documents(
        self,
        documents: Sequence[Document],
        query: str,
        callbacks: Callbacks | None = None,
    ) -> list[Document]:
        """`compress_documents` without blocking the event loop."""
        return await asyncio.to_thread(self.compress_documents, documents, query, callbacks)
