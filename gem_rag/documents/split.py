"""A document to chunks: sections whole where they fit, cut along sentences where they do not."""

from __future__ import annotations

import bisect
import re
from collections.abc import Iterator
from functools import lru_cache, partial
from typing import TYPE_CHECKING, NamedTuple

from gem_rag.documents.document import Chunk, Document
from gem_rag.documents.headings import headings, tables
from gem_rag.documents.kinds import ROWS, kind_of
from gem_rag.documents.pieces import (
    Section,
    has_header,
    has_words,
    packed,
    records,
    says_something,
    sections_of,
)
from gem_rag.documents.words import BELOW, BETWEEN, SHOWN, Shown, mender, names_above, title_of

if TYPE_CHECKING:
    from tokenizers import Tokenizer

CHUNK_TOKENS = 256  # longest chunk where nobody says otherwise
HEADING = 2  # the part of a chunk, 1 / 2, that its own heading may have
NAMES = 4  # and the names above it, or a table's header row
LONGEST_TOKEN = 40  # characters, about
SEAM = 2  # tokens that two texts may have more together than each for itself
CHAIN = 8  # headings without a word between

_BLANK_LINES = re.compile(r"(?:[ \t]*\r?\n)*")

SPLITTER_VERSION = 1  # raised when the same text gives other chunks, so that it is indexed anew


def split(
    document: Document,
    tokenizer: Tokenizer,
    *,
    max_tokens: int = CHUNK_TOKENS,
    shown: Shown = SHOWN,
) -> list[Chunk]:
    """Cut a document along headings or definitions, paragraphs and sentences.

    A heading stays with the text below it; a table's header row is read with each of its chunks.

    Args:
        document: What to cut.
        tokenizer: Counts tokens.
        max_tokens: Longest chunk as it is read (`Chunk.words`).
        shown: Which names are read before a chunk's text.

    Returns:
        Chunks in order; none of a document without words.

    Raises:
        UnicodeEncodeError: The text holds half a character.
    """
    document.text.encode()
    return _Cutter(document, tokenizer, max_tokens, shown).chunks()


class _Piece(NamedTuple):
    """A part of a section.

    Attributes:
        start: Where it starts in the text.
        end: Where it ends.
        section: What it is a part of.
        header: The header row of the table that it continues.
        opens: Whether it begins where the section does.
    """

    start: int
    end: int
    section: Section
    header: str = ""
    opens: bool = False


