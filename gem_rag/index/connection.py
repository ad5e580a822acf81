"""One connection to an index's SQLite file: transactions, snapshots, errors that say what to do."""

import os
import sqlite3
import threading
import time
import uuid
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any
from urllib.parse import quote

from gem_rag.errors import DiskFullError, GemIndexError
from gem_rag.forks import around_fork, in_child

PATIENCE = 5.0  # seconds that a fork waits for another thread's transaction


class Connection:
    """One connection, shared by the process's threads under one lock.

    SQLite knows its locks by process. A connection to a file is closed before a fork, or the child
    would believe that it holds its parent's locks; it is opened again when it is needed.

    A file, or a folder, that may not be written is opened to be read.

    Args:
        path: The SQLite file; None keeps everything in memory.
        create: Create the file if it is missing; otherwise that is an error.
        timeout: Seconds to wait for another process that is writing.

    Attributes:
        name: What error messages call it.
        read_only: Whether it can only be read.
        opened: How many times the file was opened; views of before are gone.

    Raises:
        GemIndexError: The file is missing, or is none that SQLite can read.
    """

    def __init__(self, path: Path | None, *, create: bool = True, timeout: float = 30.0) -> None:
        if sqlite3.sqlite_version_info < (3, 38):
            raise GemIndexError(
                f"this Python has SQLite {sqlite3.sqlite_version}; the index needs 3.38 or newer"
            )
        self.path = path
        self.lock = threading.RLock()
        self.name = str(path) if path else "the index in memory"
        self._timeout = timeout
        if path is not None and not path.exists():
            if not create:
                raise GemIndexError(
                    f"no index at {path.parent}; check the path, or make one with "
                    f"`gem-rag index PATH --index {path.parent}`"
                )
            path.parent.mkdir(parents=True, exist_ok=True)
        self.read_only = path is not None and path.exists() and not _is_writable(path)
        self.opened = 0
        self._functions: dict[str, Any] = {}
        self._frozen: list[Any] | None = None  # the file's state, where SQLite takes it for fixed
        self._connection: sqlite3.Connection | None = None
        self._is_closed = self._waits = False
        self._left_to_parent: list[sqlite3.Connection] = []
        self._open()
        around_fork(self._before_fork, self._in_parent)
        in_child(self._start_anew)

    def _open(self) -> None:
        with self._errors():
            opened = self._opened()
            for name, function in self._functions.items():
                opened.create_function(name, 1, function, deterministic=True)
        self._connection = opened
        self.opened += 1

    @property
    def _current(self) -> sqlite3.Connection:
        """This process's own; closed around a fork, and opened again when it is needed."""
        if self._connection is None:
            self._open()
        assert self._connection is not None
        return self._connection

    def _before_fork(self) -> None:
        self._waits = self.lock.acquire(timeout=PATIENCE)
        if not self._waits or self.path is None or self._connection is None or self._is_closed:
            return
        if not self._connection.in_transaction:
            self._connection.close()
            self._connection = None

    def _in_parent(self) -> None:
        if self._waits:
            self.lock.release()

    def _start_anew(self) -> None:
        self.lock = threading.RLock()
        if self.path is not None and self._connection is not None and not self._is_closed:
            # Forked within a transaction. Closing it here would disturb the parent's locks.
            self._left_to_parent.append(self._connection)
            self._connection = None

    def _opened(self) -> sqlite3.Connection:
        if self.path is None:
            return self._connect(":memory:")
        if not self.read_only:
            return self._connect(str(self.path))
        address = f"file:{quote(str(self.path.absolute()))}?mode=ro"
        connection = self._connect(address)
        try:
            connection.execute("SELECT count(*) FROM sqlite_master")
        except sqlite3.OperationalError:
            # Readers of a file in WAL mode share memory through a file beside it. Where that is
            # missing nobody writes just now, and SQLite can be told so.
            connection.close()
            self._frozen = _state(self.path)
            return self._connect(f"{address}&immutable=1")
        self._frozen = None
        return connection

    def _thaw(self) -> None:
        """Open the file again if someone who may write did so, which SQLite would not notice."""
        if self.path is not None and self._frozen not in (None, _state(self.path)):
            self._current.close()
            self._open()

    def _connect(self, address: str) -> sqlite3.Connection:
        connection = sqlite3.connect(
            address,
            timeout=self._timeout,
            isolation_level=None,
            check_same_thread=False,
            uri=address.startswith("file:"),
        )
        connection.execute("PRAGMA secure_delete = ON")  # what was deleted is not left in the file
        return connection

    def define(self, name: str, function: Any) -> None:
        """Give SQL a function of one argument that always gives the same for the same."""
        self._functions[name] = function
        with self._errors():
            self._current.create_function(name, 1, function, deterministic=True)

    def use_wal(self) -> None:
        """Let others read while one writes; recorded in the file, so that most find it done."""
        deadline = time.monotonic() + self._timeout
        while True:
            try:
                self._current.execute("PRAGMA journal_mode = WAL")
                return
            except sqlite3.OperationalError:
                # SQLite does not wait for other processes here, even if told a timeout.
                if time.monotonic() > deadline:
                    with self._errors():
                        raise
                time.sleep(0.01)

    @contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.ProgrammingError as error:
            if "closed" not in str(error):
                raise
            raise GemIndexError(f"{self.name} is closed: open it again") from error
        except sqlite3.OperationalError as error:
            if "locked" in str(error) or "busy" in str(error):
                raise GemIndexError(
                    f"{self.name}: another process has been writing for more than "
                    f"{self._timeout:g} s; let it finish and try again"
                ) from error
            if "full" in str(error):
                raise DiskFullError(
                    f"{self.name}: the disk is full; make room and try again (what was committed "
                    "is kept)"
                ) from error
            raise GemIndexError(f"{self.name}: {error}") from error
        except sqlite3.DatabaseError as error:
            raise GemIndexError(
                f"{self.name} is damaged or no SQLite file ({error}): restore a backup, "
                "or ingest again into a new folder"
            ) from error

    def run(self, sql: str, parameters: Sequence[Any] | Mapping[str, Any] = ()) -> list[Any]:
        """Run one statement and fetch all of its rows."""
        with self.lock, self._errors():
            return self._current.execute(sql, parameters).fetchall()

    def run_many(self, sql: str, parameters: Iterable[Sequence[Any]]) -> None:
        """Run one statement once for each tuple of parameters."""
        with self.lock, self._errors():
            self._current.executemany(sql, parameters)

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """Everything inside is committed together, or not at all; nested ones join the outer.

        Raises:
            GemIndexError: It can only be read, or another process kept the write lock for longer
                than the timeout.
        """
        if self.read_only:
            raise GemIndexError(
                f"{self.name} can only be read: the file or its folder is write-protected; "
                "change their permissions, or copy the folder"
            )
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
            return self._current.in_transaction

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
            self._thaw()
            self.run("BEGIN")
            try:
                yield
            finally:
                self._undo(nested=False)

    def copy_to(self, path: Path) -> None:
        """Write one moment's state to a new file, which is there when it is whole."""
        part = path.with_name(f"{path.name}.{uuid.uuid4().hex}.part")
        try:
            self.run("VACUUM INTO ?", (str(part),))
            part.replace(path)
        finally:
            part.unlink(missing_ok=True)

    def close(self) -> None:
        """Close; what is not committed is lost."""
        with self.lock:
            self._current.close()
            self._is_closed = True


def _state(path: Path) -> list[Any]:
    """What changes with a file, and whether changes lie beside it."""
    if not path.exists():
        return []
    stat = path.stat()
    return [stat.st_ino, stat.st_size, stat.st_mtime_ns, Path(f"{path}-wal").exists()]


def _is_writable(path: Path) -> bool:
    # The journal lies beside the file.
    return os.access(path, os.W_OK) and os.access(path.parent, os.W_OK)
