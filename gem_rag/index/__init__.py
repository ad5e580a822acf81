"""GemIndex: chunks, their vectors and metadata, in SQLite, searched with FAISS."""

from gem_rag.index.ann import Kind
from gem_rag.index.filters import FilterError, Where
from gem_rag.index.gem_index import GemIndex
from gem_rag.index.records import Deletion, Hit, IndexInfo, Record

__all__ = ["Deletion", "FilterError", "GemIndex", "Hit", "IndexInfo", "Kind", "Record", "Where"]
