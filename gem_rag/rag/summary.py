"""Summaries without a search: sentences of the document itself, each with its passage.

What a document says of itself where its sections begin reads better than what a small model makes
of it, is never invented, and costs no run of the model.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby, islice
from textwrap import shorten
from typing import TypeVar

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
WORDS = range(5, 36)  # of a line's first sentence; others only for want of such a one
SHORTENED = 160  # characters that stand for a sentence where there is none, and no heading
OFFERED = 8  # sentences of a passage that are looked at
DEEPEST = 6  # level of a heading
T = TypeVar("T")


@dataclass(frozen=True)
class Line:
    """One line of a summary.

    Attributes:
        heading: Of the section that it speaks for, where that has one.
        text: Sentences of the passage; empty where it has none.
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


@dataclass(frozen=True)
class _Part:
    """Passages one after another, and the heading of the section that they are, if they are one."""

    heading: str
    chunks: Sequence[Record]

    def line(self, sentences_wanted: int) -> Line:
        """What it begins with, from the first passage that has a sentence."""
        for chunk in self.chunks[:LOOKED_AT]:
            found = list(islice(sentences(chunk.text), OFFERED))
            lengths = [len(sentence.split()) for sentence in found]
            first = next((i for i, n in enumerate(lengths) if n in WORDS), 0)
            if found:
                said = " ".join(found[first : first + sentences_wanted])
                return Line(self.heading, said, chunk)
        return Line(self.heading, "", self.chunks[0])


def _lines(chunks: Sequence[Record]) -> list[Line]:
    """A line for the document's beginning and for each of its parts."""
    parts = spread(_parts(chunks), MOST_PARTS)
    lines = [part.line(OPENING if len(parts) > 1 else ALONE) for part in parts[:1]]
    lines += [part.line(1) for part in parts[1:]]
    told = {line.heading for line in lines if line.text}
    kept = [line for line in lines if line.text or line.heading not in told | {""}]
    return kept or [Line("", shorten(line.chunk.text, SHORTENED), line.chunk) for line in lines]


def _parts(chunks: Sequence[Record]) -> list[_Part]:
    """Sections, as deep as few enough have their place; passages, where there are no sections."""
    found: list[_Part] = []
    for depth in range(1, DEEPEST + 1):
        deeper = _sections(chunks, depth)
        if len(found) >= FEW_SECTIONS and len(deeper) > MOST_PARTS:
            break
        found = deeper
    return found if len(found) >= FEW_SECTIONS else [_Part("", [chunk]) for chunk in chunks]


def _sections(chunks: Sequence[Record], depth: int) -> list[_Part]:
    paths = groupby(chunks, lambda chunk: chunk.heading.split(BETWEEN)[:depth])
    return [_Part(path[-1], list(part)) for path, part in paths]


def _written(lines: Sequence[Line]) -> tuple[list[str], list[Citation]]:
    """Lines as text, numbered by the passages that are cited."""
    cited: dict[str, Citation] = {}
    pieces: list[str] = []
    for line in lines:
        cited.setdefault(line.chunk.id, Citation.of(_as_hit(line.chunk)))
        number = list(cited).index(line.chunk.id) + 1
        named = ": ".join(part for part in (line.heading, line.text) if part)
        said = f"\n- {named}" if pieces else line.text or line.heading
        pieces.append(f"{said} [{number}]")
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
