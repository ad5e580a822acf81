"""A file as text."""

from __future__ import annotations

from pathlib import Path

from gem_rag.documents.document import Document
from gem_rag.documents.find import CONVERTED, MARKDOWN
from gem_rag.errors import DocumentError, MissingExtraError


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
