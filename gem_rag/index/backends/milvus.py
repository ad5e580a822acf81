"""MilvusIndex: an index in a Milvus server, or in a file of Milvus Lite."""

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import numpy as np

from gem_rag.errors import GemIndexError, MissingExtraError
from gem_rag.index.backends.columns import (
    STORED,
    TEXTS,
    WHOLE_NUMBERS,
    columns_of,
    point_of,
)
from gem_rag.index.backends.milvus_filter import ALL, expression
from gem_rag.index.backends.naming import (
    DEFAULT_COLLECTION,
    chunks_name,
    entries_name,
    require_name,
)
from gem_rag.index.backends.store import (
    AT_ONCE,
    EVERYTHING,
    Among,
    And,
    Condition,
    Entry,
    Point,
    StoreKind,
)
from gem_rag.index.backends.store_index import StoreIndex
from gem_rag.index.backends.terms import term_number, weights_of
from gem_rag.index.bm25 import rarity

try:
    from pymilvus import DataType, MilvusClient

    from gem_rag.index.backends.milvus_connection import Client
except ImportError as error:
    raise MissingExtraError("an index in Milvus", "milvus") from error

_DENSE, _WORDS, _KEY, _TOLD = "vector", "words", "key", "gem_rag."
_LONGEST = 65_535  # bytes of a text, as Milvus has it
_MOST = 4096  # members of a list, likewise
_MOST_FOUND = 16_384  # likewise
_UNUSED = [0.0, 0.0]  # a collection of Milvus has vectors, whatever it is for


class MilvusIndex(StoreIndex):
    """An index in Milvus; see `StoreIndex`.

    A chunk's text, its metadata as JSON, and a source's name take 65,535 bytes at most.

    Args:
        url: Of a server, ``http://host:19530``; or a file that Milvus Lite makes, ``name.db``.
        collection: Its name; what is not chunks is in ``NAME_documents``.
        create: Create the collection if there is none; otherwise that is an error.
        token: Of the server.
        timeout: Seconds that a request may take.
        **options: ``fingerprint``, ``dim``, ``kind``: see `StoreIndex`.

    Raises:
        GemIndexError: There is no collection and `create` is False; the server cannot be reached;
            the vectors are another model's.
    """

    def __init__(
        self,
        url: str,
        collection: str = DEFAULT_COLLECTION,
        *,
        create: bool = True,
        token: str = "",
        timeout: float = 30.0,
        **options: Any,
    ) -> None:
        self._again = {"create": False, "token": token, "timeout": timeout, **options}
        self._where = (url, collection)
        store = MilvusStore(url, collection, create=create, token=token, timeout=timeout)
        super().__init__(store, **options)

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickled by its address."""
        return partial(type(self), **self._again), self._where


class MilvusStore:
    """A collection in Milvus; meets `Store`. Arguments as for `MilvusIndex`."""

    is_atomic = False

    def __init__(
        self, url: str, collection: str, *, create: bool, token: str, timeout: float
    ) -> None:
        self._collection = require_name(collection)
        self.name = f"the collection {collection!r} in Milvus at {url}"
        is_server = "://" in url
        self.client = Client(url, self.name, is_server=is_server, token=token, timeout=timeout)
        self._told = entries_name(collection)
        if not self.client.exists(self._told):
            if not create:
                self.client.close()
                raise GemIndexError(f"{self.name} does not exist; index something into it first")
            self._create_entries()
        self.client.ask(self.client.api.load_collection, self._told)
        self.entries = MilvusEntries(self.client, self._told)
        self._chunks: dict[int | None, MilvusChunks] = {}

    def _create_entries(self) -> None:
        schema = MilvusClient.create_schema(auto_id=False, enable_dynamic_field=False)
        schema.add_field(_KEY, DataType.VARCHAR, is_primary=True, max_length=64)
        for name in ("kind", "name", "hash", "body"):
            schema.add_field(name, DataType.VARCHAR, max_length=_LONGEST)
        schema.add_field("torn", DataType.BOOL)
        schema.add_field(_DENSE, DataType.FLOAT_VECTOR, dim=len(_UNUSED))
        self.client.create(self._told, schema, {_DENSE: ("FLAT", "L2")})

    def properties(self) -> dict[str, Any]:
        """What the collection's properties say."""
        told = self.client.ask(self.client.api.describe_collection, self._told).get("properties")
        return {
            key.removeprefix(_TOLD): json.loads(value)
            for key, value in (told or {}).items()
            if key.startswith(_TOLD)
        }

    def set_property(self, key: str, value: Any) -> None:
        """Record something in the collection's properties."""
        told = {f"{_TOLD}{key}": json.dumps(value)}
        self.client.ask(self.client.api.alter_collection_properties, self._told, properties=told)

    def chunks(self, dim: int | None) -> "MilvusChunks":
        """The chunks with vectors of a length, or from before the first vector."""
        if dim not in self._chunks:
            kind: StoreKind = self.properties().get("kind", "flat")
            name = chunks_name(self._collection, dim)
            self._chunks[dim] = MilvusChunks(self.client, name, dim, kind)
        return self._chunks[dim]

    def drop_unvectored(self) -> None:
        """Delete the chunks from before the first vector."""
        name = chunks_name(self._collection, None)
        if self.client.exists(name):
            self.client.ask(self.client.api.drop_collection, name)
        self._chunks.pop(None, None)

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """Nothing: each change stands by itself."""
        yield

    def close(self) -> None:
        """Close the connection."""
        self.client.close()


