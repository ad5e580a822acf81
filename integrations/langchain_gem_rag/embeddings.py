"""GemEmbeddings: a GEM model as LangChain's embedding class."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from langchain_core.embeddings import Embeddings

from gem_rag.model import GemModel, as_model


class GemEmbeddings(Embeddings):
    """Embeds with a GEM model; the weights are shared with every other user of the checkpoint.

    Args:
        model: A bundled name, folder or hub id, or a loaded `GemModel`; None is the default.
        **options: As for `GemModel.from_pretrained` (``device``, ``dtype``, ``revision``).
    """

    def __init__(self, model: str | Path | GemModel | None = None, **options: Any) -> None:
        self.model: GemModel = as_model(model, **options)

    def embed_documents(self, texts: list[str]) -> list[list[float]]:
        """Embed passages, unchanged: unit vectors."""
        out: list[list[float]] = self.model.embed_documents(texts, show_progress=False).tolist()
        return out

    def embed_query(self, text: str) -> list[float]:
        """Embed a question, as a question: a unit vector."""
        out: list[float] = self.model.embed_query(text).tolist()
        return out

    async def aembed_documents(self, texts: list[str]) -> list[list[float]]:
        """`embed_documents` without blocking the event loop."""
        vectors = await self.model.aembed_documents(texts, show_progress=False)
        out: list[list[float]] = vectors.tolist()
        return out

    async def aembed_query(self, text: str) -> list[float]:
        """`embed_query` without blocking the event loop."""
        vector = await self.model.aembed_query(text)
        out: list[float] = vector.tolist()
        return out
