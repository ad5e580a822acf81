"""QdrantIndex: an index in a Qdrant server, or in Qdrant's local mode."""

import json
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import numpy as np

from gem_rag.errors import GemIndexError, MissingExtraError
from gem_rag.index.backends.columns import FOUND_BY, STORED, columns_of, point_of
from gem_rag.index.backends.naming import (
    DEFAULT_COLLECTION,
    chunks_name,
    entries_name,
    require_name,
)
from gem_rag.index.backends.store import AT_ONCE, EVERYTHING, Condition, Entry, Point
from gem_rag.index.backends.store_index import StoreIndex
from gem_rag.index.backends.terms import term_number, weights_of

try:
    import qdrant_client
    from qdrant_client import models
    from qdrant_client.common.client_exceptions import QdrantException
    from qdrant_client.http.exceptions import ApiException

    from gem_rag.index.backends.qdrant_filter import (
        filter_of,
        filter_or_none,
        is_value,
        point_id,
    )
except ImportError as error:
    raise MissingExtraError("an index in Qdrant", "qdrant") from error

_DENSE, _WORDS, _TOLD = "dense", "words", "gem_rag"
_ENTRY_FIELDS = ("kind", "name", "hash")


class QdrantIndex(StoreIndex):
    """An index in Qdrant; see `StoreIndex`.

    Args:
        url: Of a server, ``http://host:6333``; or a folder for Qdrant's local mode, or
            ``:memory:``. Local mode looks at every chunk in turn: it is for tests and small things.
        collection: Its name; what is not chunks is in ``NAME_documents``.
        create: Create the collection if there is none; otherwise that is an error.
        api_key: Of the server.
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
        api_key: str | None = None,
        timeout: int = 30,
        **options: Any,
    ) -> None:
        self._again = {"create": False, "api_key": api_key, "timeout": timeout, **options}
        self._where = (url, collection)
        store = QdrantStore(url, collection, create=create, api_key=api_key, timeout=timeout)
        super().__init__(store, **options)

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickled by its address.

        Raises:
            GemIndexError: It is in memory, and would arrive empty.
        """
        if self._where[0] == ":memory:":
            raise GemIndexError("an index in memory cannot be pickled; give a server or a folder")
        return partial(type(self), **self._again), self._where


class QdrantStore:
    """A collection in Qdrant; meets `Store`. Arguments as for `QdrantIndex`."""

    is_atomic = False

    def __init__(
        self, url: str, collection: str, *, create: bool, api_key: str | None, timeout: int
    ) -> None:
        self._collection = require_name(collection)
        self.name = f"the collection {collection!r} in Qdrant at {url}"
        is_remote = url.startswith(("http://", "https://"))
        at: dict[str, Any] = {"location": url} if url == ":memory:" else {"path": url}
        if is_remote:
            at = {"url": url, "api_key": api_key, "timeout": timeout}
        try:
            client = qdrant_client.QdrantClient(**at)
        except (OSError, RuntimeError) as error:  # a folder that another process has open
            raise GemIndexError(f"{self.name} cannot be opened: {error}") from error
        self.client = Client(client, self.name, is_server=is_remote)
        self._told = entries_name(collection)
        if not self.client.exists(self._told):
            if not create:
                raise GemIndexError(f"{self.name} does not exist; index something into it first")
            self.client.create(self._told, [*_ENTRY_FIELDS], ["torn"], vectors_config={})
        self.entries = QdrantEntries(self.client, self._told)
        self._chunks: dict[int | None, QdrantChunks] = {}

    def properties(self) -> dict[str, Any]:
        """What the collection's metadata says."""
        metadata = self.client.ask(self.client.api.get_collection, self._told).config.metadata or {}
        return dict(json.loads(metadata.get(_TOLD, "{}")))

    def set_property(self, key: str, value: Any) -> None:
        """Record something in the collection's metadata."""
        told = json.dumps(self.properties() | {key: value})
        self.client.ask(self.client.api.update_collection, self._told, metadata={_TOLD: told})

    def chunks(self, dim: int | None) -> "QdrantChunks":
        """The chunks with vectors of a length, or from before the first vector."""
        if dim not in self._chunks:
            name = chunks_name(self._collection, dim)
            is_exact = self.properties().get("kind") != "hnsw"
            self._chunks[dim] = QdrantChunks(self.client, name, dim, is_exact=is_exact)
        return self._chunks[dim]

    def drop_unvectored(self) -> None:
        """Delete the chunks from before the first vector."""
        name = chunks_name(self._collection, None)
        if self.client.exists(name):
            self.client.ask(self.client.api.delete_collection, name)

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """Nothing: each change stands by itself."""
        yield

    def close(self) -> None:
        """Close the connection."""
        self.client.api.close()


