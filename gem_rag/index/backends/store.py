"""What is asked of a server that keeps chunks: the few things in which servers differ.

`StoreIndex` makes an index of a `Store`. Chunks are in a `Chunks`, searched by the server; what
else there is (documents, values by key) are small `Entry` rows.
"""

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, Protocol

from gem_rag.index.database import StoredChunk

StoreKind = Literal["flat", "hnsw"]
STORE_KINDS: tuple[StoreKind, ...] = ("flat", "hnsw")
AT_ONCE = 500  # rows of one request


class Point(NamedTuple):
    """A chunk as it is stored.

    Attributes:
        chunk: Its text, metadata and place; `row` is not used.
        revision: Which writing of its document it belongs to; "" without a document.
        vector: float32 [dim], unit length; None where it has none, or it was not asked for.
    """

    chunk: StoredChunk
    revision: str = ""
    vector: Any = None


class Entry(NamedTuple):
    """A row beside the chunks, found by its kind and name.

    Attributes:
        kind: What it is, such as "document".
        name: Unique within its kind.
        hash: Of a document's content.
        torn: Whether a document is being written, or was when a writer broke off.
        body: The rest, as JSON.
    """

    kind: str
    name: str
    hash: str = ""
    torn: bool = False
    body: str = ""


@dataclass(frozen=True)
class And:
    """All parts hold; without parts everything matches."""

    parts: tuple["Condition", ...]


@dataclass(frozen=True)
class Or:
    """One part holds at least; without parts nothing matches."""

    parts: tuple["Condition", ...]


@dataclass(frozen=True)
class Negated:
    """The part does not hold."""

    part: "Condition"


@dataclass(frozen=True)
class HasId:
    """The chunk's id is one of these."""

    ids: tuple[str, ...]


@dataclass(frozen=True)
class Tokens:
    """One of these stands among a chunk's tokens (`gem_rag.index.backends.tokens`)."""

    tokens: tuple[str, ...]


@dataclass(frozen=True)
class Number:
    """A chunk's number of this key is ``$gt``, ``$gte``, ``$lt`` or ``$lte`` another."""

    key: str
    operator: str
    operand: float


@dataclass(frozen=True)
class Part:
    """A chunk's column (``source`` or ``heading``) holds these characters."""

    column: str
    text: str


@dataclass(frozen=True)
class Among:
    """A chunk's column (``source``, ``revision`` or ``digest``) is one of these."""

    column: str
    values: tuple[str, ...]


Condition = And | Or | Negated | HasId | Tokens | Number | Part | Among
EVERYTHING = And(())


class Chunks(Protocol):
    """The chunks of a store, all with vectors of one length or none."""

    def put(self, points: Sequence[Point]) -> None:
        """Write points; those whose ids exist are replaced."""
        ...

    def delete(self, where: Condition) -> None:
        """Delete what matches."""
        ...

    def count(self, where: Condition) -> int:
        """How many match."""
        ...

    def scroll(
        self, where: Condition, *, limit: int | None = None, vectors: bool = False
    ) -> Iterator[Point]:
        """All that match, or so many of them."""
        ...

    def nearest(self, vector: Any, n: int, where: Condition) -> list[tuple[Point, float]]:
        """The n nearest to a unit vector, float32 [dim], with their cosines, best first."""
        ...

    def worded(
        self, terms: Sequence[str], n: int, where: Condition, *, vectors: bool = False
    ) -> tuple[list[Point], list[int]]:
        """About the n best for some words, and of each word how many chunks hold it."""
        ...


class Entries(Protocol):
    """The rows beside the chunks; each is written at once."""

    def put(self, entries: Sequence[Entry]) -> None:
        """Write rows; those of the same kind and name are replaced."""
        ...

    def delete(self, kind: str, names: Sequence[str]) -> None:
        """Delete rows."""
        ...

    def find(
        self,
        kind: str,
        *,
        names: Sequence[str] | None = None,
        hash: str | None = None,  # noqa: A002
        torn: bool | None = None,
    ) -> list[Entry]:
        """Rows of a kind, by what is given."""
        ...

    def count(self, kind: str) -> int:
        """How many rows of a kind there are."""
        ...


class Store(Protocol):
    """A server, and the collection in it.

    Attributes:
        name: How messages call it; says no password.
        is_atomic: Whether `transaction` makes several changes one, which others see all at once.
    """

    name: str
    is_atomic: bool

    @property
    def entries(self) -> Entries:
        """The rows beside the chunks."""
        ...

    def properties(self) -> dict[str, Any]:
        """What the collection's metadata says of its vectors: fingerprint, dim, kind."""
        ...

    def set_property(self, key: str, value: Any) -> None:
        """Record one of these."""
        ...

    def chunks(self, dim: int | None) -> Chunks:
        """The chunks with vectors of a length; with None those from before the first vector."""
        ...

    def drop_unvectored(self) -> None:
        """Delete the chunks from before the first vector, which have been copied."""
        ...

    def transaction(self) -> AbstractContextManager[None]:
        """Changes inside are one where the store is atomic; nested ones join the outer."""
        ...

    def close(self) -> None:
        """Close the connection."""
        ...
