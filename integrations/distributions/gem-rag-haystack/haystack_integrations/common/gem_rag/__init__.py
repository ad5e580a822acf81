"""What gem-rag's Haystack components share: the model they name, and the words of a document."""

from haystack_integrations.common.gem_rag.documents import words_of
from haystack_integrations.common.gem_rag.named import NamedModel

__all__ = ["NamedModel", "words_of"]