class Client:
    """Qdrant's client, whose errors are this library's.

    Args:
        api: Theirs.
        name: How messages call the collection.
        is_server: Whether it is one, which finds payload by indexes and vectors by HNSW.
    """

    def __init__(self, api: "qdrant_client.QdrantClient", name: str, *, is_server: bool) -> None:
        self.api = api
        self.is_server = is_server
        self._name = name

    def ask(self, method: Callable[..., Any], *given: Any, **options: Any) -> Any:
        """Call one of `api`'s methods."""
        try:
            return method(*given, **options)
        except (ApiException, QdrantException, OSError, ValueError) as error:
            raise GemIndexError(f"{self._name}: {method.__name__} failed: {error}") from error

    def exists(self, name: str) -> bool:
        """Whether there is a collection."""
        return bool(self.ask(self.api.collection_exists, name))

    def create(
        self, name: str, keywords: Sequence[str], flags: Sequence[str], **options: Any
    ) -> None:
        """Create a collection, whose payload is found by these fields."""
        self.ask(self.api.create_collection, name, **options)
        if self.is_server:
            kinds = dict.fromkeys(keywords, models.PayloadSchemaType.KEYWORD)
            kinds |= dict.fromkeys(flags, models.PayloadSchemaType.BOOL)
            for field, kind in kinds.items():
                self.ask(self.api.create_payload_index, name, field, field_schema=kind)

    def scroll(
        self, name: str, where: Any, limit: int | None = None, **options: Any
    ) -> Iterator[Any]:
        """All records that match, or so many of them."""
        left, after = limit, None
        while left is None or left > 0:
            most = AT_ONCE if left is None else min(AT_ONCE, left)
            found, after = self.ask(
                self.api.scroll, name, scroll_filter=where, limit=most, offset=after, **options
            )
            yield from found
            left = None if left is None else left - len(found)
            if after is None:
                return


class QdrantChunks:
    """Chunks in a Qdrant collection; meets `Chunks`.

    Words are sparse vectors whose rarity Qdrant puts into the query (its modifier "idf").

    Args:
        client: Where.
        name: The collection; created when something is put into it.
        dim: Numbers in a vector; None for a collection without.
        is_exact: Search every vector instead of Qdrant's HNSW.
    """

    def __init__(self, client: Client, name: str, dim: int | None, *, is_exact: bool) -> None:
        self._client = client
        self._name = name
        self._dim = dim
        self._params = models.SearchParams(exact=is_exact) if client.is_server else None
        self._is_there = False

    def _exists(self) -> bool:
        self._is_there = self._is_there or self._client.exists(self._name)
        return self._is_there

    def _create(self) -> None:
        dense = {}
        if self._dim is not None:
            dense = {_DENSE: models.VectorParams(size=self._dim, distance=models.Distance.COSINE)}
        sparse = {_WORDS: models.SparseVectorParams(modifier=models.Modifier.IDF)}
        keywords = ["tokens", "source", "revision", "digest"]
        self._client.create(
            self._name, keywords, [], vectors_config=dense, sparse_vectors_config=sparse
        )

    def put(self, points: Sequence[Point]) -> None:
        """Write points; those whose ids exist are replaced."""
        if points and not self._exists():
            self._create()
        for i in range(0, len(points), AT_ONCE):
            block = [_struct(point) for point in points[i : i + AT_ONCE]]
            self._client.ask(self._client.api.upsert, self._name, points=block, wait=True)

    def delete(self, where: Condition) -> None:
        """Delete what matches."""
        if self._exists():
            selector = models.FilterSelector(filter=filter_of(where))
            self._client.ask(
                self._client.api.delete, self._name, points_selector=selector, wait=True
            )

    def count(self, where: Condition) -> int:
        """How many match."""
        if not self._exists():
            return 0
        found = self._client.ask(
            self._client.api.count, self._name, count_filter=filter_or_none(where)
        )
        return int(found.count)

    def scroll(
        self, where: Condition, *, limit: int | None = None, vectors: bool = False
    ) -> Iterator[Point]:
        """All that match, or so many of them."""
        if self._exists():
            options = {"with_payload": _PAYLOAD, "with_vectors": [_DENSE] if vectors else False}
            where = filter_or_none(where)
            for record in self._client.scroll(self._name, where, limit, **options):
                yield _point(record)

    def nearest(self, vector: Any, n: int, where: Condition) -> list[tuple[Point, float]]:
        """The n nearest to a vector, float32 [dim], with their cosines, best first."""
        if not self._exists():
            return []
        found = self._client.ask(
            self._client.api.query_points,
            self._name,
            query=vector.tolist(),
            using=_DENSE,
            query_filter=filter_or_none(where),
            search_params=self._params,
            limit=n,
            with_payload=_PAYLOAD,
        )
        return [(_point(record), float(record.score)) for record in found.points]

    def worded(
        self, terms: Sequence[str], n: int, where: Condition, *, vectors: bool = False
    ) -> tuple[list[Point], list[int]]:
        """About the n best for some words, and of each word how many chunks hold it.

        A word's rarity is read off the score that its best chunk has for it alone.
        """
        if not self._exists():
            return [], [0] * len(terms)
        numbers = [term_number(term) for term in terms]
        requests = [
            models.QueryRequest(
                query=_sparse(dict.fromkeys(numbers, 1.0)),
                using=_WORDS,
                filter=filter_or_none(where),
                limit=n,
                with_payload=_PAYLOAD,
                with_vector=[_DENSE] if vectors and self._dim is not None else False,
            )
        ]
        requests += [
            models.QueryRequest(
                query=_sparse({i: 1.0}), using=_WORDS, limit=1, with_vector=[_WORDS]
            )
            for i in numbers
        ]
        found, *each = self._client.ask(
            self._client.api.query_batch_points, self._name, requests=requests
        )
        count = self.count(EVERYTHING)
        holding = [_holding(i, best.points, count) for i, best in zip(numbers, each, strict=True)]
        return [_point(record) for record in found.points], holding


