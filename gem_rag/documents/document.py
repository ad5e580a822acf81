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
        markdown: Whether headings are Markdown's.
    """

    text: str
    source: str
    metadata: Mapping[str, Any] = field(default_factory=dict)
    markdown: bool = False


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
    """

    text: str
    source: str
    start: int
    end: int
    heading: str = ""
    metadata: Mapping[str, Any] = field(default_factory=dict)
