"""The SQLite file that holds an index: its chunks, their vectors and the history of its commits.

Every change appends a row to `commits`: a generation number and a random token. A copy of the
vectors made at (generation, token) may be caught up from later rows and tombstones as long as
that pair is still in the history; if it is not (a rollback, a restored backup, another index),
the copy has to be made afresh.
"""

import json
import secrets
import sqlite3
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple, cast

import numpy as np
from numpy.typing import NDArray

from gem_rag.errors import GemIndexError
from gem_rag.index.connection import Connection
from gem_rag.index.sql import CompiledFilter

APPLICATION_ID = 0x47454D52  # "GEMR" in the file's header
SCHEMA_VERSION = 1

# Vectors of usual sizes waste up to half of SQLite's default page of 4,096 bytes.
_PAGE_SIZE = 16384
_SCHEMA = """
CREATE TABLE properties (key TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE meta (key TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE commits (generation INTEGER PRIMARY KEY, token INTEGER NOT NULL);
CREATE TABLE chunks (
    row INTEGER PRIMARY KEY AUTOINCREMENT,
    id TEXT NOT NULL UNIQUE,
    metadata TEXT NOT NULL,
    text TEXT NOT NULL
);
CREATE TABLE vectors (row INTEGER PRIMARY KEY, vector BLOB NOT NULL);
CREATE TABLE tombstones (row INTEGER PRIMARY KEY, generation INTEGER NOT NULL);
CREATE INDEX tombstones_by_generation ON tombstones (generation);
"""

Rows = NDArray[np.int64]
Vectors = NDArray[np.float32]


class Version(NamedTuple):
    """A point in an index's history."""

    generation: int
    token: int


class StoredChunk(NamedTuple):
    """One stored chunk; its metadata as JSON."""

    row: int
    id: str
    metadata: str
    text: str


