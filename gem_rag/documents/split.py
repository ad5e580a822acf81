"""A document to chunks, along headings, paragraphs and sentences, each with its place."""

from __future__ import annotations

import bisect
import re
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from gem_rag.documents.document import Chunk, Document

if TYPE_CHECKING:
    from tokenizers import Tokenizer

CHUNK_TOKENS = 256  # longest chunk where nobody says otherwise

SPLITTER_VERSION = 1  # raised when the same text gives other chunks, so that it is indexed anew


def split(
    document: Document, tokenizer: Tokenizer, *, max_tokens: int = CHUNK_TOKENS
) -> list[Chunk]:
    """Cut a document along headings, paragraphs and sentences.

    Args:
        document: What to cut.
        tokenizer: Counts tokens.
        max_tokens: Longest chunk.

    Returns:
        Chunks in order; none of a document without words.
    """
    splitter = _splitter(tokenizer, document.markdown, max_tokens)
    places, names = _headings(document.text) if document.markdown else ([], [])
    chunks = []
    for start, text in splitter.chunk_indices(document.text):
        if not text.strip():
            continue
        above = bisect.bisect_right(places, start) - 1
        heading = names[above] if above >= 0 else ""
        end = start + len(text)
        chunks.append(Chunk(text, document.source, start, end, heading, document.metadata))
    return chunks


@lru_cache(maxsize=8)  # making one takes a tenth of a second: the whole tokenizer is copied
def _splitter(tokenizer: Tokenizer, markdown: bool, max_tokens: int) -> Any:
    from semantic_text_splitter import MarkdownSplitter, TextSplitter

    kind = MarkdownSplitter if markdown else TextSplitter
    return kind.from_huggingface_tokenizer(tokenizer, max_tokens)


def sections(document: Document) -> list[tuple[str, str]]:
    """What stands under each Markdown heading: ``(heading, body)``, either may be empty."""
    places, names = _headings(document.text)
    out = []
    for start, end, name in zip(places, [*places[1:], None], names, strict=True):
        _, _, body = document.text[start:end].partition("\n")
        out.append((name, body.strip()))
    return out


def _headings(text: str) -> tuple[list[int], list[str]]:
    """Where each Markdown heading starts, and its path from the outermost one."""
    places: list[int] = []
    names: list[str] = []
    path: list[tuple[int, str]] = []
    fence = ""
    at = 0
    for line in text.splitlines(keepends=True):
        mark = re.match(r" {0,3}(`{3,}|~{3,})", line)
        if mark and not fence:
            fence = mark[1]
        elif mark and mark[1].startswith(fence) and not line.strip(" `~\r\n"):
            fence = ""
        heading = None if fence or mark else re.match(r" {0,3}(#{1,6})(?=\s)", line)
        if heading:
            level = len(heading[1])
            path = [(depth, name) for depth, name in path if depth < level]
            path.append((level, _without_closing(line[heading.end() :].strip())))
            places.append(at)
            names.append(" > ".join(name for _, name in path))
        at += len(line)
    return places, names


def _without_closing(name: str) -> str:
    """A heading without the hashes that may close it ("Title ##"; those of "C#" belong to it)."""
    words = name.rstrip("#")
    return words.rstrip() if not words or words[-1].isspace() else name
