"""GemIndex: chunks, their vectors and metadata, in SQLite, searched with FAISS.

SQLite is the only truth. What FAISS holds is a copy in memory, brought up to date before each
search, so that every committed change is seen, by whichever process it was made.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray

from gem_rag.errors import GemIndexError
from gem_rag.index.ann import KINDS, Kind
from gem_rag.index.database import Database, StoredChunk
from gem_rag.index.documents import Documents
from gem_rag.index.facts import facts_of
from gem_rag.index.filters import Where
from gem_rag.index.follower import Follower
from gem_rag.index.handle import Handle
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
from gem_rag.index.search import Mode, Query, Search
from gem_rag.index.sql import compile_filter
from gem_rag.index.values import decode, encode
from gem_rag.index.writer import Writer

DATABASE_FILE = "index.sqlite"


class GemIndex(Handle):
    """Chunks, their words and vectors, in a folder, or in memory.

    One process may write while others read; each sees every commit from its next call on. An
    object may be used by many threads, one of which runs at a time.

    `documents` knows what was indexed as a whole: its text, whether it has changed.

    Args:
        path: The folder, holding `index.sqlite` and, for large indexes, `vectors.faiss`. None
            keeps everything in memory.
        fingerprint: Of the model whose vectors are stored: recorded in a new index, compared
            with what an existing one has recorded. None does not check.
        dim: Numbers in a vector. None takes it from the index or the first vectors added.
        kind: "flat" searches exactly, "hnsw" and "ivf" approximately; "auto" is flat up to
            100,000 chunks and IVF above. Recorded in a new index; None takes what is recorded.
        create: Create the index if there is none; otherwise that is an error.
        timeout: Seconds to wait for another process that is writing.

    Raises:
        GemIndexError: There is no index and `create` is False; its vectors are another model's
            or have another length; the file is damaged, foreign or of a newer schema.
    """

    def __init__(
        self,
        path: str | Path | None = None,
        *,
        fingerprint: str | None = None,
        dim: int | None = None,
        kind: Kind | None = None,
        create: bool = True,
        timeout: float = 30.0,
    ) -> None:
        if kind is not None and kind not in KINDS:
            raise GemIndexError(f"kind is {kind!r}; expected one of {', '.join(KINDS)}")
        self.path = Path(path).expanduser() if path is not None else None
        if self.path is not None and self.path.exists() and not self.path.is_dir():
            raise GemIndexError(f"{self.path} is a file; an index is a folder")
        file = self.path / DATABASE_FILE if self.path is not None else None
        self._database = Database(file, create=create, timeout=timeout)
        self._identity = Identity(self._database, str(self.path or "the index in memory"))
        try:
            kind = self._identity.open(fingerprint, dim, kind)
        except BaseException:
            self._database.connection.close()
            raise
        self._again = {"create": False, "kind": kind, "timeout": timeout}
        self._follower = Follower(self._database, kind, self.path)
        self._writer = Writer(self._database, self._identity)
        self.documents = Documents(self._database, self._identity)
        self._search = Search(self._database, self._identity, self._follower)

    # Writing

    def add(
        self,
        texts: Sequence[str],
        vectors: ArrayLike | None,
        metadatas: Sequence[Mapping[str, Any] | None] | None = None,
        ids: Sequence[str] | None = None,
    ) -> list[str]:
        """Add chunks, all in one commit.

        Args:
            texts: n texts.
            vectors: Numbers [n, dim]; stored as float32, L2-normalised. None stores texts that are
                found by words, until `set_vectors`.
            metadatas: n dicts of what JSON can hold, or None.
            ids: n ids; made up (UUIDs) if None.

        Returns:
            The n ids.

        Raises:
            GemIndexError: An id exists or is given twice, a vector is zero, not finite or of
                the wrong length, or metadata is not JSON. Nothing is added then.
        """
        with self.transaction():
            return self._writer.write(encode_chunks(texts, metadatas, ids), vectors, replace=False)

    def upsert(
        self,
        texts: Sequence[str],
        vectors: ArrayLike | None,
        metadatas: Sequence[Mapping[str, Any] | None] | None = None,
        ids: Sequence[str] | None = None,
    ) -> list[str]:
        """Like `add`, but chunks whose ids exist are replaced."""
        with self.transaction():
            return self._writer.write(encode_chunks(texts, metadatas, ids), vectors, replace=True)

    def set_vectors(self, ids: Sequence[str], vectors: ArrayLike) -> None:
        """Give chunks their vectors, in one commit.

        Args:
            ids: n ids; those that do not exist are passed over.
            vectors: Numbers [n, dim].

        Raises:
            GemIndexError: An id is given twice, or a vector is malformed or of the wrong length.
        """
        with self.transaction():
            self._writer.set_vectors(check_ids(ids), vectors)

    def delete(self, ids: Sequence[str] | None = None, *, where: Where | None = None) -> Deletion:
        """Delete chunks by id or by filter, in one commit.

        Args:
            ids: Those that do not exist are reported in `missing`.
            where: A filter (see `gem_rag.index.filters`); `{}` matches every chunk.

        Raises:
            GemIndexError: Neither or both are given.
        """
        if (ids is None) == (where is None):
            raise GemIndexError("delete takes either ids or where")
        with self.transaction():
            if ids is None:
                return self._writer.delete_where(where)
            return self._writer.delete(check_ids(ids))

    # Reading

    def get(self, ids: Sequence[str], *, vectors: bool = False) -> list[Record]:
        """The chunks with these ids, in this order; ids that do not exist are left out."""
        with self._database.snapshot():
            rows = self._database.rows_by_id(check_ids(ids))
            chunks = self._database.chunks_by_row(rows.values())
            return self._records([chunks[rows[name]] for name in ids if name in rows], vectors)

    def count(self, where: Where | None = None) -> int:
        """How many chunks match a filter (see `gem_rag.index.filters`), or there are."""
        with self._database.snapshot():
            return self._database.count(compile_filter(where))

    def __len__(self) -> int:
        return self.count()

    def __iter__(self) -> Iterator[Record]:
        return self.iterate()

    def iterate(
        self, where: Where | None = None, *, batch_size: int = 1000, vectors: bool = False
    ) -> Iterator[Record]:
        """All chunks that match, in the order they were added.

        Reads `batch_size` at a time and may be interleaved with writing: chunks deleted
        meanwhile may still come, chunks added or replaced meanwhile come at the end.
        """
        condition = compile_filter(where)
        after = 0
        while True:
            with self._database.snapshot():
                chunks = self._database.chunks_where(condition, after, max(int(batch_size), 1))
                records = self._records(chunks, vectors)
            if not chunks:
                return
            after = chunks[-1].row
            yield from records

    def _records(self, chunks: Sequence[StoredChunk], vectors: bool) -> list[Record]:
        found: Mapping[int, NDArray[np.float32]] = {}
        if vectors and chunks:
            found = self._database.vectors((c.row for c in chunks), self._identity.dim or 0)
        return [Record(**chunk_fields(c), vector=found.get(c.row)) for c in chunks]

    def without_vectors(self, limit: int = 1000) -> list[Record]:
        """Chunks that have no vector yet, in the order they were added."""
        with self._database.snapshot():
            return self._records(self._database.without_vectors(int(limit)), vectors=False)

    # Searching

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
        """The `k` best chunks for a vector [dim], a text, or both, best first.

        Args:
            vector: Of any length but zero.
            k: Fewer come only if fewer match.
            text: Words to find; plain text, no query language.
            mode: "vector" finds the nearest, "words" those that hold the words, "hybrid" both (see
                `gem_rag.index.fusion`); None takes what is given.
            where: A filter (see `gem_rag.index.filters`), applied in the search, not after it.
            min_score: Leave out hits of a lower cosine.
            fingerprint: Of the model that made the vector; checked if given.
            distinct: Count equal texts once; the hit has all their `sources`.
            alpha: The cosine's share in hybrid searches, 0 to 1; None is the measured best.

        Raises:
            GemIndexError: The vector is malformed or another model's, or the filter is.
        """
        [hits] = self.search_batch(
            None if vector is None else check_vectors(vector, 1, single=True),
            k,
            texts=None if text is None else [text],
            mode=mode,
            where=where,
            min_score=min_score,
            fingerprint=fingerprint,
            distinct=distinct,
            alpha=alpha,
        )
        return hits

    def search_batch(
        self,
        vectors: ArrayLike | None = None,
        k: int = 10,
        *,
        texts: Sequence[str] | None = None,
        mode: Mode | None = None,
        where: Where | None = None,
        min_score: float | None = None,
        fingerprint: str | None = None,
        distinct: bool = False,
        alpha: float | None = None,
    ) -> list[list[Hit]]:
        """`search` for each of vectors [m, dim] and texts [m], in one look at the index."""
        queries = None if vectors is None else check_vectors(vectors, None)
        query = Query(queries, texts, mode, where, min_score, fingerprint, distinct, alpha)
        return self._search.find(query, k)

    def mmr(
        self,
        vector: ArrayLike | None = None,
        k: int = 10,
        *,
        text: str | None = None,
        mode: Mode | None = None,
        fetch_k: int | None = None,
        lambda_mult: float = 0.5,
        where: Where | None = None,
        fingerprint: str | None = None,
        distinct: bool = False,
    ) -> list[Hit]:
        """Maximal marginal relevance: near the query, but not all saying the same.

        Carbonell and Goldstein (1998): repeatedly takes the candidate with the largest
        `lambda_mult * score - (1 - lambda_mult) * max cosine(already taken)`, the score being what
        a `search` of this mode orders by.

        Args:
            vector: Numbers [dim].
            k: How many to return.
            text, mode, where, fingerprint, distinct: As in `search`.
            fetch_k: How many of the best chunks to choose from; 4 k if None.
            lambda_mult: 1 is relevance alone, 0 diversity alone.

        Returns:
            Hits in the order taken, with the scores of `search`.
        """
        query = Query(
            None if vector is None else check_vectors(vector, 1, single=True),
            None if text is None else [text],
            mode,
            where,
            fingerprint=fingerprint,
            distinct=distinct,
        )
        return self._search.diverse(query, k, fetch_k, lambda_mult)

    # Keeping

    @contextmanager
    def transaction(self) -> Iterator[Self]:
        """Several changes as one commit, or none of them if the block raises.

        Other processes, and other threads of this one, wait to write until the block ends (and
        threads to read as well): compute embeddings before it, not inside.

        Raises:
            GemIndexError: Another process kept writing for longer than the timeout.
        """
        with self._database.transaction():
            yield self

    def get_meta(self, key: str, default: Any = None) -> Any:
        """A value stored by `set_meta`."""
        value = self._database.meta(key)
        return default if value is None else decode(value)

    def set_meta(self, key: str, value: Any) -> None:
        """Store a small JSON value under a key, such as what was ingested; None removes it."""
        with self.transaction():
            encoded = None if value is None else encode(value, f"the value of {key!r}")
            self._database.set_meta(key, encoded)

    def claim(self, fingerprint: str | None, dim: int | None = None) -> None:
        """Record whose vectors an empty index is to hold, or check whose are in it.

        Args:
            fingerprint: As for the class; None is not checked.
            dim: As for the class.

        Raises:
            GemIndexError: The vectors are another model's, of another length, or of unknown origin.
        """
        self._identity.claim(fingerprint, dim)

    @property
    def read_only(self) -> bool:
        """Whether it can only be read: its file or folder is write-protected."""
        return self._database.read_only

    def info(self) -> IndexInfo:
        """Size, dimension, model, kind and generation, of one moment; bytes with and beside it."""
        return facts_of(self._database, self.documents, self._follower, self.path)

    def save(self, path: str | Path) -> Path:
        """Write a copy of one moment's state to a new folder, which `GemIndex` then opens.

        In the index's own folder everything is on disk already: that is a `checkpoint`.

        Raises:
            GemIndexError: The folder holds another index already.
        """
        folder = Path(path).expanduser()
        if self.path is not None and folder.resolve() == self.path.resolve():
            self.checkpoint()
            return folder
        folder.mkdir(parents=True, exist_ok=True)
        if (folder / DATABASE_FILE).exists():
            raise GemIndexError(f"{folder} holds another index already; choose another folder")
        self._database.connection.copy_to(folder / DATABASE_FILE)
        return folder

    def checkpoint(self) -> None:
        """Write `vectors.faiss`, from which a large index opens faster; flat ones need none."""
        dim = self._identity.dim
        if dim is not None:
            self._follower.checkpoint(dim)

    def close(self) -> None:
        """Close; if this process changed much of a large index, `checkpoint` first."""
        try:
            if self._database.wrote and self._follower.is_stale():
                self.checkpoint()
        finally:
            self._database.wrote = False
            self._follower.close()
            self._database.connection.close()

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is not None:
            self._database.wrote = False  # leave at once
        self.close()
