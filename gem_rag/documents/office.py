"""Documents of word processors, slides, books, workbooks and Outlook's messages, as Markdown."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from gem_rag.documents.decode import decode
from gem_rag.documents.document import Document
from gem_rag.documents.html import tidy
from gem_rag.documents.tables import markdown_table
from gem_rag.errors import DocumentError

_COMPOUND = b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1"  # the container of Office files before 2007
_ENCRYPTED = "EncryptedPackage".encode("utf-16-le")
_SLIDE = re.compile(r"\s*<!-- Slide number: \d+ -->\s*")


def read_office(path: Path) -> Document:
    """DOCX and EPUB."""
    from markitdown import StreamInfo, converters

    _require_open(path)
    converter = {".docx": converters.DocxConverter, ".epub": converters.EpubConverter}
    suffix = path.suffix.lower()
    with path.open("rb") as file:
        info = StreamInfo(extension=suffix)
        result = converter[suffix]().convert(file, info, table_infer_header=True)
    title = result.title or ""
    return Document(tidy(result.markdown), str(path), markdown=True, title=title)


def read_slides(path: Path) -> Document:
    """PPTX; each slide is a page."""
    from markitdown import StreamInfo, converters

    _require_open(path)
    with path.open("rb") as file:
        markdown = converters.PptxConverter().convert(file, StreamInfo(extension=".pptx")).markdown
    slides = [tidy(slide) for slide in _SLIDE.split(markdown)[1:]]
    return paged(slides, path)


def paged(texts: list[str], path: Path, *, notes: tuple[str, ...] = ()) -> Document:
    """A document of pages."""
    starts, at = [], 0
    for text in texts:
        starts.append(at)
        at += len(text) + 2
    return Document("\n\n".join(texts), str(path), markdown=True, pages=tuple(starts), notes=notes)


def read_message(path: Path) -> Document:
    """Outlook's MSG."""
    from markitdown import StreamInfo, converters

    with path.open("rb") as file:
        result = converters.OutlookMsgConverter().convert(file, StreamInfo(extension=".msg"))
    text = tidy(result.markdown).removeprefix("# Email Message").lstrip()
    return Document(text, str(path), markdown=True, title=result.title or "")


def read_workbook(path: Path) -> Document:
    """XLSX, XLS, XLSB and ODS: a section and a table for each sheet."""
    from python_calamine import CalamineWorkbook

    _require_open(path)
    parts = []
    with CalamineWorkbook.from_path(path) as workbook:
        for name in workbook.sheet_names:
            rows = workbook.get_sheet_by_name(name).to_python()
            if sheet := _sheet(rows):
                parts.append(f"## {name}\n\n{sheet}")
    return Document("\n\n".join(parts), str(path), markdown=True)


def _sheet(cells: Sequence[Sequence[object]]) -> str:
    """A sheet's table, below the lines of one cell that stand above it."""
    rows = [row for row in cells if any(cell != "" for cell in row)]
    above = 0
    while above < len(rows) and sum(cell != "" for cell in rows[above]) == 1:
        above += 1
    if above == len(rows):
        above = 0
    captions = [markdown_table([row]).partition("\n")[0].strip("| ") for row in rows[:above]]
    return "\n\n".join([*captions, markdown_table(rows[above:])]).strip()


def read_rtf(path: Path) -> Document:
    """RTF."""
    from striprtf.striprtf import rtf_to_text

    data = path.read_bytes()
    if not data.lstrip().startswith(b"{\\rtf"):
        raise DocumentError(f"{path} is no RTF; expected it to begin with {{\\rtf")
    text: str = rtf_to_text(decode(data).text, errors="replace")
    return Document(text, str(path))


def _require_open(path: Path) -> None:
    with path.open("rb") as file:
        if file.read(len(_COMPOUND)) != _COMPOUND:
            return
        encrypted = _ENCRYPTED in file.read()
    if encrypted:
        raise encrypted_error(path)
    if path.suffix.lower() not in (".xls", ".msg"):
        raise DocumentError(f"{path} is of an Office before 2007; save it as {path.suffix}")


def encrypted_error(path: Path) -> DocumentError:
    """What is said of a file that needs a password."""
    return DocumentError(f"{path} is encrypted; remove the password")
