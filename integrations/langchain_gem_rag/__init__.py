"""LangChain classes over one loaded GEM model."""

from langchain_gem_rag.chat import ChatGem
from langchain_gem_rag.embeddings import GemEmbeddings
from langchain_gem_rag.llm import GemLLM
from langchain_gem_rag.reranker import GemReranker
from langchain_gem_rag.retriever import GemRetriever
from langchain_gem_rag.translator import GemTranslator
from langchain_gem_rag.vectorstore import GemVectorStore

__all__ = [
    "ChatGem",
    "GemEmbeddings",
    "GemLLM",
    "GemReranker",
    "GemRetriever",
    "GemTranslator",
    "GemVectorStore",
]
