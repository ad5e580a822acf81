"""The documents of an index: what was indexed, whether it is still whole, its text."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

from numpy.typing import ArrayLike

from gem_rag.errors import GemIndexError
from gem_rag.index.database import READY, Database, StoredChunk
from gem_rag.index.identity import Identity
from gem_rag.index.records import (
    Chunk,
    Passage,
    Record,
    chunk_fields,
    encode_passages,
)
from gem_rag.index.schema import SOURCE
from gem_rag.index.sql import compile_filter

_REST = "SELECT rest FROM documents WHERE source = ?"
_KNOWN = (
    "SELECT source, hash, state, "
    "(SELECT count(*) FROM chunks WHERE chunks.document = documents.document) FROM documents"
)
_OLD = (  # what layout 1 knows of documents; its chunks can only be counted all at once
    f"WITH documents AS (SELECT substr(key, {len(SOURCE) + 1}) AS source, "
    f"json_extract(value, '$') AS hash FROM meta WHERE key GLOB '{SOURCE}*'), "
    "counts AS (SELECT source, count(*) AS chunks FROM passages GROUP BY source) "
    f"SELECT source, hash, '{READY}', coalesce(chunks, 0) "
    "FROM documents LEFT JOIN counts USING (source)"
)


@dataclass(frozen=True)
class DocumentInfo:
    """A document of an index.

    Attributes:
        source: Its name or path.
        hash: Of the content that was indexed, as whoever indexed it gave it.
        state: "ready", or "changed" where chunks of it were deleted since.
        chunks: How many there are.
    """

    source: str
    hash: str
    state: str
    chunks: int

    @property
    def is_whole(self) -> bool:
        """Whether all of its chunks are there."""
        return self.state == READY


class Documents:
    """The documents in an index; each change is one commit, or part of a transaction around it.

    Args:
        database: Where they are.
        identity: Whose vectors their chunks have.
    """

    def __init__(self, database: Database, identity: Identity) -> None:
        self._database = database
        self._identity = identity

    def put(
        self,
        source: str,
        text: str,
        content_hash: str,
        passages: Sequence[Passage],
        vectors: ArrayLike | None,
    ) -> None:
        """Store a document and its pieces, in the place of the one of the same source.

        Args:
            source: Its name or path.
            text: All of it.
            content_hash: What says whether it has changed.
            passages: n pieces of it.
            vectors: Numbers [n, dim]; None stores pieces that are found by words.

        Raises:
            GemIndexError: A piece is no slice of the text, or cannot be stored.
        """
        chunks = encode_passages(source, text, passages)
        with self._database.transaction():
            matrix = self._identity.accept(vectors, len(chunks))
            self._database.advance()
            self._delete(source)
            self._database.run(
                "INSERT INTO documents (source, hash, state, rest) VALUES (?, ?, ?, ?)",
                (source, content_hash, READY, "".join(between(text, chunks))),
            )
            sql = "SELECT document FROM documents WHERE source = ?"
            [(document,)] = self._database.run(sql, (source,))
            self._database.insert(chunks, matrix, document)

    def remove(self, sources: Sequence[str]) -> list[str]:
        """Delete documents and all of their chunks; which of them were there."""
        with self._database.transaction():
            known = [source for source in sources if self.get(source) is not None]
            if known:
                self._database.advance()
            for source in known:
                self._delete(source)
            return known

    def move(self, old: str, new: str, again: Callable[[str], str] = str) -> None:
        """Give a document another source, in the place of the one that has it.

        Its chunks keep their vectors.

        Args:
            old: Its source.
            new: Its source from now on.
            again: From what was read beside or instead of a chunk's text, what is now.

        Raises:
            GemIndexError: There is no such document, or the new source is no text.
        """
        encode_passages(new, "", [])  # raises where it is no source
        with self._database.transaction():
            if self.get(old) is None:
                raise absent(old)
            self._database.advance()
            if new != old:
                self._delete(new)
                self._database.rename(old, new, again)

    def _delete(self, source: str) -> None:
        self._database.delete(self._database.rows_of(source))
        self._database.run("DELETE FROM documents WHERE source = ?", (source,))

    def all(self) -> list[DocumentInfo]:
        """All of them, by source."""
        return self._find("1", ())

    def __len__(self) -> int:
        with self._database.snapshot():
            known = _OLD if self._database.is_old else _KNOWN
            [(count,)] = self._database.run(f"SELECT count(*) FROM ({known})")
            return int(count)

    def get(self, source: str) -> DocumentInfo | None:
        """One of them; None if it is not there."""
        return next(iter(self._find("source = ?", (source,))), None)

    def with_hash(self, content_hash: str) -> list[DocumentInfo]:
        """Those of the same content."""
        return self._find("hash = ?", (content_hash,))

    def _find(self, condition: str, parameters: tuple[str, ...]) -> list[DocumentInfo]:
        with self._database.snapshot():
            known = _OLD if self._database.is_old else _KNOWN
            sql = f"{known} WHERE {condition} ORDER BY source"
            return [DocumentInfo(*row) for row in self._database.run(sql, parameters)]

    def chunks(self, source: str) -> list[Record]:
        """A document's chunks, in the order they were added; none where there is no such one."""
        with self._database.snapshot():
            if self._database.is_old:
                found = self._database.chunks_where(compile_filter({"$source": source}))
            else:
                rows = self._database.rows_of(source)
                by_row = self._database.chunks_by_row(rows)
                found = [by_row[row] for row in rows]
            return [Record(**chunk_fields(chunk)) for chunk in found]

    def unread(self, chunks: Sequence[Chunk]) -> list[str]:
        """What was read of chunks that were deleted, and is read of none that is there."""
        with self._database.snapshot():
            kept = self._database.read_of({chunk.text for chunk in chunks})
        return [words for words in dict.fromkeys(c.words for c in chunks) if words not in kept]

    def text(self, source: str) -> str:
        """The text that was indexed, to whose characters `start` and `end` of its chunks refer.

        Raises:
            GemIndexError: There is no such document, or parts of it were deleted since.
        """
        with self._database.snapshot():
            return self._text(source)

    def _text(self, source: str) -> str:
        if self.get(source) is None:
            raise absent(source)
        found = [] if self._database.is_old else self._database.run(_REST, (source,))
        rest = found[0][0] if found else None
        if rest is None:
            raise GemIndexError(
                f"the text of {source!r} is not whole: chunks of it were deleted, or it was "
                "indexed by an older gem-rag; add it again"
            )
        sql = (
            "SELECT start, stop, text FROM chunks JOIN documents USING (document) "
            "WHERE source = ? ORDER BY start, stop"
        )
        return "".join(joined(rest, self._database.run(sql, (source,))))


def absent(source: str) -> GemIndexError:
    """What is raised where a document is asked for that is not there."""
    return GemIndexError(f"no document {source!r} in the index; `all()` lists them")


def between(text: str, chunks: Sequence[StoredChunk]) -> Iterator[str]:
    """What of a text is in no chunk, in order."""
    at = 0
    for start, stop in sorted((c.start or 0, c.stop or 0) for c in chunks):
        yield text[at:start]
        at = max(at, stop)
    yield text[at:]


def joined(rest: str, chunks: Iterable[tuple[int, int, str]]) -> Iterator[str]:
    """The text again: `between` backwards."""
    at = used = 0
    for start, stop, text in chunks:
        gap = max(0, start - at)
        yield rest[used : used + gap]
        used += gap
        yield text[max(0, at - start) :]
        at = max(at, stop)
    yield rest[used:]
