"""PostgresIndex: an index in PostgreSQL with pgvector."""

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

from gem_rag.errors import GemIndexError, MissingExtraError
from gem_rag.index.backends.columns import STORED, columns_of, point_of
from gem_rag.index.backends.naming import (
    DEFAULT_COLLECTION,
    chunks_name,
    entries_name,
    require_name,
)
from gem_rag.index.backends.postgres_sql import (
    CHUNKS,
    ENTRIES,
    lexemes,
    rank,
    table_name,
    tsquery,
    where_sql,
)
from gem_rag.index.backends.store import AT_ONCE, EVERYTHING, Condition, Entry, Point, StoreKind
from gem_rag.index.backends.store_index import StoreIndex
from gem_rag.index.backends.terms import held_by
from gem_rag.index.bm25 import rarity

try:
    from psycopg import sql
    from psycopg.types.json import Jsonb

    from gem_rag.index.backends.postgres_database import Database
except ImportError as error:
    raise MissingExtraError("an index in PostgreSQL", "postgres") from error

_MOST_LOOKED_AT = 1000  # by HNSW, as pgvector has it


class PostgresIndex(StoreIndex):
    """An index in PostgreSQL; see `StoreIndex`.

    Transactions are the database's: others see all of one or nothing.

    Args:
        url: ``postgresql://user:password@host:5432/database``, or what else libpq takes.
        collection: Name of the table with the chunks; what is not chunks is in ``NAME_documents``.
        create: Create the tables if there are none; otherwise that is an error.
        **options: ``fingerprint``, ``dim``, ``kind``: see `StoreIndex`.

    Raises:
        GemIndexError: There are no tables and `create` is False; the database cannot be reached or
            has no pgvector; the vectors are another model's.
    """

    def __init__(
        self,
        url: str,
        collection: str = DEFAULT_COLLECTION,
        *,
        create: bool = True,
        **options: Any,
    ) -> None:
        self._again = {"create": False, **options}
        self._where = (url, collection)
        super().__init__(PostgresStore(url, collection, create=create), **options)

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickled by its address."""
        return partial(type(self), **self._again), self._where


class PostgresStore:
    """Tables in a database; meets `Store`. Arguments as for `PostgresIndex`."""

    is_atomic = True

    def __init__(self, url: str, collection: str, *, create: bool) -> None:
        self._collection = require_name(collection)
        self.database = Database(url, collection)
        self.name = self.database.name
        self._told = entries_name(collection)
        if not self.database.has_table(self._told):
            if not create:
                self.database.close()
                raise GemIndexError(f"{self.name} does not exist; index something into it first")
            self.database.create(self._told, ENTRIES)
        self.entries = PostgresEntries(self.database, self._told)
        self._chunks: dict[int | None, PostgresChunks] = {}

    def properties(self) -> dict[str, Any]:
        """What the comment on the documents' table says."""
        query = "SELECT obj_description(to_regclass(%s), 'pg_class')"
        [(told,)] = self.database.run(query, [table_name(self._told)])
        return dict(json.loads(told or "{}"))

    def set_property(self, key: str, value: Any) -> None:
        """Record something in that comment."""
        told = json.dumps(self.properties() | {key: value})
        comment = sql.SQL("COMMENT ON TABLE {} IS {}")
        self.database.run(comment.format(sql.Identifier(self._told), sql.Literal(told)))

    def chunks(self, dim: int | None) -> "PostgresChunks":
        """The chunks with vectors of a length, or from before the first vector."""
        if dim not in self._chunks:
            kind: StoreKind = self.properties().get("kind", "flat")
            name = chunks_name(self._collection, dim)
            self._chunks[dim] = PostgresChunks(self.database, name, dim, kind)
        return self._chunks[dim]

    def drop_unvectored(self) -> None:
        """Delete the chunks from before the first vector."""
        name = sql.Identifier(chunks_name(self._collection, None))
        self.database.run(sql.SQL("DROP TABLE IF EXISTS {}").format(name))
        self._chunks.pop(None, None)

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """Changes inside are one; nested ones join the outer."""
        try:
            with self.database.transaction():
                yield
        except BaseException:
            self._chunks.clear()  # tables that were made in it are gone
            raise

    def close(self) -> None:
        """Close the connection."""
        self.database.close()


