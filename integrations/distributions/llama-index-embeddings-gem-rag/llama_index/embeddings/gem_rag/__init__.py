"""LlamaIndex's embedding class of gem-rag, where LlamaHub's users look for it."""

from llama_index_gem_rag import GemEmbedding

__all__ = ["GemEmbedding"]
