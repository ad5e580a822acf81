"""GemEmbeddings: a GEM model as LangChain's embedding class."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from langchain_core.embeddings import Embeddings
from langchain_core.stores import ByteStore

from gem_rag.arguments import renamed
from gem_rag.model import GemModel, as_model, name_of
from langchain_gem_rag.cache import VectorCache
from langchain_gem_rag.options import MODEL


class GemEmbeddings(Embeddings):
    """Embeds with a GEM model; the weights are shared with every other user of the checkpoint.

    Args:
        model: A bundled name, folder or hub id, or a loaded `GemModel`; None is the default.
        cache: One of LangChain's byte stores, to keep vectors in: each text and each query is
            embedded once. (`CacheBackedEmbeddings(query_embedding_cache=True)` would take a text's
            vector for a query's.)
        **options: As for `GemModel.from_pretrained` (``device``, ``dtype``, ``revision``).

    Attributes:
        model: The checkpoint's name, a string.
        gem: The loaded model.
        cache: Where vectors are kept; None keeps none.
    """

    def __init__(
        self,
        model: str | Path | GemModel | None = None,
        *,
        cache: ByteStore | None = None,
        **options: Any,
    ) -> None:
        own = renamed({"model": model, **options}, MODEL)
        given = own.pop("model")
        self.gem: GemModel = as_model(given, **own)
        self.model: str = name_of(self.gem, given)
        self.cache = None if cache is None else VectorCache(cache, self.gem.fingerprint)

    def embed_documents(self, texts: list[str]) -> list[list[float]]:
        """Embed passages, unchanged: unit vectors."""
        if self.cache is None:
            return self._embedded(texts)
        kept = self.cache.get("document", texts)
        missing = _missing(texts, kept)
        new = self._embedded(missing) if missing else []
        self.cache.put("document", missing, new)
        return _filled(texts, kept, missing, new)

    def embed_query(self, text: str) -> list[float]:
        """Embed a question, as a question: a unit vector."""
        kept = None if self.cache is None else self.cache.get("query", [text])[0]
        if kept is not None:
            return kept
        out: list[float] = self.gem.embed_query(text).tolist()
        if self.cache is not None:
            self.cache.put("query", [text], [out])
        return out

    async def aembed_documents(self, texts: list[str]) -> list[list[float]]:
        """`embed_documents` without blocking the event loop."""
        if self.cache is None:
            return await self._aembedded(texts)
        kept = await self.cache.aget("document", texts)
        missing = _missing(texts, kept)
        new = await self._aembedded(missing) if missing else []
        await self.cache.aput("document", missing, new)
        return _filled(texts, kept, missing, new)

    async def aembed_query(self, text: str) -> list[float]:
        """`embed_query` without blocking the event loop."""
        kept = None if self.cache is None else (await self.cache.aget("query", [text]))[0]
        if kept is not None:
            return kept
        out: list[float] = (await self.gem.aembed_query(text)).tolist()
        if self.cache is not None:
            await self.cache.aput("query", [text], [out])
        return out

    def _embedded(self, texts: list[str]) -> list[list[float]]:
        out: list[list[float]] = self.gem.embed_documents(texts, show_progress=False).tolist()
        return out

    async def _aembedded(self, texts: list[str]) -> list[list[float]]:
        vectors = await self.gem.aembed_documents(texts, show_progress=False)
        out: list[list[float]] = vectors.tolist()
        return out


def _missing(texts: list[str], kept: Sequence[list[float] | None]) -> list[str]:
    pairs = zip(texts, kept, strict=True)
    return list(dict.fromkeys(text for text, vector in pairs if vector is None))


def _filled(
    texts: list[str],
    kept: Sequence[list[float] | None],
    missing: list[str],
    new: list[list[float]],
) -> list[list[float]]:
    """Kept vectors, and new ones where there are none."""
    made = dict(zip(missing, new, strict=True))
    return [
        made[text] if vector is None else vector for text, vector in zip(texts, kept, strict=True)
    ]