class _Cutter:
    def __init__(
        self, document: Document, tokenizer: Tokenizer, max_tokens: int, shown: Shown
    ) -> None:
        self._document = document
        self._text = document.text
        self._max = max_tokens
        self._counted = lru_cache(maxsize=1024)(partial(_count, tokenizer))  # names come often
        self._shown = shown
        self._title = title_of(document)
        self._mend = mender(document)
        self._headings = headings(document.text) if document.markdown else []
        self._tables = tables(document.text) if document.markdown else []

    def chunks(self) -> list[Chunk]:
        """The document's chunks."""
        pieces: list[_Piece] = []
        for section in self._grouped():
            pieces += self._pieces(section)
        with_words = [piece for piece in pieces if has_words(self._slice(piece))]
        return [self._chunk(p) for p in with_words or pieces if self._slice(p).strip()]

    def _grouped(self) -> Iterator[Section]:
        """Sections; neighbours of a page that fit into a chunk as one, but not with one above."""
        pages = set(self._document.pages)
        group: Section | None = None
        for section in sections_of(self._document):
            is_below = group is not None and section.level >= group.level
            if group is not None and is_below and section.start not in pages:
                names, own = group.path or section.path, group.own or section.own
                both = group._replace(end=section.end, path=names, own=own)
                if self._fits(self._whole(both)):
                    group = both
                    continue
            if group is not None:
                yield group
            group = section
        if group is not None:
            yield group

    def _pieces(self, section: Section) -> list[_Piece]:
        whole = self._whole(section)
        if self._fits(whole):
            return [whole]
        heading = self._text[section.start : section.body]
        if len(section.own) > 1 and self._count(heading) > self._max // HEADING:
            last = next(each.start for each in self._headings if each.end == section.body)
            rest = section._replace(start=last, own=section.own[-1:])
            return [
                *self._prose(section, section.start, last, self._max - SEAM),
                *self._pieces(rest),
            ]
        return self._cut(section)

    def _cut(self, section: Section) -> list[_Piece]:
        """Pieces of a section that is too long; the first begins with its heading.

        A part without words (a fence, a rule, an empty heading) goes with the one before it where
        there is room, else with the one after it.
        """
        heading = self._count(self._text[section.start : section.body])
        body = section.body if heading <= self._max // HEADING else section.start
        parts = list(self._parts(section, body, heading if body > section.start else 0))
        out: list[_Piece] = []
        waiting = section.start if body > section.start else None  # where what has no words starts
        for part in parts:
            piece = part if waiting is None else part._replace(start=waiting)
            if self._says_something(part) or self._count(self._slice(piece)) > self._max // HEADING:
                out += self._fitted(piece._replace(opens=not out), part.start)
                waiting = None
            elif waiting is None and out and self._fits(out[-1]._replace(end=part.end)):
                out[-1] = out[-1]._replace(end=part.end)
            else:
                waiting = piece.start
        if waiting is not None:
            tail = _Piece(waiting, section.end, section, opens=not out)
            out += self._with_tail(out.pop(), tail) if out else [tail]
        return [self._trimmed(piece) for piece in out]

    def _fitted(self, piece: _Piece, body: int) -> list[_Piece]:
        """A piece, or several where it became too long by what was put before its `body`."""
        room = self._max - self._count(self._words(piece._replace(end=body)))
        while not self._fits(piece) and room > 0:
            first, *others = self._prose(piece.section, body, piece.end, room, piece.header)
            first = first._replace(start=piece.start, opens=piece.opens)
            if self._fits(first):
                return [first, *others]
            room -= 1 + room // 8
        if self._fits(piece):
            return [piece]
        above = self._names(piece._replace(opens=False)) + piece.header
        room = self._max - self._count(above) - SEAM
        return list(self._prose(piece.section, piece.start, piece.end, room, piece.header))

    def _with_tail(self, last: _Piece, tail: _Piece) -> list[_Piece]:
        """The last piece with what follows it and has no words, the piece cut again if need be."""
        room = self._max - self._count(self._names(tail) + last.header + self._slice(tail))
        pieces = [last]
        if not self._fits(last._replace(end=tail.end)) and room > 0:
            pieces = list(self._prose(last.section, last.start, last.end, room, last.header))
            pieces[0] = pieces[0]._replace(opens=last.opens)
        longer = pieces[-1]._replace(end=tail.end)
        return [*pieces[:-1], longer] if self._fits(longer) else [*pieces, tail]

    def _parts(self, section: Section, start: int, heading: int) -> Iterator[_Piece]:
        """Parts of a section that fit with the names above them.

        Args:
            section: What is cut.
            start: Where what stands below its heading starts.
            heading: Tokens of its own heading, which the first part will have before it.
        """
        names = self._count(self._names(_Piece(start, start, section)))
        room, first_room = self._max - names - SEAM, self._max - max(names, heading) - SEAM
        if kind_of(self._document.source) in ROWS and not self._document.markdown:
            yield from self._rows(section, start, start, section.end, room)
            return
        for table in self._tables:
            is_here = start <= table.start and table.end <= section.end
            if is_here and self._count(self._text[table.start : table.end]) > room:
                yield from self._prose(section, start, table.start, room)
                yield from self._rows(section, table.start, table.rows, table.end, room, first_room)
                start = table.end
        yield from self._prose(section, start, section.end, room)

    def _says_something(self, piece: _Piece) -> bool:
        """Whether there are words in a piece beside headings."""
        body = piece.start
        first = bisect.bisect_left(self._headings, body, key=lambda heading: heading.start)
        for heading in self._headings[first : first + CHAIN]:
            if self._text[body : heading.start].strip():
                break
            body = min(heading.end, piece.end)
        return says_something(self._text[body : piece.end])

    def _prose(
        self, section: Section, start: int, end: int, room: int, header: str = ""
    ) -> Iterator[_Piece]:
        from semantic_text_splitter import MarkdownSplitter, TextSplitter

        kind = MarkdownSplitter if self._document.markdown else TextSplitter
        splitter = kind.from_callback(self._count, max(1, room))
        for at, text in splitter.chunk_indices(self._text[start:end]):
            yield _Piece(start + at, start + at + len(text), section, header)

    def _rows(
        self,
        section: Section,
        start: int,
        first: int,
        end: int,
        room: int,
        first_room: int | None = None,
    ) -> Iterator[_Piece]:
        """A table's rows; `first` is where they begin, `start` where their header does."""
        marked = first > start  # a Markdown table says itself which row is its header
        rows = records(self._text, first, end, quoted=kind_of(self._document.source) == ".csv")
        if not marked and rows and has_header(self._text[rows[0][0] : rows[0][1]]):
            first = rows.pop(0)[1]
        header = self._text[start:first]
        if self._count(header) > self._max // NAMES:
            rows, header = [(start, first), *rows], ""
        elif header and rows:
            rows[0] = (start, rows[0][1])
        elif header:
            rows = [(start, first)]

        def fits(a: int, b: int) -> bool:
            if a > start or first_room is None:
                return self._count((header if a > start else "") + self._text[a:b]) <= room
            return self._count(self._text[a:b]) <= first_room

        for a, b in packed(rows, fits):
            above = header if a > start else ""
            if fits(a, b):
                yield self._trimmed(_Piece(a, b, section, above))
            else:
                yield from self._prose(section, a, b, room - self._count(header), above)

    # A piece

    def _slice(self, piece: _Piece) -> str:
        return self._text[piece.start : piece.end]

    def _whole(self, section: Section) -> _Piece:
        return self._trimmed(_Piece(section.start, section.end, section, opens=True))

    def _trimmed(self, piece: _Piece) -> _Piece:
        """Without blank lines around it."""
        blank = _BLANK_LINES.match(self._text, piece.start, piece.end)
        start = blank.end() if blank else piece.start
        return piece._replace(start=start, end=start + len(self._text[start : piece.end].rstrip()))

    def _names(self, piece: _Piece) -> str:
        """The names above a piece on one line, with an empty one below; the nearest if many."""
        own = piece.section.own if piece.opens else ()
        names = names_above(self._title, piece.section.path, own, self._shown)
        while names:
            line = BETWEEN.join(names) + BELOW
            if self._count(line) <= self._max // NAMES:
                return line
            del names[0]
        return ""

    def _words(self, piece: _Piece) -> str:
        return self._names(piece) + piece.header + self._mend(self._slice(piece))

    def _fits(self, piece: _Piece) -> bool:
        return self._count(self._words(piece)) <= self._max

    def _count(self, text: str) -> int:
        """Tokens; of a text that is far too long some number that is too."""
        return self._counted(text) if len(text) <= LONGEST_TOKEN * self._max else len(text)

    def _chunk(self, piece: _Piece) -> Chunk:
        document, text = self._document, self._slice(piece)
        words = self._words(piece) if self._fits(piece) else text
        return Chunk(
            text,
            document.source,
            piece.start,
            piece.end,
            BETWEEN.join(piece.section.path),
            document.metadata,
            bisect.bisect_right(document.pages, piece.start) or None,
            None if words == text else words,
        )


def _count(tokenizer: Tokenizer, text: str) -> int:
    return len(tokenizer.encode(text, add_special_tokens=False).ids)
