"""gem-rag: one model reads once, and embeds, ranks and answers (GEM, arXiv 2506.04344).

Names are imported when first used: ``import gem_rag`` alone loads neither torch nor a framework.
"""

from __future__ import annotations

from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from gem_rag.compute.reading import Reading
    from gem_rag.documents import Document
    from gem_rag.errors import GemError
    from gem_rag.index import GemIndex
    from gem_rag.model import GemModel
    from gem_rag.rag import Answer, Citation, GemRAG
    from langchain_gem_rag import (
        ChatGem,
        GemEmbeddings,
        GemLLM,
        GemReranker,
        GemRetriever,
        GemVectorStore,
    )

try:
    __version__ = version("gem-rag")
except PackageNotFoundError:  # a source tree that is not installed
    __version__ = "0+unknown"

_HOMES = {
    "Answer": "gem_rag.rag",
    "ChatGem": "langchain_gem_rag",
    "Citation": "gem_rag.rag",
    "Document": "gem_rag.documents",
    "GemEmbeddings": "langchain_gem_rag",
    "GemError": "gem_rag.errors",
    "GemIndex": "gem_rag.index",
    "GemLLM": "langchain_gem_rag",
    "GemModel": "gem_rag.model",
    "GemRAG": "gem_rag.rag",
    "GemReranker": "langchain_gem_rag",
    "GemRetriever": "langchain_gem_rag",
    "GemVectorStore": "langchain_gem_rag",
    "Reading": "gem_rag.compute.reading",
}

__all__ = [
    "Answer",
    "ChatGem",
    "Citation",
    "Document",
    "GemEmbeddings",
    "GemError",
    "GemIndex",
    "GemLLM",
    "GemModel",
    "GemRAG",
    "GemReranker",
    "GemRetriever",
    "GemVectorStore",
    "Reading",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'gem_rag' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *_HOMES])
