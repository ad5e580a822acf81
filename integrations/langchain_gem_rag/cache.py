"""Kept vectors: a text's and a query's of the same words are two."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Literal

import numpy as np
from langchain_core.stores import ByteStore

Kind = Literal["document", "query"]


class VectorCache:
    """Vectors in one of LangChain's byte stores.

    Args:
        store: Any: in memory, of files, of Redis.
        fingerprint: Of the model that embeds; other models' vectors are other entries.
    """

    def __init__(self, store: ByteStore, fingerprint: str) -> None:
        self._store = store
        self._fingerprint = fingerprint

    def get(self, kind: Kind, texts: Sequence[str]) -> list[list[float] | None]:
        """The vectors ``[d]`` of texts; None for those that are not kept."""
        return _decoded(self._store.mget(self._keys(kind, texts)))

    async def aget(self, kind: Kind, texts: Sequence[str]) -> list[list[float] | None]:
        """`get` without blocking the event loop."""
        return _decoded(await self._store.amget(self._keys(kind, texts)))

    def put(self, kind: Kind, texts: Sequence[str], vectors: Sequence[Sequence[float]]) -> None:
        """Keep the vectors ``[n, d]`` of texts."""
        self._store.mset(list(zip(self._keys(kind, texts), _encoded(vectors), strict=True)))

    async def aput(
        self, kind: Kind, texts: Sequence[str], vectors: Sequence[Sequence[float]]
    ) -> None:
        """`put` without blocking the event loop."""
        await self._store.amset(list(zip(self._keys(kind, texts), _encoded(vectors), strict=True)))

    def _keys(self, kind: Kind, texts: Sequence[str]) -> list[str]:
        head = f"{self._fingerprint[:16]}-{kind}-"
        return [
            head + hashlib.sha256(text.encode(errors="surrogatepass")).hexdigest() for text in texts
        ]


def _encoded(vectors: Sequence[Sequence[float]]) -> list[bytes]:
    return [np.asarray(vector, dtype="<f4").tobytes() for vector in vectors]


def _decoded(found: Sequence[bytes | None]) -> list[list[float] | None]:
    return [None if b is None else np.frombuffer(b, dtype="<f4").tolist() for b in found]
