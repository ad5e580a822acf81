"""LlamaIndex's reranker of gem-rag, where LlamaHub's users look for it."""

from llama_index_gem_rag import GemReranker

__all__ = ["GemReranker"]
