"""Files to text, text to chunks, each chunk with the place it came from."""

from gem_rag.documents.document import Chunk, Document
from gem_rag.documents.find import (
    Found,
    content_hash,
    existing,
    find,
    find_files,
    is_gone,
    path_name,
)
from gem_rag.documents.headings import sections
from gem_rag.documents.kinds import CODE, CONVERTED, KNOWN, MARKDOWN, PLAIN
from gem_rag.documents.load import load_file
from gem_rag.documents.split import CHUNK_TOKENS, SPLITTER_VERSION, split
from gem_rag.documents.words import Shown

__all__ = [
    "CHUNK_TOKENS",
    "CODE",
    "CONVERTED",
    "KNOWN",
    "MARKDOWN",
    "PLAIN",
    "SPLITTER_VERSION",
    "Chunk",
    "Document",
    "Found",
    "Shown",
    "content_hash",
    "existing",
    "find",
    "find_files",
    "is_gone",
    "load_file",
    "path_name",
    "sections",
    "split",
]
