"""What is stored in an index: chunks, their vectors, the history of its commits.

Every change appends a row to `commits`: a generation number and a random token. A copy of the
vectors made at (generation, token) may be caught up from later rows and tombstones as long as
that pair is still in the history; if it is not (a rollback, a restored backup, another index),
the copy has to be made afresh.
"""

import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple, cast

import numpy as np
from numpy.typing import NDArray

from gem_rag.errors import GemIndexError
from gem_rag.index import fulltext
from gem_rag.index.connection import Connection
from gem_rag.index.fulltext import FullText, Worded
from gem_rag.index.schema import Schema, digest_of, new_token
from gem_rag.index.sql import CASEFOLD, CompiledFilter

READY, CHANGED = "ready", "changed"  # states of a document: all of its chunks are there, or not
Rows = NDArray[np.int64]
Vectors = NDArray[np.float32]


class Version(NamedTuple):
    """A point in an index's history."""

    generation: int
    token: int


class StoredChunk(NamedTuple):
    """One stored chunk; its metadata as JSON.

    `lead` stands before the text in what is read and searched, `mended` in the place of both.
    """

    row: int
    id: str
    metadata: str
    text: str
    source: str | None = None
    start: int | None = None
    stop: int | None = None
    heading: str | None = None
    page: int | None = None
    lead: str | None = None
    mended: str | None = None

    @property
    def read(self) -> str:
        """What is read and searched for it."""
        return (self.lead or "") + self.text if self.mended is None else self.mended


_COLUMNS = ", ".join(StoredChunk._fields)


