"""LangChain classes over one loaded GEM model."""

from langchain_gem_rag.embeddings import GemEmbeddings

__all__ = ["GemEmbeddings"]
