"""A connection to PostgreSQL."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from threading import RLock
from typing import Any

import psycopg
from pgvector.psycopg import register_vector
from psycopg import sql
from psycopg.conninfo import conninfo_to_dict

from gem_rag.errors import GemIndexError
from gem_rag.index.backends.postgres_sql import table_name


class Database:
    """A connection that many threads may use, one at a time, and that is made anew when it broke.

    Args:
        url: Where.
        collection: For messages.
    """

    def __init__(self, url: str, collection: str) -> None:
        self._url = url
        self._lock = RLock()
        try:
            at = conninfo_to_dict(url)
        except psycopg.ProgrammingError as error:
            raise GemIndexError(f"no address of a PostgreSQL database: {error}") from error
        place = f"{at.get('host', 'localhost')}/{at.get('dbname', '')}"
        self.name = f"the collection {collection!r} in PostgreSQL at {place}"
        self._connection = self._connected()

    def _connected(self) -> "psycopg.Connection[Any]":
        with self._named():
            connection = psycopg.connect(self._url, autocommit=True)
        try:
            with self._named("pgvector has to be installed there, and made known by its owner"):
                connection.execute("SET client_min_messages = warning")
                connection.execute("CREATE EXTENSION IF NOT EXISTS vector")
                register_vector(connection)
        except GemIndexError:
            connection.close()
            raise
        return connection

    @contextmanager
    def _named(self, hint: str = "") -> Iterator[None]:
        try:
            yield
        except (psycopg.Error, ValueError) as error:
            why = f"{error}; {hint}" if hint else str(error)
            raise GemIndexError(f"{self.name}: {why}") from error

    def run(self, query: Any, parameters: Any = None) -> list[Any]:
        """The rows of a query; none of a change."""
        with self._lock, self._named():
            cursor = self._open().execute(query, parameters)
            return cursor.fetchall() if cursor.description else []

    def run_many(self, query: Any, rows: Sequence[Any]) -> None:
        """A change for each of several rows."""
        with self._lock, self._named(), self._open().cursor() as cursor:
            cursor.executemany(query, rows)

    def _open(self) -> "psycopg.Connection[Any]":
        if self._connection.closed:
            self._connection = self._connected()
        return self._connection

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """Everything inside is committed together, or not at all."""
        with self._lock, self._named(), self._open().transaction():
            yield

    def has_table(self, name: str) -> bool:
        """Whether there is a table."""
        return self.run("SELECT to_regclass(%s) IS NOT NULL", [table_name(name)]) == [(True,)]

    def create(self, name: str, statements: str, **parts: Any) -> None:
        """Create a table and its indexes, unless another process was faster."""
        named = {kind: sql.Identifier(f"{name}_{kind}") for kind in _INDEXES}
        with self.transaction():
            self.run("SELECT pg_advisory_xact_lock(hashtext(%s))", [name])
            self.run(sql.SQL(statements).format(table=sql.Identifier(name), **named, **parts))

    def close(self) -> None:
        """Close the connection."""
        self._connection.close()


_INDEXES = ("by_hash", "by_source", "by_revision", "by_digest", "by_tokens", "by_words")
