"""Files to text, text to chunks, each chunk with the place it came from."""

from gem_rag.documents.document import Chunk, Document
from gem_rag.documents.find import (
    CONVERTED,
    KNOWN,
    MARKDOWN,
    PLAIN,
    content_hash,
    existing,
    find_files,
)
from gem_rag.documents.load import load_file
from gem_rag.documents.split import CHUNK_TOKENS, sections, split

__all__ = [
    "CHUNK_TOKENS",
    "CONVERTED",
    "KNOWN",
    "MARKDOWN",
    "PLAIN",
    "Chunk",
    "Document",
    "content_hash",
    "existing",
    "find_files",
    "load_file",
    "sections",
    "split",
]
