"""What there is to do for each source: nothing, or these chunks."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

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
    """A source that has to be indexed: its text, and the pieces of it."""

    name: str
    text: str
    digest: str
    passages: list[Passage]


class Move(NamedTuple):
    """A source that is in the index under another name, whose file is gone."""

    old: str
    name: str


class Plan:
    """Decides by content what has to be indexed.

    Args:
        index: Knows what was indexed.
        tokenizer: Counts tokens.
        chunk_tokens: Longest chunk.
        sight: Knows which files are gone.
    """

    def __init__(self, index: Index, tokenizer: Tokenizer, chunk_tokens: int, sight: Sight) -> None:
        self._index = index
        self._sight = sight
        self._tokenizer = tokenizer
        self._chunk_tokens = chunk_tokens

    def work(self, name: str, parts: Sequence[Part], report: Report) -> Work | Move | None:
        """What there is to do for a source; None where there is nothing."""
        try:
            for part in parts:
                if isinstance(part, Document):
                    encode(dict(part.metadata), "its metadata")  # the index will have to
            digest = f"{_hash(parts)}:{self._chunk_tokens}:{SPLITTER_VERSION}"
            known = self._index.documents.get(name)
            if known is not None and known.is_whole and known.hash == digest:
                report.unchanged.append(name)
                return None
            if (old := self._moved_from(name, parts, digest)) is not None:
                report.moved.append((old, name))
                return Move(old, name)
            text, passages = self._read(name, parts, report)
        except (GemError, OSError, UnicodeError) as error:
            report.skipped.append((name, str(error)))
            return None
        (report.added if known is None else report.replaced).append(name)
        return Work(name, text, digest, passages)

    def _moved_from(self, name: str, parts: Sequence[Part], digest: str) -> str | None:
        """The name that a file had when it was indexed, where that is another."""
        if any(isinstance(part, Document) for part in parts):
            return None
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

    def _read(self, name: str, parts: Sequence[Part], report: Report) -> tuple[str, list[Passage]]:
        """The text of all parts, one after the other, and their pieces' places in it."""
        texts: list[str] = []
        passages: list[Passage] = []
        at = 0
        for part in parts:
            document = part if isinstance(part, Document) else load_file(part)
            report.notes += [(name, note) for note in document.notes]
            named = replace(document, source=name)
            chunks = split(named, self._tokenizer, max_tokens=self._chunk_tokens)
            passages.extend(_passage(chunk, at) for chunk in chunks)
            texts.append(document.text)
            at += len(document.text) + len(BETWEEN_PARTS)
        return BETWEEN_PARTS.join(texts), passages


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
