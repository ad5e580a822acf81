"""Haystack's embedders over a GEM model: a document's and a query's."""

from haystack_integrations.components.embedders.gem_rag.document_embedder import (
    GemDocumentEmbedder,
)
from haystack_integrations.components.embedders.gem_rag.text_embedder import GemTextEmbedder

__all__ = ["GemDocumentEmbedder", "GemTextEmbedder"]
