"""LlamaIndex classes over one loaded GEM model."""

from gem_rag.errors import MissingExtraError

try:
    import llama_index.core  # noqa: F401
except ImportError as error:
    raise MissingExtraError("llama_index_gem_rag", "llama-index") from error

from llama_index_gem_rag.embedding import GemEmbedding
from llama_index_gem_rag.llm import GemLLM
from llama_index_gem_rag.reranker import GemReranker
from llama_index_gem_rag.retriever import GemRetriever
from llama_index_gem_rag.settings import use_gem
from llama_index_gem_rag.vector_store import GemVectorStore

__all__ = [
    "GemEmbedding",
    "GemLLM",
    "GemReranker",
    "GemRetriever",
    "GemVectorStore",
    "use_gem",
]