class PostgresChunks:
    """Chunks in a table; meets `Chunks`.

    Args:
        database: Where.
        name: The table; created when something is put into it.
        dim: Numbers in a vector; None for a table whose vectors are all missing.
        kind: How vectors are searched.
    """

    def __init__(self, database: Database, name: str, dim: int | None, kind: StoreKind) -> None:
        self._database = database
        self._name = name
        self._table = sql.Identifier(name)
        self._dim = dim
        self._kind = kind
        self._is_there = False

    def _exists(self) -> bool:
        self._is_there = self._is_there or self._database.has_table(self._name)
        return self._is_there

    def _create(self) -> None:
        length = sql.SQL("" if self._dim is None else f"({int(self._dim)})")
        self._database.create(self._name, CHUNKS, length=length)
        if self._kind == "hnsw" and self._dim is not None:
            made = "CREATE INDEX IF NOT EXISTS {} ON {} USING hnsw (vector vector_cosine_ops)"
            name = sql.Identifier(f"{self._name}_by_vector")
            self._database.run(sql.SQL(made).format(name, self._table))

    def put(self, points: Sequence[Point]) -> None:
        """Write points; those whose ids exist are replaced."""
        if points and not self._exists():
            self._create()
        rows = [_row(point) for point in points]
        if not rows:
            return
        names = [*rows[0]]
        query = sql.SQL(
            "INSERT INTO {table} ({names}) VALUES ({values}) ON CONFLICT (id) DO UPDATE SET {sets}"
        ).format(
            table=self._table,
            names=sql.SQL(", ").join(map(sql.Identifier, names)),
            values=sql.SQL(", ").join(map(sql.Placeholder, names)),
            sets=sql.SQL(", ").join(
                sql.SQL("{0} = EXCLUDED.{0}").format(sql.Identifier(name)) for name in names[1:]
            ),
        )
        self._database.run_many(query, rows)

    def delete(self, where: Condition) -> None:
        """Delete what matches."""
        if self._exists():
            condition, given = where_sql(where)
            self._database.run(self._from("DELETE FROM {} WHERE", condition), given)

    def count(self, where: Condition) -> int:
        """How many match."""
        if not self._exists():
            return 0
        condition, given = where_sql(where)
        [(count,)] = self._database.run(
            self._from("SELECT count(*) FROM {} WHERE", condition), given
        )
        return int(count)

    def scroll(
        self, where: Condition, *, limit: int | None = None, vectors: bool = False
    ) -> Iterator[Point]:
        """All that match, or so many of them."""
        if not self._exists():
            return
        condition, given = where_sql(where)
        end = "ORDER BY id LIMIT %(limit)s"
        query = self._select(f"id > %(after)s AND {condition}", end, vectors=vectors)
        left, after = limit, ""
        while left is None or left > 0:
            most = AT_ONCE if left is None else min(AT_ONCE, left)
            rows = self._database.run(query, given | {"after": after, "limit": most})
            yield from (_point(row) for row in rows)
            if len(rows) < most:
                return
            left, after = (None if left is None else left - most), rows[-1][0]

    def nearest(self, vector: Any, n: int, where: Condition) -> list[tuple[Point, float]]:
        """The n nearest to a vector, float32 [dim], with their cosines, best first."""
        if not self._exists():
            return []
        if self._kind == "hnsw":
            looked_at = min(max(100, 2 * n), _MOST_LOOKED_AT)
            self._database.run(f"SET hnsw.ef_search = {looked_at}")
            self._database.run("SET hnsw.iterative_scan = strict_order")
        condition, given = where_sql(where)
        query = self._select(
            f"vector IS NOT NULL AND {condition}",
            "ORDER BY vector <=> %(vector)s LIMIT %(limit)s",
            ", 1 - (vector <=> %(vector)s)",
        )
        rows = self._database.run(query, given | {"vector": vector, "limit": n})
        return [(_point(row[:-1]), float(row[-1])) for row in rows]

    def worded(
        self, terms: Sequence[str], n: int, where: Condition, *, vectors: bool = False
    ) -> tuple[list[Point], list[int]]:
        """About the n best for some words, and of each word how many chunks hold it.

        PostgreSQL's full-text search finds them, and orders them by its own rank of each word, to
        which the word's rarity is added here: PostgreSQL knows none.
        """
        if not self._exists():
            return [], [0] * len(terms)
        holds = "SELECT count(*) FROM {} WHERE words @@ term::tsquery"
        each = f"SELECT ({holds}) FROM unnest(%s::text[]) term"
        found = self._database.run(sql.SQL(each).format(self._table), [[*map(tsquery, terms)]])
        holding = [int(count) for (count,) in found]
        count = self.count(EVERYTHING)
        rarities = [rarity(count, number) for number in holding]
        condition, given = where_sql(where)
        query = self._select(
            f"words @@ %(any)s::tsquery AND {condition}",
            f"ORDER BY {rank(len(terms))} DESC LIMIT %(limit)s",
            vectors=vectors,
        )
        given |= {"any": " | ".join(map(tsquery, terms)), "limit": n}
        for i, (term, weight) in enumerate(zip(terms, rarities, strict=True)):
            given |= {f"term{i}": tsquery(term), f"rarity{i}": weight}
        return [_point(row) for row in self._database.run(query, given)], holding

    def _from(self, start: str, condition: str) -> Any:
        return sql.SQL(f"{start} {condition}").format(self._table)

    def _select(self, condition: str, end: str, more: str = "", *, vectors: bool = False) -> Any:
        names = ", ".join(f'"{name}"' for name in STORED)
        vector = "vector" if vectors else "NULL"
        return self._from(f"SELECT {names}, {vector}{more} FROM {{}} WHERE", f"{condition} {end}")


