"""Summaries without a search: sentences of the document itself, each with its passage.

What a document says of itself where its sections begin reads better than what a small model makes
of it, is never invented, and costs no run of the model.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby, islice
from typing import TypeVar

from gem_rag.documents.pieces import has_words
from gem_rag.documents.words import BETWEEN
from gem_rag.engine.options import GenerationOptions
from gem_rag.index.records import Hit, Record
from gem_rag.model import GemModel
from gem_rag.rag.answer import SaidStream
from gem_rag.rag.citation import Citation
from gem_rag.rag.leads import sentences

MOST_PARTS = 12  # of a document that a summary is made of
FEW_SECTIONS = 4  # with fewer, passages stand for themselves
LOOKED_AT = 3  # passages of a section in which its first sentence is looked for
OPENING = 2  # sentences of a document's beginning
ALONE = 4  # and of a document that is one passage
MOST_WORDS = 45  # of a sentence; a longer one only for want of others
LONGEST_LINE = 160  # characters of a line that stands for a sentence where there is none
OFFERED = 8  # sentences of a passage that are looked at
DEEPEST = 6  # level of a heading
T = TypeVar("T")


@dataclass(frozen=True)
class Line:
    """One line of a summary.

    Attributes:
        heading: Of the section that it speaks for, where that has one.
        text: Sentences of the passage.
        chunk: The passage.
    """

    heading: str
    text: str
    chunk: Record


def summarise(chunks: Sequence[Record], model: GemModel, options: GenerationOptions) -> SaidStream:
    """A document's summary, with the passages that its sentences are from.

    Args:
        chunks: The document's, in any order; at least one.
        model: Counts tokens.
        options: Their longest answer leaves parts out until it is kept; their stop strings end it.
    """
    started = time.perf_counter()
    most = options.max_new_tokens
    lines = _lines(sorted(chunks, key=lambda chunk: chunk.start or 0))
    for count in range(len(lines), 0, -1):
        pieces, cited = _written(spread(lines, count))
        ids = model.codec.encode("".join(pieces))
        if len(ids) <= most:
            return SaidStream(_before(options.stops, pieces), "stop", cited, started)
    cut = model.codec.decode(ids[:most])
    return SaidStream(_before(options.stops, [cut]), "length", cited, started)


def spread(items: Sequence[T], count: int) -> list[T]:
    """So many of the items at most, the first among them, the others evenly from all of them."""
    few = min(count, len(items))
    return [items[i * len(items) // few] for i in range(few)]


def _lines(chunks: Sequence[Record]) -> list[Line]:
    """A line for the document's beginning and for each of its parts."""
    parts = spread(_parts(chunks), MOST_PARTS)
    lines = [_line(part, OPENING if len(parts) > 1 else ALONE) for part in parts[:1]]
    return lines + [_line(part, 1) for part in parts[1:]]


def _parts(chunks: Sequence[Record]) -> list[list[Record]]:
    """Sections, as deep as few enough have their place; passages, where there are no sections."""
    found = _sections(chunks, 1)
    for depth in range(2, DEEPEST + 1):
        deeper = _sections(chunks, depth)
        if len(deeper) > MOST_PARTS:
            break
        found = deeper
    return found if len(found) >= FEW_SECTIONS else [[chunk] for chunk in chunks]


def _sections(chunks: Sequence[Record], depth: int) -> list[list[Record]]:
    return [
        list(part) for _, part in groupby(chunks, lambda c: tuple(c.heading.split(BETWEEN)[:depth]))
    ]


def _line(part: Sequence[Record], most: int) -> Line:
    """What a part of the document begins with, from the first passage that has a sentence."""
    for chunk in part[:LOOKED_AT]:
        found = list(islice(sentences(chunk.text), OFFERED))
        short = [s for s in found if len(s.split()) <= MOST_WORDS]
        if found:
            return Line(_heading(chunk), " ".join((short or found)[:most]), chunk)
    first = part[0]
    heading = _heading(first)
    rows = (" ".join(row.split()) for row in first.text.splitlines() if has_words(row))
    return Line(heading, "" if heading else next(rows, "")[:LONGEST_LINE], first)


def _heading(chunk: Record) -> str:
    """The innermost heading that a passage stands under."""
    return chunk.heading.split(BETWEEN)[-1]


def _written(lines: Sequence[Line]) -> tuple[list[str], list[Citation]]:
    """Lines as text, numbered by the passages that are cited."""
    cited: dict[str, Citation] = {}
    pieces: list[str] = []
    for line in lines:
        cited.setdefault(line.chunk.id, Citation.of(_as_hit(line.chunk)))
        said = f"{line.text} [{list(cited).index(line.chunk.id) + 1}]".strip()
        if pieces:
            said = f"\n- {line.heading}: {said}" if line.heading else f"\n- {said}"
        pieces.append(said)
    return pieces, list(cited.values())


def _as_hit(chunk: Record) -> Hit:
    """A passage that was not searched for."""
    return Hit(
        chunk.id,
        chunk.text,
        chunk.metadata,
        None,
        source=chunk.source,
        start=chunk.start,
        end=chunk.end,
        heading=chunk.heading,
        page=chunk.page,
        read=chunk.read,
    )


def _before(stops: Sequence[str], pieces: Sequence[str]) -> list[str]:
    """Pieces up to the first stop string."""
    text = "".join(pieces)
    places = [place for stop in stops if (place := text.find(stop)) >= 0]
    return [text[: min(places)]] if places else list(pieces)
