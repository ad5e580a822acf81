"""GemRanker: query likelihood as a Haystack ranker."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from haystack import Document, component, default_from_dict, default_to_dict
from haystack.utils import ComponentDevice
from haystack_integrations.common.gem_rag import NamedModel, words_of

from gem_rag.model import Model
from gem_rag.rag.question import readable
from gem_rag.rag.retrieve import Candidate, Choice
from gem_rag.store import ReadingStore


@component
class GemRanker:
    """Ranks documents by how likely each makes the question (zero-shot); after any retriever.

    A document's score is then nats per token of the question, above an empty document. A blank
    question leaves the order as it is. One document twice is ranked once.

    Args:
        model: A bundled name, folder or hub id, or a loaded `GemModel`; None is the default.
        device: Where it runs; None chooses.
        dtype: As for `GemModel.from_pretrained`, like ``revision``.
        revision: Of a hub id.
        top_k: How many documents to keep.
        score_threshold: Least score of a document to keep; None keeps all.
        readings: A folder in which what was read is kept, as of `GemDocumentEmbedder`; None keeps
            it in memory.
        meta_fields_to_embed: Metadata that is read before the content, as it was embedded.
        embedding_separator: Between them.

    Raises:
        ValueError: ``top_k`` is not positive.
    """

    def __init__(
        self,
        model: Model = None,
        *,
        device: ComponentDevice | None = None,
        dtype: str = "auto",
        revision: str | None = None,
        top_k: int = 10,
        score_threshold: float | None = None,
        readings: str | Path | None = None,
        meta_fields_to_embed: list[str] | None = None,
        embedding_separator: str = "\n",
    ) -> None:
        self._named = NamedModel(model, device, dtype, revision)
        self.model = self._named.name
        _require_positive(top_k)
        self.top_k = top_k
        self.score_threshold = score_threshold
        self.readings = None if readings is None else str(readings)
        self.meta_fields_to_embed = meta_fields_to_embed or []
        self.embedding_separator = embedding_separator
        self._store: ReadingStore | None = None

    def to_dict(self) -> dict[str, Any]:
        """The component as a dict."""
        return default_to_dict(
            self,
            **self._named.to_dict(),
            top_k=self.top_k,
            score_threshold=self.score_threshold,
            readings=self.readings,
            meta_fields_to_embed=self.meta_fields_to_embed,
            embedding_separator=self.embedding_separator,
        )

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> GemRanker:
        """The component of such a dict."""
        return default_from_dict(cls, data)

    def warm_up(self) -> None:
        """Load the model and look up what was read, unless that is done."""
        if self._store is None:
            self._store = ReadingStore(self._named.load(), self.readings)

    @component.output_types(documents=list[Document])
    def run(
        self,
        query: str,
        documents: list[Document],
        top_k: int | None = None,
        score_threshold: float | None = None,
    ) -> dict[str, list[Document]]:
        """Rank documents.

        Args:
            query: The question.
            documents: What a retriever found.
            top_k: How many to keep; None is the component's.
            score_threshold: Least score; None is the component's.

        Returns:
            ``documents``: the best, best first, with their scores.

        Raises:
            ValueError: ``top_k`` is not positive.
        """
        kept = self.top_k if top_k is None else top_k
        _require_positive(kept)
        self.warm_up()
        assert self._store is not None
        least = self.score_threshold if score_threshold is None else score_threshold
        choice = Choice(k=kept, rank=self._store.rank, least_rank=least)
        candidates = [
            Candidate(one, words_of(one, self.meta_fields_to_embed, self.embedding_separator))
            for one in _once_each(documents)
        ]
        best = choice.best(readable(query), candidates)
        return {
            "documents": [
                c.item if c.rank_score is None else replace(c.item, score=c.rank_score)
                for c in best
            ]
        }

    @component.output_types(documents=list[Document])
    async def run_async(
        self,
        query: str,
        documents: list[Document],
        top_k: int | None = None,
        score_threshold: float | None = None,
    ) -> dict[str, list[Document]]:
        """`run` without blocking the event loop."""
        return await asyncio.to_thread(self.run, query, documents, top_k, score_threshold)


def _once_each(documents: Sequence[Document]) -> list[Document]:
    """Documents without those found twice, the better scored one kept in the first one's place."""
    found: dict[str, Document] = {}
    for document in documents:
        known = found.setdefault(document.id, document)
        if (document.score or 0.0) > (known.score or 0.0):
            found[document.id] = document
    return list(found.values())


def _require_positive(top_k: int) -> None:
    if top_k <= 0:
        raise ValueError(f"top_k is {top_k}; expected at least 1")
