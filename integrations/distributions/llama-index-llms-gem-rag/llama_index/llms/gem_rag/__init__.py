"""LlamaIndex's language model of gem-rag, where LlamaHub's users look for it."""

from llama_index_gem_rag import GemLLM

__all__ = ["GemLLM"]
