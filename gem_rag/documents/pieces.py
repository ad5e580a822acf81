"""Which pieces a document has: sections of a text, definitions of a program, rows of a table."""

from __future__ import annotations

import ast
import bisect
import re
from collections.abc import Callable, Iterator
from typing import NamedTuple

from gem_rag.documents.document import Document
from gem_rag.documents.headings import Heading, headings
from gem_rag.documents.kinds import is_code, kind_of

_LINE = re.compile(r"[^\n]*\n|[^\n]+")
_WORD = re.compile(r"[^\W_]|[^\x00-\x7f\u2010-\u2027\u2500-\u257f]")  # or a sign, such as a tick
_COMMENT = re.compile(r"<!--.*?-->", re.DOTALL)
_Definition = ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef


class Section(NamedTuple):
    """A heading, or several without a word between, and what stands below it.

    Attributes:
        start: Where it starts in the text.
        body: Where what stands below its heading starts.
        end: Where it ends.
        path: The headings it stands under, its own last; empty where it has none.
        own: The names of the headings that it begins with.
        level: Of its outermost own heading; 0 without one.
    """

    start: int
    body: int
    end: int
    path: tuple[str, ...] = ()
    own: tuple[str, ...] = ()
    level: int = 0


def sections_of(document: Document) -> list[Section]:
    """A document's sections; together they are its whole text."""
    text = document.text
    if document.markdown:
        sections = _by_headings(text)
        return list(_at_pages(sections, document)) if document.pages else sections
    if kind_of(document.source) in (".py", ".pyi"):
        return _by_definitions(text) or [Section(0, 0, len(text))]
    if is_code(document.source):
        return _by_blocks(text)
    return [Section(0, 0, len(text))]


def _by_headings(text: str) -> list[Section]:
    found = headings(text)
    starts = [heading.start for heading in found] + [len(text)]
    sections = [Section(0, 0, starts[0])] if text[: starts[0]].strip() else []
    waiting: list[Heading] = []  # headings with nothing below them
    for heading, end in zip(found, starts[1:], strict=True):
        waiting.append(heading)
        if says_something(text[heading.end : end]):
            own = tuple(each.path[-1] for each in waiting)
            first = waiting[0]
            part = Section(first.start, heading.end, end, heading.path, own, first.level)
            sections.append(part)
            waiting = []
    if waiting and sections:
        sections[-1] = sections[-1]._replace(end=len(text))
    elif waiting:
        sections.append(Section(0, 0, len(text), waiting[-1].path, (waiting[-1].path[-1],), 1))
    return sections


def _at_pages(sections: list[Section], document: Document) -> Iterator[Section]:
    """Sections cut where pages start, so that a chunk's page is that of all its words."""
    for section in sections:
        first = bisect.bisect_right(document.pages, section.body)
        last = bisect.bisect_left(document.pages, section.end)
        starts = [section.start, *document.pages[first:last]]
        for start, end in zip(starts, [*starts[1:], section.end], strict=True):
            if start == section.start:
                yield section._replace(end=end)
            elif document.text[start:end].strip():
                yield section._replace(start=start, body=start, end=end, own=())


def says_something(body: str) -> bool:
    """Whether there are words in a text, comments aside."""
    return has_words(_COMMENT.sub("", body))


def has_words(text: str) -> bool:
    """Whether there is more in a text than marks, rules and fences."""
    return bool(_WORD.search(text))


# Programs


def _by_definitions(text: str) -> list[Section]:
    """A Python program's functions, classes and methods, and what stands between; [] of no one."""
    try:
        tree = ast.parse(text.replace("\r\n", "\n"))
    except (SyntaxError, ValueError, RecursionError):
        return []
    lines = _LINE.findall(text)
    places = [0]
    for line in lines:
        places.append(places[-1] + len(line))
    marks = [_Mark(0, (), ()), *_marks(tree, lines, ())]
    ends = [places[mark.line] for mark in marks[1:]] + [len(text)]
    sections = [
        Section(places[m.line], places[m.line], end, m.path, m.own, len(m.path))
        for m, end in zip(marks, ends, strict=True)
    ]
    return [section for section in sections if text[section.start : section.end].strip()]


class _Mark(NamedTuple):
    """A line (0 is the first) at which something begins, and its qualified name."""

    line: int
    path: tuple[str, ...]
    own: tuple[str, ...]


def _marks(
    node: ast.Module | ast.ClassDef, lines: list[str], path: tuple[str, ...]
) -> Iterator[_Mark]:
    after = None  # the line after the last definition
    for child in node.body:
        if isinstance(child, _Definition):
            first = min([child.lineno, *(d.lineno for d in child.decorator_list)]) - 1
            while first and lines[first - 1].lstrip().startswith("#"):
                first -= 1  # comments above belong to it
            yield _Mark(first, (*path, child.name), (child.name,))
            if isinstance(child, ast.ClassDef):
                yield from _marks(child, lines, (*path, child.name))
            after = child.end_lineno
        elif after is not None:
            yield _Mark(after, path, ())
            after = None


def _by_blocks(text: str) -> list[Section]:
    """A program's outermost blocks: they begin at the margin, below an empty line."""
    starts = [0, *(m.start(1) for m in re.finditer(r"\n\s*\n(?=[^\s})\]])()", text))]
    ends = [*starts[1:], len(text)]
    pairs = zip(starts, ends, strict=True)
    return [Section(start, start, end) for start, end in pairs if text[start:end].strip()]


# Rows


def records(text: str, start: int, end: int, *, quoted: bool) -> list[tuple[int, int]]:
    """Where each row of a table starts and ends; a cell in quotes may run over several lines."""
    rows: list[tuple[int, int]] = []
    first, quotes = start, 0
    for line in _LINE.finditer(text, start, end):
        quotes += line[0].count('"') if quoted else 0
        if quotes % 2 == 0:
            rows.append((first, line.end()))
            first = line.end()
    if first < end:  # a quote that is never closed is none
        rows += records(text, first, end, quoted=False)
    return rows


def has_header(row: str) -> bool:
    """Whether a table's first row looks like names of columns rather than like values."""
    cells = [cell.strip(" \"'\r\n") for cell in re.split(r"[,;\t|]", row)]
    return len(cells) > 1 and not any(re.fullmatch(r"[-+]?[\d.,:/ ]*\d", cell) for cell in cells)


def packed(spans: list[tuple[int, int]], fits: Callable[[int, int], bool]) -> list[tuple[int, int]]:
    """Neighbouring spans put together as long as they fit."""
    out: list[tuple[int, int]] = []
    for start, end in spans:
        if out and fits(out[-1][0], end):
            out[-1] = (out[-1][0], end)
        else:
            out.append((start, end))
    return out
