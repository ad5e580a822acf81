"""Ruled tables of a PDF as Markdown, in their place among the page's text."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING, Any

from gem_rag.documents.tables import markdown_table

if TYPE_CHECKING:
    from pdfplumber.page import Page
    from pdfplumber.table import Table
    from pypdfium2 import PdfDocument


class RuledTables:
    """Reads pages with ruled tables; remembers the table that a page ends with."""

    def __init__(self) -> None:
        self._header: list[str | None] | None = None
        self._edges: list[int] = []

    def end_here(self) -> None:
        """A page without tables came: the next table is a new one."""
        self._header = None

    def text(self, document: PdfDocument, number: int) -> str | None:
        """A page's text with its tables as Markdown; None where there is no table.

        Args:
            document: The PDF.
            number: The page's; 0 is the first.
        """
        import pdfplumber

        with pdfplumber.open(_alone(document, number, 0)) as alone:
            if not (turn := _turn(alone.pages[0])):
                return self._with_tables(alone.pages[0])
        with pdfplumber.open(_alone(document, number, turn)) as alone:
            return self._with_tables(alone.pages[0])

    def _with_tables(self, page: Page) -> str | None:
        found = [table for table in page.find_tables() if _is_table(table)]
        return self._text(page, found) if found else None

    def _text(self, page: Page, found: list[Table]) -> str:
        """Bands from top to bottom: what stands above or beside a table, then the table."""
        parts: list[str] = []
        above = 0.0
        for table in sorted(found, key=lambda table: table.bbox[1]):
            words = _words(page, found, above, table.bbox[3])
            parts += [words, markdown_table(self._rows(table, is_first=not any([*parts, words])))]
            above = max(above, table.bbox[3])
        rest = _words(page, found, above, float("inf"))
        if rest:
            self._header = None
        return "\n\n".join(part for part in [*parts, rest] if part)

    def _rows(self, table: Table, is_first: bool) -> list[list[str | None]]:
        """A table's rows; one that goes on from the page before has that one's header again."""
        rows = table.extract()
        edges = sorted({round(cell[0]) for cell in table.cells})
        goes_on = is_first and self._header is not None and edges == self._edges
        if goes_on and self._header is not None and rows[0] != self._header:
            rows = [self._header, *rows]
        self._header, self._edges = rows[0], edges
        return rows


def _alone(document: PdfDocument, number: int, turn: int) -> io.BytesIO:
    """A file of one page, turned clockwise by so many degrees."""
    from pypdfium2 import PdfDocument

    out = io.BytesIO()
    with PdfDocument.new() as single:
        single.import_pages(document, [number])
        single[0].set_rotation((single[0].get_rotation() + turn) % 360)
        single.save(out)
    return out


def _turn(page: Page) -> int:
    """By how much a page has to be turned clockwise for its text to be upright."""
    up = sum(not char["upright"] and char["matrix"][1] > 0 for char in page.chars)
    down = sum(not char["upright"] and char["matrix"][1] < 0 for char in page.chars)
    if 2 * max(up, down) <= len(page.chars):
        return 0
    return 90 if up > down else 270


def _is_table(table: Table) -> bool:
    """Whether ruled lines make a table of text, not a frame around something."""
    rows = table.extract()
    filled = sum(bool(cell and cell.strip()) for row in rows for cell in row)
    return len(rows) > 1 and len(rows[0]) > 1 and 3 * filled >= len(rows) * len(rows[0])


def _words(page: Page, tables: list[Table], top: float, bottom: float) -> str:
    """What stands in a band of a page and in no table."""

    def is_wanted(item: dict[str, Any]) -> bool:
        x, y = (item["x0"] + item["x1"]) / 2, (item["top"] + item["bottom"]) / 2
        within = (t.bbox[0] <= x <= t.bbox[2] and t.bbox[1] <= y <= t.bbox[3] for t in tables)
        return top <= y < bottom and not any(within)

    return page.filter(is_wanted).extract_text().strip()
