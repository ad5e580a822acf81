"""What becomes of PDFs: our reader beside pypdf, pdfplumber, PDFium and markitdown.

Needs two packages more: `pip install reportlab pypdf`. The PDFs are made here; for each reader it
is said whether a question about one could be answered from its text, and how long 55 full pages
take.
"""

from __future__ import annotations

import io
import re
import tempfile
from collections.abc import Callable
from pathlib import Path

import pdfplumber
import pypdf
import pypdfium2
from common import arguments, seconds, show
from markitdown import StreamInfo, converters
from reportlab.lib import colors
from reportlab.lib.styles import getSampleStyleSheet
from reportlab.pdfgen.canvas import Canvas
from reportlab.platypus import Paragraph, SimpleDocTemplate, Table, TableStyle

from gem_rag.documents import load_file

NORMAL = getSampleStyleSheet()["Normal"]
ROWS = [["Model", "Power", "Warranty"], *([f"KX-{i}", f"{i}00 W", f"{i} years"] for i in range(9))]
PROSE = "The quick brown fox jumps over the lazy dog, and the kettle boils. " * 40


def by_pdfium(path: Path) -> str:
    with pypdfium2.PdfDocument(path) as document:
        return "\n".join(page.get_textpage().get_text_range() for page in document)


def by_pdfplumber(path: Path) -> str:
    with pdfplumber.open(path) as document:
        return "\n".join(page.extract_text() for page in document.pages)


def by_markitdown(path: Path) -> str:
    file = io.BytesIO(path.read_bytes())
    return converters.PdfConverter().convert(file, StreamInfo(extension=".pdf")).markdown


READERS: dict[str, Callable[[Path], str]] = {
    "gem-rag": lambda path: load_file(path).text,
    "pypdf": lambda path: "\n".join(page.extract_text() for page in pypdf.PdfReader(path).pages),
    "pdfplumber": by_pdfplumber,
    "PDFium": by_pdfium,
    "markitdown": by_markitdown,
}


def in_one_row(text: str) -> bool:
    return bool(re.search(r"KX-7[^\w\n]+700 W[^\w\n]+7 years", text))


def as_table(text: str) -> bool:
    return bool(re.search(r"\|\s*KX-7\s*\|\s*700 W\s*\|\s*7 years\s*\|", text))


def lined(text: str) -> bool:
    return "Line 3 of a sideways page" in text and "page Line" not in text.replace("\n", "|")


QUESTIONS: dict[str, Callable[[str], bool]] = {
    "a table without rules has its cells in rows": in_one_row,
    "a ruled table is a table": as_table,
    "a sideways page has its words": lined,
    "a sideways ruled table is a table": as_table,
    "what was filled into a form is there": lambda text: "Ada Lovelace" in text,
    "columns are read one after the other": lambda text: (
        text.find("left 19") < text.find("right 0")
    ),
    "a broken word shows that it was": lambda text: bool(re.search(r"well-\s*known", text)),
}


def draw(path: Path, what: Callable[[Canvas], None]) -> None:
    canvas = Canvas(str(path))
    what(canvas)
    canvas.showPage()
    canvas.save()


def table(canvas: Canvas, rules: bool) -> None:
    drawn = Table(ROWS)
    if rules:
        drawn.setStyle(TableStyle([("GRID", (0, 0), (-1, -1), 0.5, colors.black)]))
    drawn.wrapOn(canvas, 400, 400)
    drawn.drawOn(canvas, 50, 300)


def sideways(canvas: Canvas) -> None:
    canvas.translate(595, 0)
    canvas.rotate(90)


def below(canvas: Canvas, lines: list[str], x: int = 50) -> None:
    for i, line in enumerate(lines):
        canvas.drawString(x, 500 - 14 * i, line)


def sideways_lines(canvas: Canvas) -> None:
    sideways(canvas)
    below(canvas, [f"Line {i} of a sideways page" for i in range(6)])


def sideways_table(canvas: Canvas) -> None:
    sideways(canvas)
    table(canvas, rules=True)


def form(canvas: Canvas) -> None:
    canvas.drawString(50, 700, "Name:")
    canvas.acroForm.textfield(name="name", x=100, y=690, value="Ada Lovelace")


def columns(canvas: Canvas) -> None:
    below(canvas, [f"left {i} goes on and" for i in range(20)])
    below(canvas, [f"right {i} says so" for i in range(20)], x=300)


DRAWN: list[Callable[[Canvas], None]] = [
    lambda canvas: table(canvas, rules=False),
    lambda canvas: table(canvas, rules=True),
    sideways_lines,
    sideways_table,
    form,
    columns,
    lambda canvas: below(canvas, ["These are well-", "known facts."]),
]


def main() -> None:
    options = arguments(__doc__ or "").parse_args()
    report: dict[str, object] = {}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "a.pdf"
        for (question, answers), drawing in zip(QUESTIONS.items(), DRAWN, strict=True):
            draw(path, drawing)
            report[question] = {name: answers(read(path)) for name, read in READERS.items()}
        SimpleDocTemplate(str(path)).build([Paragraph(PROSE, NORMAL) for _ in range(100)])
        report["seconds for 55 pages"] = {
            name: round(seconds(lambda read=read: read(path), 1), 2)
            for name, read in READERS.items()
        }
    show(report, options.json)


if __name__ == "__main__":
    main()
