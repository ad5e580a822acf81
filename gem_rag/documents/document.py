"""A text with a name, and a piece of it with its place."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Document:
    """A text with a name.

    Attributes:
        text: The whole text; offsets in chunks and citations are characters of it.
        source: Path or any name that is the same next time.
        metadata: Kept with each chunk, for filters.
        markdown: Whether headings and tables are Markdown's.
        title: Of an HTML page or a message; part of the text too. Where there is none, the name of
            the file that `source` names stands for it.
        pages: Where in the text each page starts (PDF, slides); empty where there are none.
        notes: What a user should know about how it was read.
    """

    text: str
    source: str
    metadata: Mapping[str, Any] = field(default_factory=dict)
    markdown: bool = False
    title: str = ""
    pages: tuple[int, ...] = ()
    notes: tuple[str, ...] = ()


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
        page: Where it starts, 1 is the first; None where there are no pages.
        read: What is read and searched for it where that is not `text`: after the names it stands
            under, with a table's header row, broken words mended.
    """

    text: str
    source: str
    start: int
    end: int
    heading: str = ""
    metadata: Mapping[str, Any] = field(default_factory=dict)
    page: int | None = None
    read: str | None = None

    @property
    def words(self) -> str:
        """What is read and searched for it."""
        return self.text if self.read is None else self.read
