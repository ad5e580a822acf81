"""A file as text."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from gem_rag.documents import html, mail, odf, office, pdf, structured
from gem_rag.documents.archive import require_modest
from gem_rag.documents.decode import NoTextError, decode
from gem_rag.documents.document import Document
from gem_rag.documents.headings import front_title
from gem_rag.documents.kinds import CONVERTED, MARKDOWN, is_code, kind_of
from gem_rag.errors import DocumentError, GemError, MissingExtraError

READERS: dict[str, Callable[[Path], Document]] = {
    **dict.fromkeys((".html", ".htm", ".xhtml"), html.read_html),
    ".pdf": pdf.read_pdf,
    **dict.fromkeys((".docx", ".epub"), office.read_office),
    ".pptx": office.read_slides,
    **dict.fromkeys((".xlsx", ".xlsm", ".xlsb", ".xls", ".ods"), office.read_workbook),
    **dict.fromkeys((".odt", ".odp"), odf.read_open_document),
    ".rtf": office.read_rtf,
    ".msg": office.read_message,
    ".eml": mail.read_mail,
    ".ipynb": structured.read_notebook,
    ".json": structured.read_json,
    **dict.fromkeys((".jsonl", ".ndjson"), structured.read_records),
    ".xml": structured.read_xml,
}
LOGGERS = ("bs4.dammit", "pdfminer")
_DATA_URI = re.compile(r"data:(?:image|audio|video|font|application|text)/[^,\s]*,[^\s\"'<>)\]]*")


@contextmanager
def _quiet() -> Iterator[None]:
    """Keeps to itself what parsers have to say about files that are not quite right."""
    loggers = [logging.getLogger(name) for name in LOGGERS]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


def load_file(path: str | Path) -> Document:
    """A file as text.

    Markdown and plain text as they stand, in whatever encoding they are; HTML, PDF and Office's
    files as Markdown; mail, notebooks and records of JSON and XML as words. A suffix that is not
    known is tried as plain text. Pictures within a text (``data:``) are left out of it.

    Raises:
        DocumentError: The file is no text, is blank, is damaged or needs a password.
        MissingExtraError: It needs the extra ``files``.
    """
    path = Path(path)
    kind = kind_of(path.name)
    try:
        require_modest(path)
        with _quiet():
            document = READERS.get(kind, _plain)(path)
    except ImportError as error:
        raise MissingExtraError(f"reading {kind} files", "files") from error
    except GemError:
        raise
    except Exception as error:  # converters raise whatever their parsers do
        if isinstance(error, OSError) and error.errno is not None:
            raise  # the system's: the file cannot be opened
        reason = str(error).strip().splitlines() or [type(error).__name__]
        raise DocumentError(f"{path} cannot be read as {kind}: {reason[-1]}") from error
    if kind in CONVERTED and not document.text.strip() and path.stat().st_size:
        raise DocumentError(f"{path} is blank: it holds no words")
    if document.pages or is_code(path.name):
        return document
    return replace(document, text=_DATA_URI.sub("", document.text))


def _plain(path: Path) -> Document:
    try:
        text, notes = decode(path.read_bytes())
    except NoTextError as error:
        raise DocumentError(
            f"{path} is no text file: {error}; expected text, or {', '.join(sorted(CONVERTED))}"
        ) from error
    is_markdown = kind_of(path.name) in MARKDOWN
    title = front_title(text) if is_markdown else ""
    return Document(text, str(path), markdown=is_markdown, title=title, notes=notes)