class Database:
    """The tables of an index, and its full text.

    Args:
        path: The SQLite file; None keeps everything in memory.
        create: Create the file if it is missing; otherwise that is an error.
        timeout: Seconds to wait for another process that is writing.

    Attributes:
        connection: To the file.
        wrote: Whether something was committed through it.

    Raises:
        GemIndexError: The file is missing, damaged, foreign or of a newer schema.
    """

    def __init__(self, path: Path | None, *, create: bool = True, timeout: float = 30.0) -> None:
        self.connection = Connection(path, create=create, timeout=timeout)
        self.connection.define(CASEFOLD, str.casefold)
        try:
            self._schema = Schema(self.connection)
        except BaseException:
            self.connection.close()
            raise
        self.run, self.run_many = self.connection.run, self.connection.run_many
        self.wrote = False

    @property
    def full_text(self) -> FullText | None:
        """The words of the chunks; None where they cannot be searched."""
        return self._schema.full_text if self._schema.has_words else None

    @property
    def why_no_words(self) -> str:
        """What keeps an index without `full_text` from being searched by words."""
        if not self._schema.full_text.is_available:
            return "this Python's SQLite has no full-text search (FTS5)"
        return "its words are indexed at its next change"

    @property
    def is_old(self) -> bool:
        """Whether the file has an older layout, until the next change."""
        return self._schema.is_old

    @property
    def read_only(self) -> bool:
        """Whether its file can only be read."""
        return self.connection.read_only

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """Everything inside is committed together, or not at all; nested ones join the outer.

        Raises:
            GemIndexError: Another process kept the write lock for longer than the timeout, or the
                file can only be read.
        """
        try:
            with self.connection.transaction():
                self._schema.before_writing()
                yield
            self.wrote = True
        except BaseException:
            self._schema.refresh()  # an upgrade may have been undone
            raise

    @contextmanager
    def snapshot(self) -> Iterator[None]:
        """Reads inside see one state, whatever other processes commit meanwhile."""
        with self.connection.lock:
            while True:
                with self.connection.snapshot():
                    if self._schema.is_seen:
                        yield
                        return
                self._schema.refresh()  # another process has upgraded it

    # History and properties

    def version(self) -> Version:
        """The newest point of the history."""
        rows = self.run("SELECT generation, token FROM commits ORDER BY generation DESC LIMIT 1")
        if not rows:
            name = self.connection.name
            raise GemIndexError(f"{name} is damaged: it has lost its history of commits")
        return Version(*rows[0])

    def remembers(self, version: Version) -> bool:
        """Whether a point is in the history, so that what was copied there can be caught up."""
        sql = "SELECT 1 FROM commits WHERE generation = ? AND token = ?"
        return bool(self.run(sql, version))

    def advance(self) -> int:
        """Append to the history; call inside the transaction that makes the change."""
        self.run("INSERT INTO commits (token) VALUES (?)", (new_token(),))
        return self.version().generation

    def properties(self) -> dict[str, Any]:
        """What the index says about itself: fingerprint, dim, kind."""
        found = dict(self.run("SELECT key, value FROM properties"))
        return {key: json.loads(value) for key, value in found.items()}

    def set_property(self, key: str, value: Any) -> None:
        """Record a property."""
        sql = "INSERT OR REPLACE INTO properties (key, value) VALUES (?, ?)"
        self.run(sql, (key, json.dumps(value)))

    def meta(self, key: str) -> str | None:
        """What was stored under a key, as JSON."""
        rows = self.run("SELECT value FROM meta WHERE key = ?", (key,))
        return rows[0][0] if rows else None

    def set_meta(self, key: str, value: str | None) -> None:
        """Store JSON under a key; None removes what is there."""
        self.run("DELETE FROM meta WHERE key = ?", (key,))
        if value is not None:
            self.run("INSERT INTO meta (key, value) VALUES (?, ?)", (key, value))

    # Changing

    def insert(
        self, chunks: Sequence[StoredChunk], vectors: Vectors | None, document: int | None = None
    ) -> None:
        """Append chunks (whose `row` is given to them here) and their vectors, float32 [n, d]."""
        first = self.last_row() + 1
        placed = [chunk._replace(row=row) for row, chunk in enumerate(chunks, first)]
        self.run_many(
            "INSERT INTO chunks (row, id, metadata, text, document, start, stop, heading, page, "
            "lead, mended, digest) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
            ((*c[:4], document, *c[5:], digest_of(c.text)) for c in placed),
        )
        if self.full_text is not None:
            self.full_text.insert(Worded(c.row, c.read, c.heading, c.source) for c in placed)
        if vectors is not None:
            self.run_many(
                "INSERT INTO vectors (row, vector) VALUES (?, ?)",
                (
                    (row, vector.astype("<f4").tobytes())
                    for row, vector in enumerate(vectors, first)
                ),
            )

    def renew(self, rows: Sequence[int], vectors: Vectors) -> None:
        """Give chunks their vectors, float32 [n, d]: under new row numbers, which followers see."""
        known = self.chunks_by_row(rows)
        sql = "SELECT row, document FROM chunks WHERE row IN (SELECT value FROM json_each(?))"
        documents = dict(self.run(sql, (_array(rows),)))
        self._drop(rows)
        for document in dict.fromkeys(documents.values()):
            which = [i for i, row in enumerate(rows) if documents[row] == document]
            self.insert([known[rows[i]] for i in which], vectors[which], document)

    def rename(self, old: str, new: str, again: Callable[[str], str]) -> None:
        """Give a document another source; what is searched by words follows.

        Args:
            old: Its source.
            new: Its source from now on.
            again: From what was read beside or instead of a chunk's text, what is now.
        """
        rows = self.rows_of(old)
        before = self._worded(rows)
        self.run("UPDATE documents SET source = ? WHERE source = ?", (new, old))
        self.run_many(
            "UPDATE chunks SET lead = ?, mended = ? WHERE row = ?",
            (
                (chunk.lead and again(chunk.lead), chunk.mended and again(chunk.mended), row)
                for row, chunk in self.chunks_by_row(rows).items()
            ),
        )
        if self.full_text is not None:
            self.full_text.delete(before)
            self.full_text.insert(self._worded(rows))

    def rows_of(self, source: str) -> list[int]:
        """The rows of a document's chunks."""
        sql = "SELECT row FROM chunks JOIN documents USING (document) WHERE source = ? ORDER BY row"
        return [row for (row,) in self.run(sql, (source,))]

    def delete(self, rows: Sequence[int]) -> None:
        """Delete rows, leaving tombstones for those who hold copies of the vectors."""
        torn = self._documents_of(rows)
        self._drop(rows)
        self._forget(torn)

    def _drop(self, rows: Sequence[int]) -> None:
        generation = self.version().generation
        if self.full_text is not None:
            self.full_text.delete(self._worded(rows))
        for statement in ("DELETE FROM chunks WHERE row = ?", "DELETE FROM vectors WHERE row = ?"):
            self.run_many(statement, ((row,) for row in rows))
        sql = "INSERT INTO tombstones (row, generation) VALUES (?, ?)"
        self.run_many(sql, ((row, generation) for row in rows))

    def _documents_of(self, rows: Sequence[int]) -> str:
        sql = (
            "SELECT DISTINCT document FROM chunks WHERE document IS NOT NULL AND "
            "row IN (SELECT value FROM json_each(?))"
        )
        return _array(document for (document,) in self.run(sql, (_array(rows),)))

    def _forget(self, torn: str) -> None:
        """Of documents that lost chunks: those that have none left, and the others' other text."""
        among = "document IN (SELECT value FROM json_each(?))"
        left = "EXISTS (SELECT 1 FROM chunks WHERE chunks.document = documents.document)"
        self.run(f"DELETE FROM documents WHERE {among} AND NOT {left}", (torn,))
        sql = f"UPDATE documents SET state = '{CHANGED}', rest = NULL WHERE {among}"
        self.run(sql, (torn,))

    def _worded(self, rows: Sequence[int]) -> list[Worded]:
        sql = (
            f"SELECT {fulltext.COLUMNS} FROM passages WHERE row IN (SELECT value FROM json_each(?))"
        )
        return [Worded(*found) for found in self.run(sql, (_array(rows),))]

    def last_row(self) -> int:
        """The largest row number ever used; numbers are never used again."""
        rows = self.run("SELECT seq FROM sqlite_sequence WHERE name = 'chunks'")
        return int(rows[0][0]) if rows else 0

    def tombstones(self, after: int) -> Rows:
        """Rows deleted after generation `after`."""
        rows = self.run("SELECT row FROM tombstones WHERE generation > ?", (after,))
        return np.array([row for (row,) in rows], dtype=np.int64)

    # Chunks

    def count(self, where: CompiledFilter | None) -> int:
        """How many chunks match."""
        condition, parameters = where or ("1", {})
        table = "chunks" if where is None else "passages"  # which is slower
        [(count,)] = self.run(f"SELECT count(*) FROM {table} WHERE {condition}", parameters)
        return int(count)

    def rows_where(self, where: CompiledFilter) -> Rows:
        """The rows that match, ascending."""
        sql = f"SELECT row FROM passages WHERE {where.sql} ORDER BY row"
        rows = self.run(sql, where.parameters)
        return np.fromiter((row for (row,) in rows), dtype=np.int64, count=len(rows))

    def chunks_where(
        self, where: CompiledFilter | None, after: int = 0, limit: int = -1
    ) -> list[StoredChunk]:
        """Up to `limit` matching chunks, in the order they were added, from after a row."""
        condition, parameters = where or ("1", {})
        sql = (
            f"SELECT {_COLUMNS} FROM passages "
            f"WHERE row > :after AND {condition} ORDER BY row LIMIT :limit"
        )
        found = self.run(sql, {**parameters, "after": after, "limit": limit})
        return [StoredChunk(*chunk) for chunk in found]

    def chunks_by_row(self, rows: Iterable[int]) -> dict[int, StoredChunk]:
        """Chunks by row number; rows that do not exist are left out."""
        sql = f"SELECT {_COLUMNS} FROM passages WHERE row IN (SELECT value FROM json_each(?))"
        return {chunk[0]: StoredChunk(*chunk) for chunk in self.run(sql, (_array(rows),))}

    def rows_by_id(self, ids: Sequence[str]) -> dict[str, int]:
        """Row numbers by id; ids that do not exist are left out."""
        sql = "SELECT id, row FROM chunks WHERE id IN (SELECT value FROM json_each(?))"
        return dict(self.run(sql, (json.dumps(list(ids)),)))

    def sources_of(
        self, texts: Iterable[str], where: CompiledFilter | None
    ) -> dict[str, tuple[str, ...]]:
        """Of each text the sources of the matching chunks that hold it, as they were added."""
        condition, parameters = where or ("1", {})
        sources: dict[str, dict[str, None]] = {text: {} for text in texts}
        sql = (
            "SELECT text, source FROM passages WHERE source IS NOT NULL AND "
            f"digest IN (SELECT value FROM json_each(:digests)) AND {condition} ORDER BY row"
        )
        digests = _array(map(digest_of, sources))
        for text, source in self.run(sql, {**parameters, "digests": digests}):
            if text in sources:
                sources[text][source] = None
        return {text: tuple(names) for text, names in sources.items()}

    def read_of(self, texts: Iterable[str]) -> set[str]:
        """What is read of the chunks that have one of these texts."""
        sql = f"SELECT {_COLUMNS} FROM passages WHERE digest IN (SELECT value FROM json_each(?))"
        found = self.run(sql, (_array(map(digest_of, texts)),))
        return {StoredChunk(*chunk).read for chunk in found}

    def without_vectors(self, limit: int = -1) -> list[StoredChunk]:
        """Chunks that have no vector, in the order they were added."""
        sql = (
            f"SELECT {_COLUMNS} FROM passages WHERE row NOT IN (SELECT row FROM vectors) "
            "ORDER BY row LIMIT ?"
        )
        return [StoredChunk(*chunk) for chunk in self.run(sql, (limit,))]

    # Vectors

    def count_vectors(self) -> int:
        """How many chunks have a vector."""
        [(count,)] = self.run("SELECT count(*) FROM vectors")
        return int(count)

    def last_vector(self) -> int:
        """The largest row number that has a vector; 0 where none has."""
        [(row,)] = self.run("SELECT coalesce(max(row), 0) FROM vectors")
        return int(row)

    def vectors(self, rows: Iterable[int], dim: int) -> dict[int, NDArray[np.float32]]:
        """Vectors by row number, float32 [dim]; rows that have none are left out."""
        sql = "SELECT row, vector FROM vectors WHERE row IN (SELECT value FROM json_each(?))"
        found = dict(self.run(sql, (_array(rows),)))
        return dict(zip(found, self._matrix(list(found.values()), dim), strict=True))

    def vector_blocks(self, dim: int, after: int = 0) -> Iterator[tuple[Rows, Vectors]]:
        """All vectors after a row, ascending, in blocks of (rows [n], float32 [n, dim])."""
        sql = "SELECT row, vector FROM vectors WHERE row > ? ORDER BY row LIMIT 8192"
        while block := self.run(sql, (after,)):
            rows, blobs = zip(*block, strict=True)
            yield np.array(rows, dtype=np.int64), self._matrix(blobs, dim)
            after = rows[-1]

    def sample_vectors(self, dim: int, share: float) -> Vectors:
        """A pseudo-random share of all vectors, the same at each call: float32 [n, dim]."""
        # Knuth's multiplicative hash: a plain modulo would follow the rhythm of the documents.
        sql = "SELECT vector FROM vectors WHERE (row * 2654435761) % 4294967296 < ?"
        found = self.run(sql, (int(share * 2**32),))
        return self._matrix([blob for (blob,) in found], dim)

    def _matrix(self, blobs: Sequence[bytes | None], dim: int) -> Vectors:
        if any(blob is None or len(blob) != 4 * dim for blob in blobs):
            raise GemIndexError(
                f"{self.connection.name} is damaged: a vector is missing or is not {dim} float32 "
                "numbers; restore a backup, or ingest again into a new folder"
            )
        return np.frombuffer(b"".join(cast("Sequence[bytes]", blobs)), dtype="<f4").reshape(-1, dim)


def _array(rows: Iterable[int]) -> str:
    return json.dumps([int(row) for row in rows])