class MilvusChunks:
    """Chunks in a Milvus collection; meets `Chunks`.

    Words are sparse vectors; the words' rarity is counted and put into the query here.

    Args:
        client: Where.
        name: The collection; created when something is put into it.
        dim: Numbers in a vector; None for a collection whose vectors are all missing.
        kind: How vectors are searched.
    """

    def __init__(self, client: Client, name: str, dim: int | None, kind: StoreKind) -> None:
        self._client = client
        self._name = name
        self._dim = dim
        self._kind = kind
        self._is_there = False

    def _exists(self) -> bool:
        if not self._is_there and self._client.exists(self._name):
            self._client.ask(self._client.api.load_collection, self._name)
            self._is_there = True
        return self._is_there

    def _create(self) -> None:
        schema = MilvusClient.create_schema(auto_id=False, enable_dynamic_field=False)
        schema.add_field(_KEY, DataType.VARCHAR, is_primary=True, max_length=64)
        for name in (*TEXTS, "revision", "digest"):
            schema.add_field(name, DataType.VARCHAR, max_length=_LONGEST, nullable=True)
        for name in WHOLE_NUMBERS:
            schema.add_field(name, DataType.INT64, nullable=True)
        schema.add_field("numbers", DataType.JSON)
        listed: dict[str, Any] = {"max_capacity": _MOST}
        text = {"element_type": DataType.VARCHAR, "max_length": 64}
        schema.add_field("tokens", DataType.ARRAY, **text, **listed)
        schema.add_field("terms", DataType.ARRAY, element_type=DataType.INT64, **listed)
        schema.add_field("embedded", DataType.BOOL)
        schema.add_field(_DENSE, DataType.FLOAT_VECTOR, dim=self._dim or len(_UNUSED))
        schema.add_field(_WORDS, DataType.SPARSE_FLOAT_VECTOR)
        vectors = {_DENSE: (self._kind.upper(), "COSINE"), _WORDS: ("SPARSE_INVERTED_INDEX", "IP")}
        inverted = ("tokens", "terms", "source", "revision", "digest")
        self._client.create(self._name, schema, vectors, inverted)

    def put(self, points: Sequence[Point]) -> None:
        """Write points; those whose ids exist are replaced."""
        if points and not self._exists():
            self._create()
        for i in range(0, len(points), AT_ONCE):
            rows = [self._row(point) for point in points[i : i + AT_ONCE]]
            self._client.ask(self._client.api.upsert, self._name, rows)

    def _row(self, point: Point) -> dict[str, Any]:
        columns = columns_of(point)
        long = [name for name in TEXTS if len((columns[name] or "").encode()) > _LONGEST]
        words = weights_of(point.chunk)
        if long or max(len(words), len(columns["tokens"])) > _MOST:
            what = f"the {long[0]} has over {_LONGEST} bytes" if long else f"over {_MOST} terms"
            raise GemIndexError(
                f"chunk {point.chunk.id!r} does not fit into Milvus: {what}; make it smaller"
            )
        vector = _UNUSED if point.vector is None else np.asarray(point.vector).tolist()
        if point.vector is None and self._dim is not None:
            vector = [0.0] * self._dim
        return {
            **columns,
            _KEY: _key(point.chunk.id),
            "terms": list(words),
            "embedded": point.vector is not None,
            _DENSE: vector,
            _WORDS: words or {0: 0.0},
        }

    def delete(self, where: Condition) -> None:
        """Delete what matches."""
        if self._exists():
            condition = expression(where, _key)
            self._client.ask(self._client.api.delete, self._name, filter=condition)

    def count(self, where: Condition) -> int:
        """How many match."""
        return self._client.count(self._name, expression(where, _key)) if self._exists() else 0

    def scroll(
        self, where: Condition, *, limit: int | None = None, vectors: bool = False
    ) -> Iterator[Point]:
        """All that match, or so many of them."""
        if not self._exists():
            return
        fields = [*STORED, "embedded", *([_DENSE] if vectors else [])]
        rows = self._client.rows(self._name, expression(where, _key), fields)
        for number, row in enumerate(rows):
            if limit is not None and number >= limit:
                return
            yield _point(row)

    def nearest(self, vector: Any, n: int, where: Condition) -> list[tuple[Point, float]]:
        """The n nearest to a vector, float32 [dim], with their cosines, best first."""
        if not self._exists():
            return []
        condition = expression(where, _key)
        among = "embedded == true" if condition == ALL else f"embedded == true and {condition}"
        found = self._search(vector.tolist(), _DENSE, n, among, [*STORED, "embedded"])
        return [(_point(hit["entity"]), float(hit["distance"])) for hit in found]

    def worded(
        self, terms: Sequence[str], n: int, where: Condition, *, vectors: bool = False
    ) -> tuple[list[Point], list[int]]:
        """About the n best for some words, and of each word how many chunks hold it."""
        if not self._exists():
            return [], [0] * len(terms)
        numbers = [term_number(term) for term in terms]
        holding = [self._client.count(self._name, f"array_contains(terms, {i})") for i in numbers]
        count = self.count(EVERYTHING)
        weights = {i: rarity(count, h) for i, h in zip(numbers, holding, strict=True) if h}
        if not weights:
            return [], holding
        fields = [*STORED, "embedded", *([_DENSE] if vectors else [])]
        found = self._search(weights, _WORDS, n, expression(where, _key), fields)
        return [_point(hit["entity"]) for hit in found if hit["distance"] > 0], holding

    def _search(
        self, query: Any, field: str, n: int, where: str, fields: Sequence[str]
    ) -> Sequence[Any]:
        params = {"params": {"ef": max(100, 2 * n)} if self._kind == "hnsw" else {}}
        [found] = self._client.ask(
            self._client.api.search,
            self._name,
            data=[query],
            anns_field=field,
            limit=min(n, _MOST_FOUND),
            filter=where,
            output_fields=[*fields],
            search_params=params if field == _DENSE else {},
        )
        return list(found)


