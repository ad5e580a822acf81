"""GemEmbeddings: a GEM model as LangChain's embedding class."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from langchain_core.embeddings import Embeddings

from gem_rag.arguments import renamed
from gem_rag.model import GemModel, as_model, name_of
from langchain_gem_rag.options import MODEL


class GemEmbeddings(Embeddings):
    """Embeds with a GEM model; the weights are shared with every other user of the checkpoint.

    Args:
        model: A bundled name, folder or hub id, or a loaded `GemModel`; None is the default.
        **options: As for `GemModel.from_pretrained` (``device``, ``dtype``, ``revision``).

    Attributes:
        model: The checkpoint's name, a string.
        gem: The loaded model.
    """

    def __init__(self, model: str | Path | GemModel | None = None, **options: Any) -> None:
        own = renamed({"model": model, **options}, MODEL)
        given = own.pop("model")
        self.gem: GemModel = as_model(given, **own)
        self.model: str = name_of(self.gem, given)

    def embed_documents(self, texts: list[str]) -> list[list[float]]:
        """Embed passages, unchanged: unit vectors."""
        out: list[list[float]] = self.gem.embed_documents(texts, show_progress=False).tolist()
        return out

    def embed_query(self, text: str) -> list[float]:
        """Embed a question, as a question: a unit vector."""
        out: list[float] = self.gem.embed_query(text).tolist()
        return out

    async def aembed_documents(self, texts: list[str]) -> list[list[float]]:
        """`embed_documents` without blocking the event loop."""
        vectors = await self.gem.aembed_documents(texts, show_progress=False)
        out: list[list[float]] = vectors.tolist()
        return out

    async def aembed_query(self, text: str) -> list[float]:
        """`embed_query` without blocking the event loop."""
        vector = await self.gem.aembed_query(text)
        out: list[float] = vector.tolist()
        return out