class PostgresEntries:
    """Rows in a table; meets `Entries`.

    Args:
        database: Where.
        name: The table.
    """

    def __init__(self, database: Database, name: str) -> None:
        self._database = database
        self._table = sql.Identifier(name)

    def put(self, entries: Sequence[Entry]) -> None:
        """Write rows; those of the same kind and name are replaced."""
        query = (
            "INSERT INTO {} (kind, name, hash, torn, body) VALUES (%s, %s, %s, %s, %s) ON CONFLICT "
            "(kind, name) DO UPDATE SET "
            "hash = EXCLUDED.hash, torn = EXCLUDED.torn, body = EXCLUDED.body"
        )
        self._database.run_many(sql.SQL(query).format(self._table), list(entries))

    def delete(self, kind: str, names: Sequence[str]) -> None:
        """Delete rows."""
        query = sql.SQL("DELETE FROM {} WHERE kind = %s AND name = ANY(%s)").format(self._table)
        self._database.run(query, [kind, list(names)])

    def find(
        self,
        kind: str,
        *,
        names: Sequence[str] | None = None,
        hash: str | None = None,  # noqa: A002
        torn: bool | None = None,
    ) -> list[Entry]:
        """Rows of a kind, by what is given."""
        given: dict[str, Any] = {"kind": kind, "hash": hash, "torn": torn}
        given["names"] = None if names is None else list(names)
        tests = {
            "names": "name = ANY(%(names)s)",
            "hash": "hash = %(hash)s",
            "torn": "torn = %(torn)s",
        }
        chosen = [tests[name] for name in tests if given[name] is not None]
        condition = " AND ".join(["kind = %(kind)s", *chosen])
        query = f"SELECT kind, name, hash, torn, body FROM {{}} WHERE {condition}"
        return [
            Entry(*row) for row in self._database.run(sql.SQL(query).format(self._table), given)
        ]

    def count(self, kind: str) -> int:
        """How many rows of a kind there are."""
        query = sql.SQL("SELECT count(*) FROM {} WHERE kind = %s").format(self._table)
        [(count,)] = self._database.run(query, [kind])
        return int(count)


def _row(point: Point) -> dict[str, Any]:
    columns = columns_of(point)
    columns["numbers"] = Jsonb(columns["numbers"])
    return {**columns, "words": lexemes(held_by(point.chunk).times), "vector": point.vector}


def _point(row: Sequence[Any]) -> Point:
    *stored, vector = row
    columns = dict(zip(STORED, stored, strict=True))
    return point_of(columns, None if vector is None else vector.to_numpy())