class MilvusEntries:
    """Rows in a Milvus collection; meets `Entries`.

    Args:
        client: Where.
        name: The collection.
    """

    def __init__(self, client: Client, name: str) -> None:
        self._client = client
        self._name = name

    def put(self, entries: Sequence[Entry]) -> None:
        """Write rows; those of the same kind and name are replaced."""
        rows = [{**e._asdict(), _KEY: _entry_key(e.kind, e.name), _DENSE: _UNUSED} for e in entries]
        if rows:
            self._client.ask(self._client.api.upsert, self._name, rows)

    def delete(self, kind: str, names: Sequence[str]) -> None:
        """Delete rows."""
        if names:
            keys = [_entry_key(kind, name) for name in names]
            self._client.ask(self._client.api.delete, self._name, ids=keys)

    def find(
        self,
        kind: str,
        *,
        names: Sequence[str] | None = None,
        hash: str | None = None,  # noqa: A002
        torn: bool | None = None,
    ) -> list[Entry]:
        """Rows of a kind, by what is given."""
        tests: list[Condition] = [Among("kind", (kind,))]
        if names is not None:
            tests.append(Among(_KEY, tuple(_entry_key(kind, name) for name in names)))
        tests += [] if hash is None else [Among("hash", (hash,))]
        where = expression(And(tuple(tests)), _key)
        where += "" if torn is None else f" and torn == {str(torn).lower()}"
        return [
            Entry(**{field: row[field] for field in Entry._fields})
            for row in self._client.rows(self._name, where, Entry._fields)
        ]

    def count(self, kind: str) -> int:
        """How many rows of a kind there are."""
        return self._client.count(self._name, expression(Among("kind", (kind,)), _key))


def _point(row: Mapping[str, Any]) -> Point:
    vector = row.get(_DENSE) if row["embedded"] else None
    return point_of(dict(row), None if vector is None else np.asarray(vector, dtype=np.float32))


def _key(name: str) -> str:
    return hashlib.blake2b(name.encode(), digest_size=16).hexdigest()


def _entry_key(kind: str, name: str) -> str:
    return _key(f"{kind}\0{name}")
