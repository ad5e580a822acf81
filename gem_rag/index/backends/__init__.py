"""Indexes in other stores than a folder: Qdrant, Milvus, PostgreSQL with pgvector.

Names are imported when first used: each needs its own extra.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from gem_rag.index.backends.milvus import MilvusIndex
    from gem_rag.index.backends.postgres import PostgresIndex
    from gem_rag.index.backends.qdrant import QdrantIndex

__all__ = ["MilvusIndex", "PostgresIndex", "QdrantIndex"]
_HOMES = {"MilvusIndex": "milvus", "PostgresIndex": "postgres", "QdrantIndex": "qdrant"}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
