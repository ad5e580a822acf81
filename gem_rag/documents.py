"""Files to text, text to chunks, each chunk with the place it came from."""

from __future__ import annotations

import bisect
import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gem_rag.errors import DocumentError, MissingExtraError

if TYPE_CHECKING:
    from tokenizers import Tokenizer

MARKDOWN = {".md", ".markdown", ".mdx"}
PLAIN = {".txt", ".text", ".rst", ".adoc", ".org", ".tex", ".log", ".csv", ".json", ".yaml", ".yml"}
CONVERTED = {".html", ".htm", ".pdf", ".docx", ".epub"}
KNOWN = MARKDOWN | PLAIN | CONVERTED


@dataclass(frozen=True)
class Document:
    """A text with a name.

    Attributes:
        text: The whole text; offsets in chunks and citations are characters of it.
        source: Path or any name that is the same next time.
        metadata: Kept with each chunk, for filters.
        markdown: Whether headings are Markdown's.
    """

    text: str
    source: str
    metadata: Mapping[str, Any] = field(default_factory=dict)
    markdown: bool = False


@dataclass(frozen=True)
class Chunk:
    """A piece of a document: ``text == document.text[start:end]``.

    Attributes:
        text: The piece.
        source: The document's.
        start: First character.
        end: One past the last.
        heading: Headings it stands under, outermost first, joined by " > ".
        metadata: The document's.
    """

    text: str
    source: str
    start: int
    end: int
    heading: str = ""
    metadata: Mapping[str, Any] = field(default_factory=dict)


def find_files(paths: Sequence[str | Path]) -> list[Path]:
    """Files named, and files of known kinds under folders named; absolute, sorted, each once.

    Hidden files and folders below a named folder are passed over.

    Raises:
        DocumentError: A path does not exist.
    """
    found: set[Path] = set()
    for path in existing(paths):
        if path.is_file():
            found.add(path)
        else:
            found.update(f for f in path.rglob("*") if _is_wanted(f, path))
    return sorted(found)


def existing(paths: Sequence[str | Path]) -> list[Path]:
    """Files and folders as absolute paths.

    Raises:
        DocumentError: A path does not exist.
    """
    whole = [Path(p).expanduser().resolve() for p in paths]
    for path in whole:
        if not (path.is_file() or path.is_dir()):
            raise DocumentError(f"no file or folder {str(path)!r}; check the path")
    return whole


def _is_wanted(file: Path, root: Path) -> bool:
    hidden = any(part.startswith(".") for part in file.relative_to(root).parts)
    return not hidden and file.suffix.lower() in KNOWN and file.is_file()


def content_hash(path: Path) -> str:
    """sha256 of a file's bytes, in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def load_file(path: str | Path) -> Document:
    """A file as text.

    Markdown and plain text as they stand; HTML, PDF, DOCX and the like through markitdown, as
    Markdown. A suffix that is not known is tried as plain text.

    Raises:
        DocumentError: The file is no text, or is damaged.
        MissingExtraError: It needs the extra ``files``.
    """
    path = Path(path)
    suffix = path.suffix.lower()
    if suffix in CONVERTED:
        return Document(_convert(path), str(path), markdown=True)
    return Document(_decode(path), str(path), markdown=suffix in MARKDOWN)


def _decode(path: Path) -> str:
    data = path.read_bytes()
    wide = data[:2] in (b"\xff\xfe", b"\xfe\xff")
    encodings = ["utf-16"] if wide else ["utf-8-sig", "cp1252"]
    if wide or b"\0" not in data:
        for encoding in encodings:
            try:
                return data.decode(encoding)
            except UnicodeDecodeError:
                continue
    raise DocumentError(
        f"{path} is no text file (it holds binary data); expected text, or {_kinds()}"
    )


def _kinds() -> str:
    return ", ".join(sorted(CONVERTED))


def _convert(path: Path) -> str:
    try:
        from markitdown import MarkItDown, converters
    except ImportError as error:
        raise MissingExtraError(f"reading {path.suffix} files", "files") from error
    # Only converters of real formats: markitdown's fallback would index a broken file's bytes.
    reader = MarkItDown(enable_builtins=False, enable_plugins=False)
    for name in ("HtmlConverter", "PdfConverter", "DocxConverter", "EpubConverter"):
        reader.register_converter(getattr(converters, name)())
    try:
        text: str = reader.convert(path).text_content
    except Exception as error:  # converters raise whatever their parsers do
        reason = str(error).strip().splitlines() or [type(error).__name__]
        raise DocumentError(f"{path} cannot be read as {path.suffix}: {reason[-1]}") from error
    if not text.strip() and path.stat().st_size:
        raise DocumentError(
            f"{path} holds no text that can be read; if it is a scan, run text recognition on it"
        )
    return text


def split(document: Document, tokenizer: Tokenizer, *, max_tokens: int = 256) -> list[Chunk]:
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
