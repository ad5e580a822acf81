"""One SQLite connection to a file, opened anew in every process that is forked."""

from __future__ import annotations

import sqlite3
from pathlib import Path

from gem_rag.forks import in_child
from gem_rag.index.sql import CASEFOLD


class Connection:
    """A connection that threads share, one at a time.

    Args:
        path: The SQLite file; None is in memory, of which a forked process has a copy.
        timeout: Seconds to wait for another process that is writing.
    """

    def __init__(self, path: Path | None, timeout: float) -> None:
        self._path = path
        self._timeout = timeout
        self._open: sqlite3.Connection | None = None
        self._left_to_parent: list[sqlite3.Connection] = []
        in_child(self._start_anew)

    def _start_anew(self) -> None:
        """What the parent has open is neither used nor closed: both would disturb its locks."""
        if self._path is not None and self._open is not None:
            self._left_to_parent.append(self._open)
            self._open = None

    @property
    def current(self) -> sqlite3.Connection:
        """This process's own, opened when it is first needed.

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
        if self._open is not None:
            self._open.close()
