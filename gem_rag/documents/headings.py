"""Markdown's lines: which are headings, which are tables, which are neither but look like it."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

from gem_rag.documents.document import Document

_FENCE = re.compile(r" {0,3}(`{3,}|~{3,})")
_ATX = re.compile(r" {0,3}(#{1,6})(?=\s)")
_UNDERLINE = re.compile(r" {0,3}(=+|-+)\s*$")
_NO_PARAGRAPH = re.compile(  # what no underline makes a heading
    r"\s*([-*+](\s|$)|[-*_=]{3,}\s*$|[>|#<]|\d+[.)]\s|$)|\s{4}"
)
_RULE = re.compile(r"\s*\|?(\s*:?-+:?\s*\|)+(\s*:?-+:?\s*)?$")  # below a table's header
_BLOCKS = {"<!--": "-->", "<pre": "</pre>", "<script": "</script>", "<style": "</style>"}
_OPENING = re.compile("|".join(_BLOCKS), re.IGNORECASE)
FRONT_MATTER = re.compile(r"\A---[ \t]*\r?\n(.*?\r?\n)(---|\.\.\.)[ \t]*(\r?\n|\Z)", re.DOTALL)
_TITLE = re.compile(r"^title\s*:\s*(.+?)\s*$", re.MULTILINE)


@dataclass(frozen=True)
class Heading:
    """A heading and where it stands.

    Attributes:
        start: Its first character in the text.
        end: One past its last line.
        level: 1 is the outermost.
        path: Its own name last, those above it before.
    """

    start: int
    end: int
    level: int
    path: tuple[str, ...]


class Table(NamedTuple):
    """A table: where it starts, where its rows do, and where it ends."""

    start: int
    rows: int
    end: int


class Line(NamedTuple):
    """A line with its end, and where it starts; `quoted` inside code, comments and front matter."""

    start: int
    text: str
    quoted: bool

    @property
    def end(self) -> int:
        """One past its last character."""
        return self.start + len(self.text)


def lines(text: str) -> Iterator[Line]:
    """The lines of a Markdown text."""
    front = FRONT_MATTER.match(text)
    at, fence, closing = 0, "", ""
    for line in re.findall(r"[^\n]*\n|[^\n]+", text):
        quoted = bool(front and at < front.end()) or bool(fence or closing)
        mark = None if closing or (front and at < front.end()) else _FENCE.match(line)
        if mark and not fence:
            fence, quoted = mark[1], True
        elif mark and mark[1].startswith(fence) and not line.strip(" `~\r\n"):
            fence = ""
        elif not fence:
            opens, closing = bool(closing), _still_open(line, closing)
            quoted = quoted or (not opens and bool(closing))
        yield Line(at, line, quoted)
        at += len(line)


def _still_open(line: str, closing: str) -> str:
    """What closes the comment or block that is open at a line's end; "" where none is."""
    rest = line if closing else re.sub(r"`[^`]*`", "", line)
    while True:
        if closing:
            _, found, rest = rest.lower().partition(closing)
            if not found:
                return closing
            closing = ""
        opening = _OPENING.search(rest)
        if opening is None:
            return ""
        closing, rest = _BLOCKS[opening[0].lower()], rest[opening.end() :]


def headings(text: str) -> list[Heading]:
    """A Markdown text's headings, with hashes before them or underlined."""
    found: list[Heading] = []
    path: list[tuple[int, str]] = []
    before: list[Line] = []  # the two lines before this one
    for line in lines(text):
        level, name, start = 0, "", line.start
        if not line.quoted:
            if hashes := _ATX.match(line.text):
                level, name = len(hashes[1]), _without_closing(line.text[hashes.end() :].strip())
            elif (under := _UNDERLINE.match(line.text)) and _is_one_line_paragraph(before):
                level, name = 1 if under[1][0] == "=" else 2, before[-1].text.strip()
                start = before[-1].start
        if level:
            path = [(depth, above) for depth, above in path if depth < level]
            path.append((level, _plain(name)))
            found.append(Heading(start, line.end, level, tuple(name for _, name in path)))
        before = [*before[-1:], line]
    return found


def _is_one_line_paragraph(before: list[Line]) -> bool:
    *above, line = before or [Line(0, "", True)]
    if line.quoted or _NO_PARAGRAPH.match(line.text):
        return False
    return not above or above[0].quoted or bool(_NO_PARAGRAPH.match(above[0].text))


def _without_closing(name: str) -> str:
    """A heading without the hashes that may close it ("Title ##"; those of "C#" belong to it)."""
    words = name.rstrip("#")
    return words.rstrip() if not words or words[-1].isspace() else name


def _plain(name: str) -> str:
    """A heading's words without the marks of links, emphasis and anchors."""
    name = re.sub(r"\s*\{#[^}]*\}\s*$", "", name)
    name = re.sub(r"!?\[([^\]]*)\]\([^)]*\)", r"\1", name)
    name = re.sub(r"(\*\*|__)(.+?)\1", r"\2", name)
    name = re.sub(r"\\([^\w\s])", r"\1", name)
    return " ".join(name.removesuffix("¶").split())


def sections(document: Document) -> list[tuple[str, str]]:
    """What stands under each Markdown heading: ``(heading, body)``, either may be empty."""
    found = headings(document.text)
    ends = [heading.start for heading in found[1:]] + [len(document.text)]
    return [
        (" > ".join(heading.path), document.text[heading.end : end].strip())
        for heading, end in zip(found, ends, strict=True)
    ]


def front_title(text: str) -> str:
    """The title that a Markdown text's front matter gives, or ""."""
    front = FRONT_MATTER.match(text)
    title = _TITLE.search(front[1]) if front else None
    return title[1].strip("\"'") if title else ""


def tables(text: str) -> list[Table]:
    """A Markdown text's tables."""
    found: list[Table] = []
    before: Line | None = None
    for line in lines(text):
        cells = not line.quoted and "|" in line.text
        if cells and found and found[-1].end == line.start:
            found[-1] = found[-1]._replace(end=line.end)
        elif cells and before and "|" in before.text and _RULE.match(line.text.rstrip()):
            found.append(Table(before.start, line.end, line.end))
        before = None if line.quoted else line
    return found
