"""PDF as Markdown, page by page: its text, its form fields, and its ruled tables."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import TYPE_CHECKING

from gem_rag.documents.document import Document
from gem_rag.documents.fields import fields_of
from gem_rag.documents.office import encrypted_error, paged
from gem_rag.documents.ruled import RuledTables
from gem_rag.errors import DocumentError

if TYPE_CHECKING:
    from pypdfium2 import PdfDocument, PdfPage

FEWEST_RULES = 2  # lines or boxes, across and down, on a page that may hold a ruled table
LONG = 6.0  # points; what is shorter is a line's thickness
BOX = 5  # segments
NO_CHARACTER = "\ufffe"  # PDFium's for a hyphen and the line's end that it takes for a broken word
_one_at_a_time = threading.Lock()  # PDFium knows no threads


def read_pdf(path: Path) -> Document:
    """A PDF's pages; of those without text the numbers are noted."""
    with _one_at_a_time:
        return _read(path)


def _read(path: Path) -> Document:
    import pypdfium2

    try:
        document = pypdfium2.PdfDocument(path)
    except pypdfium2.PdfiumError as error:
        if "password" in str(error).lower():
            raise encrypted_error(path) from error
        raise
    with document:
        tables, fields = RuledTables(), _fields(document, path)
        texts = [
            _cleaned(f"{_page(document, number, tables)}\n\n" + "\n".join(fields.get(number, [])))
            for number in range(len(document))
        ]
        blank = [number for number, text in enumerate(texts, 1) if not text]
        if len(blank) == len(texts) and any(map(_has_pictures, document)):
            raise DocumentError(
                f"{path} holds no text that can be read; if it is a scan, run text recognition "
                "on it"
            )
    hold = "holds" if len(blank) == 1 else "hold"
    note = f"{len(blank)} of {len(texts)} pages {hold} no text: {_ranges(blank)}"
    return paged(texts, path, notes=(note,) if blank else ())


def _page(document: PdfDocument, number: int, tables: RuledTables) -> str:
    page = document[number]
    text = tables.text(document, number) if _has_grid(page) else None
    if text is None:
        tables.end_here()
        text = page.get_textpage().get_text_range().replace(NO_CHARACTER, "-\n")
    return text


def _has_grid(page: PdfPage) -> bool:
    from pypdfium2 import raw

    across = down = 0
    for path in page.get_objects(filter=[raw.FPDF_PAGEOBJ_PATH]):
        left, bottom, right, top = path.get_bounds()
        drawn = FEWEST_RULES if raw.FPDFPath_CountSegments(path) > BOX else 1  # a grid in one go
        across += drawn * (right - left > LONG)
        down += drawn * (top - bottom > LONG)
    return min(across, down) >= FEWEST_RULES


def _cleaned(text: str) -> str:
    text = text.replace("\r\n", "\n").encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    return text.strip("\0 \n")


def _fields(document: PdfDocument, path: Path) -> dict[int, list[str]]:
    from pypdfium2 import raw

    noted = any(raw.FPDFPage_GetAnnotCount(page) for page in document)
    return fields_of(path) if noted else {}


def _has_pictures(page: PdfPage) -> bool:
    return any(True for _ in page.get_objects())


def _ranges(numbers: list[int]) -> str:
    """Numbers with runs drawn together: "2, 5-7"."""
    runs: list[list[int]] = []
    for number in numbers:
        if runs and number == runs[-1][-1] + 1:
            runs[-1] = [runs[-1][0], number]
        else:
            runs.append([number])
    return ", ".join("-".join(map(str, run)) for run in runs)