class Database:
    """One connection, shared by the process's threads under one lock.

    Args:
        path: The SQLite file; None keeps everything in memory.
        create: Create the file if it is missing; otherwise that is an error.
        timeout: Seconds to wait for another process that is writing.

    Raises:
        GemIndexError: The file is missing, damaged, foreign or of a newer schema.
    """

    def __init__(self, path: Path | None, *, create: bool = True, timeout: float = 30.0) -> None:
        if sqlite3.sqlite_version_info < (3, 38):
            raise GemIndexError(
                f"this Python has SQLite {sqlite3.sqlite_version}; the index needs 3.38 or newer"
            )
        self.path = path
        self._name = str(path) if path else "the index in memory"
        self._timeout = timeout
        if path is not None and not path.exists():
            if not create:
                raise GemIndexError(
                    f"no index at {path.parent}; check the path, or make one with "
                    f"`gem-rag index PATH --index {path.parent}`"
                )
            path.parent.mkdir(parents=True, exist_ok=True)
        self._opened = Connection(path, timeout)
        try:
            self._prepare()
        except BaseException:
            self._opened.close()
            raise

    @property
    def lock(self) -> AbstractContextManager[object]:
        """Held by the thread that uses the connection; several calls may be put under it."""
        return self._opened.lock

    @property
    def _connection(self) -> sqlite3.Connection:
        return self._opened.current

    def _prepare(self) -> None:
        # A foreign file must not be changed, so nothing is set before this check.
        with self.snapshot():
            exists = self._is_ours()
        if not exists:
            self.run(f"PRAGMA page_size = {_PAGE_SIZE}")
            with self.transaction():
                if not self._is_ours():  # or another process was faster
                    self._create()
        self._use_wal()

    def _create(self) -> None:
        for statement in _SCHEMA.split(";"):
            self.run(statement)
        self.advance()
        self.run(f"PRAGMA application_id = {APPLICATION_ID}")
        self.run(f"PRAGMA user_version = {SCHEMA_VERSION}")

    def _use_wal(self) -> None:
        """Let others read while one writes; recorded in the file, so that most find it done."""
        deadline = time.monotonic() + self._timeout
        while True:
            try:
                self._connection.execute("PRAGMA journal_mode = WAL")
                return
            except sqlite3.OperationalError:
                # SQLite does not wait for other processes here, even if told a timeout.
                if time.monotonic() > deadline:
                    with self._errors():
                        raise
                time.sleep(0.01)

    def _is_ours(self) -> bool:
        """True: a GEM index of this schema. False: an empty file."""
        [(application,)] = self.run("PRAGMA application_id")
        [(schema,)] = self.run("PRAGMA user_version")
        [(tables,)] = self.run("SELECT count(*) FROM sqlite_master")
        if application == 0 and schema == 0 and tables == 0:
            return False
        if application != APPLICATION_ID:
            raise GemIndexError(
                f"{self._name} is an SQLite file of another program (application id "
                f"{application:#x}, expected {APPLICATION_ID:#x}): choose another folder"
            )
        if schema != SCHEMA_VERSION:
            raise GemIndexError(
                f"{self._name} has schema version {schema}, this gem-rag reads {SCHEMA_VERSION}: "
                "upgrade gem-rag, or ingest again into a new folder"
            )
        self._check_size()
        return True

    def _check_size(self) -> None:
        # SQLite notices when whole pages are missing, but takes the rest of a torn one as zeros.
        if self.path is None:
            return
        wal = self.path.with_name(self.path.name + "-wal")
        [(page_size,)] = self.run("PRAGMA page_size")
        if self.path.stat().st_size % page_size and not (wal.exists() and wal.stat().st_size):
            raise GemIndexError(
                f"{self._name} is damaged: it was cut off in the middle of a page; restore a "
                "backup, or ingest again into a new folder"
            )

    @contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.ProgrammingError as error:
            if "closed" not in str(error):
                raise
            raise GemIndexError(f"{self._name} is closed: open it again") from error
        except sqlite3.OperationalError as error:
            if "locked" in str(error) or "busy" in str(error):
                raise GemIndexError(
                    f"{self._name}: another process has been writing for more than "
                    f"{self._timeout:g} s; let it finish and try again"
                ) from error
            raise GemIndexError(f"{self._name}: {error}") from error
        except sqlite3.DatabaseError as error:
            raise GemIndexError(
                f"{self._name} is damaged or no SQLite file ({error}): restore a backup, "
                "or ingest again into a new folder"
            ) from error

    def run(self, sql: str, parameters: Sequence[Any] | Mapping[str, Any] = ()) -> list[Any]:
        """Run one statement and fetch all of its rows."""
        with self.lock, self._errors():
            return self._connection.execute(sql, parameters).fetchall()

    def run_many(self, sql: str, parameters: Iterable[Sequence[Any]]) -> None:
        """Run one statement once for each tuple of parameters."""
        with self.lock, self._errors():
            self._connection.executemany(sql, parameters)

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """Everything inside is committed together, or not at all; nested ones join the outer.

        Raises:
            GemIndexError: Another process kept the write lock for longer than the timeout.
        """
        with self.lock:
            nested = self._in_transaction
            self.run("SAVEPOINT change" if nested else "BEGIN IMMEDIATE")
            try:
                yield
                self.run("RELEASE change" if nested else "COMMIT")
            except BaseException:
                self._undo(nested)
                raise

    @property
    def _in_transaction(self) -> bool:
        with self._errors():
            return self._connection.in_transaction

    def _undo(self, nested: bool) -> None:
        # SQLite itself rolls back on some errors (disk full); the error is what matters.
        with suppress(GemIndexError):
            for statement in ["ROLLBACK TO change", "RELEASE change"] if nested else ["ROLLBACK"]:
                self.run(statement)

    @contextmanager
    def snapshot(self) -> Iterator[None]:
        """Reads inside see one state, whatever other processes commit meanwhile."""
        with self.lock:
            if self._in_transaction:
                yield
                return
            self.run("BEGIN")
            try:
                yield
            finally:
                self._undo(nested=False)

    def version(self) -> Version:
        """The newest point of the history."""
        rows = self.run("SELECT generation, token FROM commits ORDER BY generation DESC LIMIT 1")
        if not rows:
            raise GemIndexError(f"{self._name} is damaged: it has lost its history of commits")
        return Version(*rows[0])

    def remembers(self, version: Version) -> bool:
        """Whether a point is in the history, so that what was copied there can be caught up."""
        sql = "SELECT 1 FROM commits WHERE generation = ? AND token = ?"
        return bool(self.run(sql, version))

    def advance(self) -> int:
        """Append to the history; call inside the transaction that makes the change."""
        self.run("INSERT INTO commits (token) VALUES (?)", (secrets.randbits(63),))
        return self.version().generation

    def properties(self) -> dict[str, Any]:
        """What the index says about itself: fingerprint, dim, kind."""
        rows = self.run("SELECT key, value FROM properties")
        return {key: json.loads(value) for key, value in rows}

    def set_property(self, key: str, value: Any) -> None:
        """Record a property."""
        sql = "INSERT OR REPLACE INTO properties (key, value) VALUES (?, ?)"
        self.run(sql, (key, json.dumps(value)))

    def insert(self, chunks: Iterable[tuple[str, str, str]], vectors: Vectors) -> None:
        """Append chunks (id, metadata as JSON, text) and their vectors, float32 [n, d]."""
        first = self.last_row() + 1
        self.run_many(
            "INSERT INTO chunks (row, id, metadata, text) VALUES (?, ?, ?, ?)",
            ((row, *chunk) for row, chunk in enumerate(chunks, first)),
        )
        self.run_many(
            "INSERT INTO vectors (row, vector) VALUES (?, ?)",
            ((row, vector.astype("<f4").tobytes()) for row, vector in enumerate(vectors, first)),
        )

    def delete(self, rows: Sequence[int]) -> None:
        """Delete rows, leaving tombstones for those who hold copies of the vectors."""
        generation = self.version().generation
        for statement in ("DELETE FROM chunks WHERE row = ?", "DELETE FROM vectors WHERE row = ?"):
            self.run_many(statement, ((row,) for row in rows))
        sql = "INSERT INTO tombstones (row, generation) VALUES (?, ?)"
        self.run_many(sql, ((row, generation) for row in rows))

    def last_row(self) -> int:
        """The largest row number ever used; numbers are never used again."""
        rows = self.run("SELECT seq FROM sqlite_sequence WHERE name = 'chunks'")
        return int(rows[0][0]) if rows else 0

    def tombstones(self, after: int) -> Rows:
        """Rows deleted after generation `after`."""
        rows = self.run("SELECT row FROM tombstones WHERE generation > ?", (after,))
        return np.array([row for (row,) in rows], dtype=np.int64)

    def count(self, where: CompiledFilter | None) -> int:
        """How many chunks match."""
        if where is None:
            [(count,)] = self.run("SELECT count(*) FROM chunks")
        else:
            sql = f"SELECT count(*) FROM chunks WHERE {where.sql}"
            [(count,)] = self.run(sql, where.parameters)
        return int(count)

    def rows_where(self, where: CompiledFilter) -> Rows:
        """The rows that match, ascending."""
        sql = f"SELECT row FROM chunks WHERE {where.sql} ORDER BY row"
        rows = self.run(sql, where.parameters)
        return np.fromiter((row for (row,) in rows), dtype=np.int64, count=len(rows))

    def chunks_where(
        self, where: CompiledFilter | None, after: int, limit: int
    ) -> list[StoredChunk]:
        """Up to `limit` matching chunks, in the order they were added, from after a row."""
        condition, parameters = where or ("1", {})
        sql = (
            f"SELECT row, id, metadata, text FROM chunks "
            f"WHERE row > :after AND {condition} ORDER BY row LIMIT :limit"
        )
        found = self.run(sql, {**parameters, "after": after, "limit": limit})
        return [StoredChunk(*chunk) for chunk in found]

    def chunks_by_row(self, rows: Iterable[int]) -> dict[int, StoredChunk]:
        """Chunks by row number; rows that do not exist are left out."""
        sql = (
            "SELECT row, chunks.id, metadata, text FROM json_each(?) AS wanted "
            "JOIN chunks ON chunks.row = wanted.value"
        )
        found = self.run(sql, (json.dumps([int(row) for row in rows]),))
        return {chunk[0]: StoredChunk(*chunk) for chunk in found}

    def rows_by_id(self, ids: Sequence[str]) -> dict[str, int]:
        """Row numbers by id; ids that do not exist are left out."""
        found: dict[str, int] = {}
        for start in range(0, len(ids), 500):  # older builds allow 999 parameters
            part = ids[start : start + 500]
            marks = ", ".join("?" * len(part))
            found.update(self.run(f"SELECT id, row FROM chunks WHERE id IN ({marks})", part))
        return found

    def vectors(self, rows: Sequence[int], dim: int) -> Vectors:
        """The vectors of the rows given, in their order: float32 [n, dim]."""
        sql = "SELECT row, vector FROM json_each(?) JOIN vectors ON row = value"
        found = dict(self.run(sql, (json.dumps([int(row) for row in rows]),)))
        return self._matrix([found.get(row, b"") for row in rows], dim)

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
                f"{self._name} is damaged: a vector is missing or is not {dim} float32 numbers; "
                "restore a backup, or ingest again into a new folder"
            )
        return np.frombuffer(b"".join(cast("Sequence[bytes]", blobs)), dtype="<f4").reshape(-1, dim)

    def copy_to(self, path: Path) -> None:
        """Write one moment's state to a new file."""
        self.run("VACUUM INTO ?", (str(path),))

    def close(self) -> None:
        """Close the connection; what is not committed is lost."""
        with self.lock:
            self._opened.close()
