"""What is needed of an index to find and answer from it: what every store of chunks offers.

`GemIndex` (one folder, SQLite and FAISS) meets it, and so do the adapters over servers in
`gem_rag.index.backends`.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, Protocol, Self

from numpy.typing import ArrayLike

from gem_rag.index.documents import DocumentInfo
from gem_rag.index.filters import Where
from gem_rag.index.records import Chunk, Deletion, Hit, IndexInfo, Passage, Record
from gem_rag.index.search import Mode


class IndexedDocuments(Protocol):
    """The documents in an index. Each is replaced as a whole: a crash leaves the old or the new."""

    def put(
        self,
        source: str,
        text: str,
        content_hash: str,
        passages: Sequence[Passage],
        vectors: ArrayLike | None,
    ) -> None:
        """Store a document and its n pieces, vectors [n, dim], in the place of an older one."""
        ...

    def remove(self, sources: Sequence[str]) -> list[str]:
        """Delete documents and all of their chunks; which of them were there."""
        ...

    def move(self, old: str, new: str, again: Callable[[str], str]) -> None:
        """Give a document another source; its chunks keep their vectors."""
        ...

    def all(self) -> list[DocumentInfo]:
        """All of them, by source."""
        ...

    def __len__(self) -> int: ...

    def get(self, source: str) -> DocumentInfo | None:
        """One of them; None if it is not there."""
        ...

    def with_hash(self, content_hash: str) -> list[DocumentInfo]:
        """Those of the same content."""
        ...

    def chunks(self, source: str) -> list[Record]:
        """A document's chunks, in their order; none where there is no such one."""
        ...

    def unread(self, chunks: Sequence[Chunk]) -> list[str]:
        """What was read of chunks that were deleted, and is read of none that is there."""
        ...

    def text(self, source: str) -> str:
        """The text that was indexed, to whose characters `start` and `end` of chunks refer."""
        ...


class Index(Protocol):
    """Chunks, their words and vectors, found by either and by filters."""

    @property
    def path(self) -> Path | None:
        """The folder on this machine that holds it, where others keep things beside it."""
        ...

    @property
    def read_only(self) -> bool:
        """Whether it can only be read."""
        ...

    @property
    def documents(self) -> IndexedDocuments:
        """What was indexed as a whole."""
        ...

    def add(
        self,
        texts: Sequence[str],
        vectors: ArrayLike | None,
        metadatas: Sequence[Mapping[str, Any] | None] | None = None,
        ids: Sequence[str] | None = None,
    ) -> list[str]:
        """Add n chunks, vectors [n, dim]; an error where an id exists. Their ids."""
        ...

    def upsert(
        self,
        texts: Sequence[str],
        vectors: ArrayLike | None,
        metadatas: Sequence[Mapping[str, Any] | None] | None = None,
        ids: Sequence[str] | None = None,
    ) -> list[str]:
        """Like `add`, but chunks whose ids exist are replaced."""
        ...

    def set_vectors(self, ids: Sequence[str], vectors: ArrayLike) -> None:
        """Give n chunks their vectors [n, dim]; ids that do not exist are passed over."""
        ...

    def delete(self, ids: Sequence[str] | None = None, *, where: Where | None = None) -> Deletion:
        """Delete chunks by id or by filter."""
        ...

    def get(self, ids: Sequence[str], *, vectors: bool = False) -> list[Record]:
        """The chunks with these ids, in this order; ids that do not exist are left out."""
        ...

    def count(self, where: Where | None = None) -> int:
        """How many chunks match a filter, or there are."""
        ...

    def iterate(
        self, where: Where | None = None, *, batch_size: int = 1000, vectors: bool = False
    ) -> Iterator[Record]:
        """All chunks that match."""
        ...

    def without_vectors(self, limit: int = 1000) -> list[Record]:
        """Chunks that have no vector yet."""
        ...

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
        ...

    def transaction(self) -> AbstractContextManager[Any]:
        """Several changes as one, where the store can do that.

        Where it cannot, each change stands by itself; documents are replaced whole all the same.
        """
        ...

    def get_meta(self, key: str, default: Any = None) -> Any:
        """A value stored by `set_meta`."""
        ...

    def set_meta(self, key: str, value: Any) -> None:
        """Store a small JSON value under a key; None removes it."""
        ...

    def claim(self, fingerprint: str | None, dim: int | None = None) -> None:
        """Record whose vectors an empty index is to hold, or check whose are in it."""
        ...

    def info(self) -> IndexInfo:
        """Size, dimension, model and kind."""
        ...

    def close(self) -> None:
        """Close it."""
        ...

    def __enter__(self) -> Self: ...

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None: ...
