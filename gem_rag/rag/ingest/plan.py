"""What there is to do for each source: nothing, or these chunks."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from gem_rag.documents.document import Chunk, Document
from gem_rag.documents.find import content_hash, path_name
from gem_rag.documents.load import load_file
from gem_rag.documents.split import SPLITTER_VERSION, split
from gem_rag.errors import GemError
from gem_rag.index.protocol import Index
from gem_rag.index.records import Passage
from gem_rag.index.values import encode
from gem_rag.rag.ingest.gone import Sight
from gem_rag.rag.ingest.report import Report

if TYPE_CHECKING:
    from tokenizers import Tokenizer

Part = Path | Document
BETWEEN_PARTS = "\n\n"  # of a source that came as several documents, such as a book's pages


class Work(NamedTuple):
    """A source that has to be indexed: its text, and the pieces of it.

    `vectors` are the pieces', float32 ``[n, d]``, where somebody has made them already.
    """

    name: str
    text: str
    digest: str
    passages: list[Passage]
    vectors: np.ndarray | None = None


class Move(NamedTuple):
    """A source that is in the index under another name, whose file is gone."""

    old: str
    name: str


class Seen(NamedTuple):
    """What a look at a source's content gave.

    Attributes:
        name: The source's.
        digest: Of its content and of how it is cut; empty where it could not be read.
        work: What there is to index; None where nothing was cut.
        notes: What a user should know about how it was read.
        problem: Why it cannot be used; empty where it can.
    """

    name: str
    digest: str = ""
    work: Work | None = None
    notes: tuple[str, ...] = ()
    problem: str = ""


@dataclass(frozen=True)
class Cutter:
    """Files and documents to pieces. It knows no index: it can be where the files are.

    Attributes:
        tokenizer: Counts tokens.
        chunk_tokens: Longest chunk.
    """

    tokenizer: Tokenizer
    chunk_tokens: int

    def look(
        self,
        name: str,
        parts: Sequence[Part],
        known: str | None,
        gone: Callable[[], Collection[str]] = tuple,
    ) -> Seen:
        """Look at a source, and cut it unless its content says that this is not needed.

        Args:
            name: The source's.
            parts: What makes it up.
            known: The digest with which it is in the index, and whole.
            gone: Digests of sources that are gone: this may be one of them, moved.
        """
        notes: list[str] = []
        try:
            for part in parts:
                if isinstance(part, Document):
                    encode(dict(part.metadata), "its metadata")  # the index will have to
            digest = f"{_hash(parts)}:{self.chunk_tokens}:{SPLITTER_VERSION}"
            if digest == known or (_are_files(parts) and digest in gone()):
                return Seen(name, digest)
            return Seen(name, digest, self._cut(name, parts, digest, notes), tuple(notes))
        except (GemError, OSError, UnicodeError) as error:
            return Seen(name, notes=tuple(notes), problem=str(error))

    def _cut(self, name: str, parts: Sequence[Part], digest: str, notes: list[str]) -> Work:
        """The text of all parts, one after the other, and their pieces' places in it."""
        texts: list[str] = []
        passages: list[Passage] = []
        at = 0
        for part in parts:
            document = part if isinstance(part, Document) else load_file(part)
            notes += document.notes
            named = replace(document, source=name)
            chunks = split(named, self.tokenizer, max_tokens=self.chunk_tokens)
            passages.extend(_passage(chunk, at) for chunk in chunks)
            texts.append(document.text)
            at += len(document.text) + len(BETWEEN_PARTS)
        return Work(name, BETWEEN_PARTS.join(texts), digest, passages)


class Plan:
    """Decides by content what has to be indexed.

    Args:
        index: Knows what was indexed.
        cutter: Cuts it.
        sight: Knows which files are gone.
    """

    def __init__(self, index: Index, cutter: Cutter, sight: Sight) -> None:
        self.cutter = cutter
        self._index = index
        self._sight = sight

    def work(self, name: str, parts: Sequence[Part], report: Report) -> Work | Move | None:
        """What there is to do for a source; None where there is nothing."""
        seen = self.cutter.look(name, parts, self.known(name), lambda: self._gone)
        return self.take(seen, parts, report)

    def take(self, seen: Seen, parts: Sequence[Part], report: Report) -> Work | Move | None:
        """What there is to do for a source that was looked at, here or elsewhere."""
        name = seen.name
        report.notes += [(name, note) for note in seen.notes]
        if seen.problem:
            report.skipped.append((name, seen.problem))
            return None
        if seen.work is None and seen.digest == self.known(name):
            report.unchanged.append(name)
            return None
        if seen.work is None:
            if (old := self._moved_from(name, seen.digest)) is not None:
                report.moved.append((old, name))
                return Move(old, name)
            return self.take(self.cutter.look(name, parts, None), parts, report)
        is_new = self._index.documents.get(name) is None
        (report.added if is_new else report.replaced).append(name)
        return seen.work

    def known(self, name: str) -> str | None:
        """The digest of a source that is in the index, and whole."""
        known = self._index.documents.get(name)
        return known.hash if known is not None and known.is_whole else None

    def gone(self) -> frozenset[str]:
        """Digests of what is in the index, and whole, and of which the files are gone."""
        return frozenset(self._gone)

    def _moved_from(self, name: str, digest: str) -> str | None:
        """The name that a file had when it was indexed, where that is another."""
        kind = Path(name).suffix  # the same bytes are read otherwise under another
        same = [old for old in self._gone.get(digest, []) if Path(old).suffix == kind]
        if not same:
            return None
        old = min(same, key=lambda old: Path(old).name != Path(name).name)
        self._gone[digest].remove(old)
        return old

    @cached_property
    def _gone(self) -> dict[str, list[str]]:
        """Of what is indexed and whole, the files that are gone, by content."""
        gone: dict[str, list[str]] = {}
        for known in self._index.documents.all():
            if known.is_whole and self._sight.is_gone(Path(known.source)):
                gone.setdefault(known.hash, []).append(known.source)
        return gone


def _are_files(parts: Sequence[Part]) -> bool:
    return not any(isinstance(part, Document) for part in parts)


def source_name(part: Part) -> str:
    """A source's name as text that can be stored and shown, whatever bytes a file's name has."""
    return path_name(part.source if isinstance(part, Document) else part)


def _passage(chunk: Chunk, offset: int) -> Passage:
    return Passage(
        chunk.text,
        chunk.start + offset,
        chunk.end + offset,
        chunk.heading,
        chunk.page,
        chunk.read,
        chunk.metadata,
    )


def _hash(parts: Sequence[Part]) -> str:
    each = [_part_hash(part) for part in parts]
    return each[0] if len(each) == 1 else hashlib.sha256("".join(each).encode()).hexdigest()


def _part_hash(part: Part) -> str:
    if not isinstance(part, Document):
        return content_hash(part)
    said = [part.markdown, dict(part.metadata), part.title, part.pages]
    content = part.text + json.dumps(said, sort_keys=True, default=str)
    return hashlib.sha256(content.encode("utf-8", "surrogatepass")).hexdigest()
