"""GemDocumentEmbedder: documents' vectors, in Haystack."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from pathlib import Path
from typing import Any

from haystack import Document, component, default_from_dict, default_to_dict
from haystack.utils import ComponentDevice
from haystack_integrations.common.gem_rag import NamedModel, words_of

from gem_rag.model import Model
from gem_rag.store import ReadingStore


@component
class GemDocumentEmbedder:
    """Embeds documents as documents; questions are `GemTextEmbedder`'s.

    Args:
        model: A bundled name, folder or hub id, or a loaded `GemModel`; None is the default.
        device: Where it runs; None chooses.
        dtype: As for `GemModel.from_pretrained`, like ``revision``.
        revision: Of a hub id.
        readings: A folder in which what was read of the documents is kept while there is room; a
            `GemRanker` with the same folder need not read them again.
        progress_bar: Show how far it is, where that takes a while.
        meta_fields_to_embed: Metadata that is embedded before the content.
        embedding_separator: Between them.
    """

    def __init__(
        self,
        model: Model = None,
        *,
        device: ComponentDevice | None = None,
        dtype: str = "auto",
        revision: str | None = None,
        readings: str | Path | None = None,
        progress_bar: bool = True,
        meta_fields_to_embed: list[str] | None = None,
        embedding_separator: str = "\n",
    ) -> None:
        self._named = NamedModel(model, device, dtype, revision)
        self.model = self._named.name
        self.readings = None if readings is None else str(readings)
        self.progress_bar = progress_bar
        self.meta_fields_to_embed = meta_fields_to_embed or []
        self.embedding_separator = embedding_separator

    def warm_up(self) -> None:
        """Load the model, unless it is loaded."""
        self._named.load()

    def to_dict(self) -> dict[str, Any]:
        """The component as a dict."""
        return default_to_dict(
            self,
            **self._named.to_dict(),
            readings=self.readings,
            progress_bar=self.progress_bar,
            meta_fields_to_embed=self.meta_fields_to_embed,
            embedding_separator=self.embedding_separator,
        )

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> GemDocumentEmbedder:
        """The component of such a dict."""
        return default_from_dict(cls, data)

    @component.output_types(documents=list[Document], meta=dict[str, Any])
    def run(self, documents: list[Document]) -> dict[str, Any]:
        """Embed documents.

        Args:
            documents: Of text.

        Returns:
            ``documents``: copies with a unit vector each; ``meta``: the model's name.

        Raises:
            TypeError: They are no documents.
        """
        _require_documents(documents)
        words = [
            words_of(one, self.meta_fields_to_embed, self.embedding_separator) for one in documents
        ]
        if self.readings is not None:
            vectors = ReadingStore(self._named.load(), self.readings).embed(words)
        else:
            show = None if self.progress_bar else False  # None shows one where it takes a while
            vectors = self._named.load().embed_documents(words, show_progress=show)
        embedded = zip(documents, vectors.tolist(), strict=True)
        return {
            "documents": [replace(document, embedding=vector) for document, vector in embedded],
            "meta": {"model": self.model},
        }

    @component.output_types(documents=list[Document], meta=dict[str, Any])
    async def run_async(self, documents: list[Document]) -> dict[str, Any]:
        """`run` without blocking the event loop."""
        return await asyncio.to_thread(self.run, documents)


def _require_documents(documents: object) -> None:
    if not isinstance(documents, list) or not all(isinstance(d, Document) for d in documents):
        raise TypeError(
            f"GemDocumentEmbedder got {type(documents).__name__}; expected a list of documents: a "
            "question is for GemTextEmbedder"
        )
