"""One SQLite connection, which does not survive a fork: both processes open their own."""

from __future__ import annotations

import sqlite3
import threading
from pathlib import Path

from gem_rag.forks import around_fork, in_child
from gem_rag.index.sql import CASEFOLD

PATIENCE = 5.0  # seconds that a fork waits for another thread's transaction


class Connection:
    """A connection that threads share, one at a time.

    SQLite knows its locks by process. A connection to a file is closed before a fork, or the child
    would believe that it holds its parent's locks; it is opened again when it is needed.

    Args:
        path: The SQLite file; None is in memory, of which a forked process has a copy.
        timeout: Seconds to wait for another process that is writing.

    Attributes:
        lock: Held by the thread that uses it.
    """

    def __init__(self, path: Path | None, timeout: float) -> None:
        self.lock = threading.RLock()
        self._path = path
        self._timeout = timeout
        self._open: sqlite3.Connection | None = None
        self._is_closed = self._waits = False
        self._left_to_parent: list[sqlite3.Connection] = []
        around_fork(self._before_fork, self._in_parent)
        in_child(self._start_anew)

    def _before_fork(self) -> None:
        self._waits = self.lock.acquire(timeout=PATIENCE)
        if not self._waits or self._path is None or self._open is None or self._is_closed:
            return
        if not self._open.in_transaction:
            self._open.close()
            self._open = None

    def _in_parent(self) -> None:
        if self._waits:
            self.lock.release()

    def _start_anew(self) -> None:
        self.lock = threading.RLock()
        if self._path is not None and self._open is not None and not self._is_closed:
            # Forked within a transaction. Closing it here would disturb the parent's locks.
            self._left_to_parent.append(self._open)
            self._open = None

    @property
    def current(self) -> sqlite3.Connection:
        """This process's own, opened when it is needed.

        Raises:
            sqlite3.Error: It cannot be opened.
        """
        if self._open is None:
            self._open = sqlite3.connect(
                self._path or ":memory:",
                timeout=self._timeout,
                isolation_level=None,
                check_same_thread=False,
            )
            self._open.create_function(CASEFOLD, 1, str.casefold, deterministic=True)
        return self._open

    def close(self) -> None:
        """Close it; what is not committed is lost."""
        self.current.close()
        self._is_closed = True
