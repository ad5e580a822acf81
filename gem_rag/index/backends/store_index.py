"""An index over any `Store`: what `GemRAG` needs, in terms of what servers can do."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import Any, Self

from numpy.typing import ArrayLike

from gem_rag.errors import GemIndexError
from gem_rag.index.backends.documents import StoredDocuments
from gem_rag.index.backends.reading import View
from gem_rag.index.backends.searching import StoreSearch
from gem_rag.index.backends.store import (
    AT_ONCE,
    EVERYTHING,
    STORE_KINDS,
    Entry,
    HasId,
    Negated,
    Point,
    Store,
    StoreKind,
    Tokens,
)
from gem_rag.index.backends.tokens import EMBEDDED
from gem_rag.index.backends.writing import DocumentWriter
from gem_rag.index.database import StoredChunk, Vectors
from gem_rag.index.filters import Where
from gem_rag.index.identity import Identity
from gem_rag.index.records import (
    Deletion,
    Hit,
    IndexInfo,
    Record,
    check_ids,
    check_vectors,
    chunk_fields,
    encode_chunks,
)
from gem_rag.index.search import Mode, Query
from gem_rag.index.values import decode, encode

_META = "meta"
_WITH_VECTOR = Tokens((EMBEDDED,))


class StoreIndex:
    """Chunks, their words and vectors, in a store; meets `gem_rag.index.protocol.Index`.

    One process may write while others read. `documents` knows what was indexed as a whole.

    Args:
        store: Where.
        fingerprint: Of the model whose vectors are stored: recorded in a new collection, compared
            with what an existing one has recorded. None does not check.
        dim: Numbers in a vector. None takes it from the collection or the first vectors added.
        kind: "flat" searches exactly, "hnsw" approximately. Recorded in a new collection.

    Raises:
        GemIndexError: The collection's vectors are another model's or have another length.
    """

    def __init__(
        self,
        store: Store,
        *,
        fingerprint: str | None = None,
        dim: int | None = None,
        kind: StoreKind | None = None,
    ) -> None:
        if kind is not None and kind not in STORE_KINDS:
            raise GemIndexError(f"kind is {kind!r}; expected one of {', '.join(STORE_KINDS)}")
        self._store = store
        self._recorded = _Recorded(store)
        self._identity = Identity(self._recorded, store.name)
        try:
            if "kind" not in self._recorded.properties():
                self._recorded.set_property("kind", kind or "flat")
            self.claim(fingerprint, dim)
        except BaseException:
            store.close()
            raise
        self._view = View(store, self._identity)
        self._writer = DocumentWriter(store)
        self._search = StoreSearch(self._view, self._identity)
        self.documents = StoredDocuments(self._view, self._writer, self._accept, self.transaction)

    @property
    def path(self) -> Path | None:
        """None: what is kept beside an index on this machine is kept in memory."""
        return None

    @property
    def read_only(self) -> bool:
        """False: who may not write is told so by the server."""
        return False

    # Writing

    def add(
        self,
        texts: Sequence[str],
        vectors: ArrayLike | None,
        metadatas: Sequence[Mapping[str, Any] | None] | None = None,
        ids: Sequence[str] | None = None,
    ) -> list[str]:
        """Add chunks: see `GemIndex.add`."""
        chunks = encode_chunks(texts, metadatas, ids)
        names = [chunk.id for chunk in chunks]
        with self.transaction():
            if ids is not None and (existing := self._view.by_id(names)):
                raise GemIndexError(
                    f"{len(existing)} of {len(names)} ids exist already, the first is "
                    f"{next(iter(existing))!r}: use upsert to replace, or other ids"
                )
            self._put(chunks, vectors)
        return names

    def upsert(
        self,
        texts: Sequence[str],
        vectors: ArrayLike | None,
        metadatas: Sequence[Mapping[str, Any] | None] | None = None,
        ids: Sequence[str] | None = None,
    ) -> list[str]:
        """Like `add`, but chunks whose ids exist are replaced."""
        chunks = encode_chunks(texts, metadatas, ids)
        names = [chunk.id for chunk in chunks]
        with self.transaction():
            if ids is not None:
                known = self._view.by_id(names).values()
                self._take_out([point for point in known if point.revision])
            self._put(chunks, vectors)
        return names

    def _put(self, chunks: Sequence[StoredChunk], vectors: ArrayLike | None) -> None:
        matrix = self._accept(vectors, len(chunks))
        self._view.chunks.put(
            [Point(c, "", None if matrix is None else matrix[i]) for i, c in enumerate(chunks)]
        )

    def set_vectors(self, ids: Sequence[str], vectors: ArrayLike) -> None:
        """Give chunks their vectors: see `GemIndex.set_vectors`."""
        if len(set(check_ids(ids))) < len(ids):
            raise GemIndexError("an id is given twice; expected one vector for each chunk")
        with self.transaction():
            matrix = self._accept(vectors, len(ids))
            known = self._view.by_id(ids)
            if matrix is not None:
                placed = {name: matrix[i] for i, name in enumerate(ids) if name in known}
                self._view.chunks.put(
                    [known[name]._replace(vector=vector) for name, vector in placed.items()]
                )

    def _accept(self, vectors: ArrayLike | None, count: int) -> Vectors | None:
        """Vectors to be written, float32 [n, dim]; the first ones decide the length of all."""
        if vectors is not None and count and self._identity.dim is None:
            self._grow(check_vectors(vectors, count).shape[1])
        return self._identity.accept(vectors, count)

    def _grow(self, dim: int) -> None:
        """Copy what was indexed before the first vector to where vectors of a length can be.

        What was copied counts once the length is recorded, so that a crash before costs nothing.
        """
        old, new = self._store.chunks(None), self._store.chunks(dim)
        points = old.scroll(EVERYTHING)
        while block := list(islice(points, AT_ONCE)):
            new.put(block)
        self._recorded.set_property("dim", dim)
        self._store.drop_unvectored()

    def delete(self, ids: Sequence[str] | None = None, *, where: Where | None = None) -> Deletion:
        """Delete chunks by id or by filter: see `GemIndex.delete`."""
        if (ids is None) == (where is None):
            raise GemIndexError("delete takes either ids or where")
        with self.transaction():
            if ids is None:
                points = list(self._view.scroll(where))
                self._take_out(points)
                return Deletion([point.chunk.id for point in points], [])
            wanted = list(dict.fromkeys(check_ids(ids)))
            known = self._view.by_id(wanted)
            self._take_out(list(known.values()))
        return Deletion(
            [name for name in wanted if name in known], [n for n in wanted if n not in known]
        )

    def _take_out(self, points: Sequence[Point]) -> None:
        """Delete chunks; documents that lose some are not whole from before then on."""
        if not points:
            return
        sources = (p.chunk.source for p in points if p.revision and p.chunk.source is not None)
        torn = self._writer.tear(sources)
        self._view.chunks.delete(HasId(tuple(point.chunk.id for point in points)))
        self._writer.recount(self._view.chunks, torn)

    # Reading

    def get(self, ids: Sequence[str], *, vectors: bool = False) -> list[Record]:
        """The chunks with these ids, in this order; ids that do not exist are left out."""
        found = self._view.by_id(check_ids(ids), vectors=vectors)
        return [_record(found[name]) for name in ids if name in found]

    def count(self, where: Where | None = None) -> int:
        """How many chunks match a filter (see `gem_rag.index.filters`), or there are."""
        return self._view.count(where)

    def __len__(self) -> int:
        return self.count()

    def __iter__(self) -> Iterator[Record]:
        return self.iterate()

    def iterate(
        self, where: Where | None = None, *, batch_size: int = 1000, vectors: bool = False
    ) -> Iterator[Record]:
        """All chunks that match, in no particular order; the store decides how many at a time."""
        del batch_size
        return map(_record, self._view.scroll(where, vectors=vectors))

    def without_vectors(self, limit: int = 1000) -> list[Record]:
        """Chunks that have no vector yet."""
        found = self._view.chunks.scroll(Negated(_WITH_VECTOR), limit=int(limit))
        return [_record(point) for point in found]

    def search(
        self,
        vector: ArrayLike | None = None,
        k: int = 10,
        *,
        text: str | None = None,
        mode: Mode | None = None,
        where: Where | None = None,
        min_score: float | None = None,
        fingerprint: str | None = None,
        distinct: bool = False,
        alpha: float | None = None,
    ) -> list[Hit]:
        """The `k` best chunks for a vector [dim], a text, or both: see `GemIndex.search`."""
        vectors = None if vector is None else check_vectors(vector, 1, single=True)
        texts = None if text is None else [text]
        query = Query(vectors, texts, mode, where, min_score, fingerprint, distinct, alpha)
        return self._search.find(query, k)

    # Keeping

    @contextmanager
    def transaction(self) -> Iterator[Self]:
        """Several changes as one where the store has transactions; see `Index.transaction`."""
        with self._store.transaction():
            yield self

    def get_meta(self, key: str, default: Any = None) -> Any:
        """A value stored by `set_meta`."""
        found = self._store.entries.find(_META, names=[key])
        return decode(found[0].body) if found else default

    def set_meta(self, key: str, value: Any) -> None:
        """Store a small JSON value under a key; None removes it."""
        if value is None:
            self._store.entries.delete(_META, [key])
        else:
            body = encode(value, f"the value of {key!r}")
            self._store.entries.put([Entry(_META, key, body=body)])

    def claim(self, fingerprint: str | None, dim: int | None = None) -> None:
        """Record whose vectors an empty index is to hold, or check whose are in it.

        Raises:
            GemIndexError: The vectors are another model's, of another length, or of unknown origin.
        """
        self._identity.claim(fingerprint, None)
        if dim is not None and self._identity.dim is None:
            self._grow(dim)
        self._identity.check_dim(dim)

    def info(self) -> IndexInfo:
        """Size, dimension, model and kind; what it takes on the server is not known."""
        told = self._recorded.properties()
        return IndexInfo(
            path=None,
            count=self.count(),
            documents=len(self.documents),
            dim=told.get("dim"),
            vectors=self._recorded.count_vectors(),
            words=True,
            fingerprint=told.get("fingerprint"),
            kind=told.get("kind", "flat"),
            bytes=0,
            readings_bytes=0,
            generation=0,
        )

    def close(self) -> None:
        """Close the connection."""
        self._store.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self.close()

    def __copy__(self, memo: object = None) -> Self:
        """A copy is the thing itself."""
        return self

    __deepcopy__ = __copy__


class _Recorded:
    """What a collection's metadata says of its vectors; what is said once stays so."""

    read_only = False

    def __init__(self, store: Store) -> None:
        self._store = store
        self.transaction = store.transaction
        self._known: dict[str, Any] = {}

    def properties(self) -> dict[str, Any]:
        if not {"fingerprint", "dim", "kind"} <= self._known.keys():
            self._known = self._store.properties()
        return self._known

    def set_property(self, key: str, value: Any) -> None:
        self._store.set_property(key, value)
        self._known = {}

    def count_vectors(self) -> int:
        return self._store.chunks(self.properties().get("dim")).count(_WITH_VECTOR)


def _record(point: Point) -> Record:
    return Record(**chunk_fields(point.chunk), vector=point.vector)