class QdrantEntries:
    """Rows in a Qdrant collection without vectors; meets `Entries`.

    Args:
        client: Where.
        name: The collection.
    """

    def __init__(self, client: Client, name: str) -> None:
        self._client = client
        self._name = name

    def put(self, entries: Sequence[Entry]) -> None:
        """Write rows; those of the same kind and name are replaced."""
        points = [
            models.PointStruct(id=point_id(e.kind, e.name), vector={}, payload=e._asdict())
            for e in entries
        ]
        if points:
            self._client.ask(self._client.api.upsert, self._name, points=points, wait=True)

    def delete(self, kind: str, names: Sequence[str]) -> None:
        """Delete rows."""
        if names:
            ids: list[Any] = [point_id(kind, name) for name in names]
            chosen = models.PointIdsList(points=ids)
            self._client.ask(self._client.api.delete, self._name, points_selector=chosen, wait=True)

    def find(
        self,
        kind: str,
        *,
        names: Sequence[str] | None = None,
        hash: str | None = None,  # noqa: A002
        torn: bool | None = None,
    ) -> list[Entry]:
        """Rows of a kind, by what is given."""
        must: list[Any] = [is_value("kind", kind)]
        if names is not None:
            must.append(models.HasIdCondition(has_id=[point_id(kind, name) for name in names]))
        must += [
            is_value(key, v) for key, v in {"hash": hash, "torn": torn}.items() if v is not None
        ]
        records = self._client.scroll(self._name, models.Filter(must=must), with_payload=True)
        return [Entry(**record.payload) for record in records]

    def count(self, kind: str) -> int:
        """How many rows of a kind there are."""
        where = models.Filter(must=[is_value("kind", kind)])
        return int(self._client.ask(self._client.api.count, self._name, count_filter=where).count)


_PAYLOAD = models.PayloadSelectorExclude(exclude=[*FOUND_BY])


def _struct(point: Point) -> "models.PointStruct":
    columns = {key: value for key, value in columns_of(point).items() if value is not None}
    words = weights_of(point.chunk)
    vector: dict[str, Any] = {_WORDS: _sparse(words)} if words else {}
    if point.vector is not None:
        vector[_DENSE] = np.asarray(point.vector).tolist()
    return models.PointStruct(id=point_id(point.chunk.id), vector=vector, payload=columns)


def _point(record: Any) -> Point:
    vector = (record.vector or {}).get(_DENSE)
    columns = {key: record.payload.get(key) for key in STORED}
    return point_of(columns, None if vector is None else np.asarray(vector, dtype=np.float32))


def _sparse(words: dict[int, float]) -> "models.SparseVector":
    return models.SparseVector(indices=list(words), values=list(words.values()))


def _holding(number: int, best: Sequence[Any], count: int) -> int:
    """How many of `count` chunks hold a word: Qdrant's formula for its rarity, turned round."""
    if not best:
        return 0
    sparse = best[0].vector[_WORDS]
    weight = dict(zip(sparse.indices, sparse.values, strict=True))[number]
    odds = math.expm1(best[0].score / weight)
    return round((count + 0.5 - 0.5 * odds) / (1 + odds))
