"""What goes into an index and comes out of it, and the checks on the way in."""

import uuid
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from gem_rag.errors import GemIndexError
from gem_rag.index.ann import Kind
from gem_rag.index.database import StoredChunk, Vectors
from gem_rag.index.values import decode, encode

Metadata = dict[str, Any]


@dataclass(frozen=True)
class Passage:
    """A piece of a document, to be stored.

    Attributes:
        text: Exactly the document's ``text[start:end]``.
        start: First character.
        end: One past the last.
        heading: Headings above it, outermost first, joined by " > ".
        page: Its page, from 1.
        read: What is read and searched for it; None where that is the text.
        metadata: The user's.
    """

    text: str
    start: int
    end: int
    heading: str = ""
    page: int | None = None
    read: str | None = None
    metadata: Mapping[str, Any] = field(default_factory=dict)

    @property
    def words(self) -> str:
        """What is read and searched for it."""
        return self.text if self.read is None else self.read


@dataclass(frozen=True)
class Chunk:
    """What is known of a stored chunk.

    Attributes:
        id: Unique in the index.
        text: What is shown and cited.
        metadata: The user's.
        source: The document's name or path; None for a chunk that was added without a document.
        start: First character of the document's text.
        end: One past the last.
        heading: Headings above it, outermost first, joined by " > ".
        page: Its page, from 1.
        read: What is read and searched for it, where that is not the text.
    """

    id: str
    text: str
    metadata: Metadata
    source: str | None = field(default=None, kw_only=True)
    start: int | None = field(default=None, kw_only=True)
    end: int | None = field(default=None, kw_only=True)
    heading: str = field(default="", kw_only=True)
    page: int | None = field(default=None, kw_only=True)
    read: str | None = field(default=None, kw_only=True)

    @property
    def words(self) -> str:
        """What is read and searched for it."""
        return self.text if self.read is None else self.read


@dataclass(frozen=True)
class Record(Chunk):
    """A stored chunk; `vector` (float32 [dim], unit length) only where it was asked for."""

    vector: NDArray[np.float32] | None = field(default=None, compare=False, repr=False)


@dataclass(frozen=True)
class Hit(Chunk):
    """A chunk found by a search.

    Attributes:
        score: The cosine with the query, -1 to 1; None where the query or the chunk has no vector.
        word_score: How well the query's words stand in it, 0 to 1 (BM25 over what it would be if
            they filled the chunk); None where no words were given.
        covered: Which part of the query's words stands in it, 0 to 1, rare ones counting more; None
            where no words were given, or the index holds none.
        fused_score: Both in one, by which hybrid searches are ordered; None for the others.
        sources: The sources of all chunks of this text, where equal ones count once.
    """

    score: float | None
    word_score: float | None = None
    fused_score: float | None = None
    covered: float | None = None
    sources: tuple[str, ...] = ()


@dataclass(frozen=True)
class Deletion:
    """Which ids were deleted, and which of those asked for were not there."""

    deleted: list[str]
    missing: list[str]


@dataclass(frozen=True)
class IndexInfo:
    """What an index says about itself.

    Attributes:
        path: Its folder; None if it is in memory.
        count: Chunks.
        documents: What was indexed as a whole.
        dim: Numbers in a vector; None before the first is added.
        vectors: Chunks that have one.
        words: Whether chunks can be searched by words.
        fingerprint: Of the model that made the vectors; None if it was not recorded.
        kind: How it is searched at its present size: "flat", "hnsw" or "ivf".
        bytes: On disk, of the index itself.
        readings_bytes: On disk, of the readings that are kept beside it.
        generation: Rises with every change.
    """

    path: Path | None
    count: int
    documents: int
    dim: int | None
    vectors: int
    words: bool
    fingerprint: str | None
    kind: Kind
    bytes: int
    readings_bytes: int
    generation: int


def check_ids(ids: Sequence[str]) -> Sequence[str]:
    """Ids are non-empty strings, in a list."""
    if isinstance(ids, str):
        raise GemIndexError(f"ids is the string {ids!r}; expected a list of ids")
    for name in ids:
        if not isinstance(name, str) or not name:
            raise GemIndexError(f"an id is {name!r}; ids are non-empty strings")
    return ids


def check_vectors(vectors: ArrayLike, count: int | None, *, single: bool = False) -> Vectors:
    """Vectors as float32 [n, dim] of unit length, in a copy.

    Args:
        vectors: Numbers [n, dim], or [dim] if `single`.
        count: The n expected; None accepts any.
        single: One vector without its leading dimension.

    Raises:
        GemIndexError: The shape is wrong, or a vector is zero or not finite.
    """
    try:
        matrix = np.array(vectors, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise GemIndexError(f"vectors are not an array of numbers: {error}") from error
    if count == 0 and matrix.size == 0:
        return np.empty((0, 0), np.float32)
    expected = ("dim",) if single else (count if count is not None else "n", "dim")
    if matrix.ndim != len(expected) or matrix.shape[-1] == 0:
        raise GemIndexError(f"vectors have shape {matrix.shape}; expected {_shape(expected)}")
    matrix = matrix.reshape(-1, matrix.shape[-1])
    if count is not None and len(matrix) != count:
        raise GemIndexError(f"got {len(matrix)} vectors for {count} texts; expected one for each")
    norms = np.linalg.norm(matrix, axis=1)
    bad = np.flatnonzero(~np.isfinite(norms) | (norms == 0))
    if len(bad):
        raise GemIndexError(
            f"vector {bad[0]} is zero or not finite ({len(bad)} such in all), so it has no "
            "cosine with anything: check what made it"
        )
    unit: Vectors = (matrix / norms[:, None]).astype(np.float32)
    return unit


def _shape(names: Iterable[Any]) -> str:
    return f"[{', '.join(str(name) for name in names)}]"


def encode_chunks(
    texts: Sequence[str],
    metadatas: Sequence[Mapping[str, Any] | None] | None,
    ids: Sequence[str] | None,
) -> list[StoredChunk]:
    """Check n texts with their metadata and ids, and make them what is stored.

    Raises:
        GemIndexError: Their numbers differ, ids repeat, or something cannot be stored.
    """
    if isinstance(texts, str):
        raise GemIndexError("texts is one string; expected a list of texts")
    texts = list(texts)
    names = [str(uuid.uuid4()) for _ in texts] if ids is None else list(check_ids(ids))
    metas = [None] * len(texts) if metadatas is None else list(metadatas)
    if not len(texts) == len(names) == len(metas):
        raise GemIndexError(
            f"got {len(texts)} texts, {len(metas)} metadatas and {len(names)} ids; "
            "expected as many of each"
        )
    if len(set(names)) < len(names):
        repeated = next(name for name in names if names.count(name) > 1)
        raise GemIndexError(f"the id {repeated!r} is given twice; ids are unique")
    called = [f"number {i}" for i in range(len(texts))] if ids is None else [*map(repr, names)]
    return [
        StoredChunk(
            0,
            _text(name, "an id"),
            _metadata(meta, which),
            _text(text, f"the text of {which}"),
        )
        for name, meta, text, which in zip(names, metas, texts, called, strict=True)
    ]


def encode_passages(source: str, text: str, passages: Sequence[Passage]) -> list[StoredChunk]:
    """Check a document's text and pieces, and make these what is stored.

    Raises:
        GemIndexError: Something cannot be stored, or a piece is no slice of the text.
    """
    source = _text(source, "a source")
    text = _text(text, f"the text of {source!r}")
    for passage in passages:
        if text[passage.start : passage.end] != passage.text:
            raise GemIndexError(
                f"a chunk of {source!r} says it is characters {passage.start} to {passage.end}, "
                "but other text stands there; expected the exact slice"
            )
    return [
        StoredChunk(
            0,
            str(uuid.uuid4()),
            _metadata(p.metadata, f"number {i} of {source!r}"),
            _text(p.text, f"the text of number {i} of {source!r}"),
            source,
            p.start,
            p.end,
            p.heading or None,
            p.page,
            *_lead_and_mended(p),
        )
        for i, p in enumerate(passages)
    ]


def _lead_and_mended(passage: Passage) -> tuple[str | None, str | None]:
    """What is read beside the text, so that the text stands once on disk where that can be."""
    read, text = passage.read, passage.text
    if read is None or read == text:
        return None, None
    return (read.removesuffix(text), None) if read.endswith(text) else (None, read)


def chunk_fields(chunk: StoredChunk) -> dict[str, Any]:
    """What a `Record` and a `Hit` say of a stored chunk."""
    return {
        "id": chunk.id,
        "text": chunk.text,
        "metadata": decode(chunk.metadata),
        "source": chunk.source,
        "start": chunk.start,
        "end": chunk.stop,
        "heading": chunk.heading or "",
        "page": chunk.page,
        "read": None if chunk.read == chunk.text else chunk.read,
    }


def _text(text: Any, what: str) -> str:
    if not isinstance(text, str):
        raise GemIndexError(f"{what} is {type(text).__name__}; expected a string")
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise GemIndexError(f"{what} is not valid Unicode ({error}): remove surrogates") from error
    return text


def _metadata(metadata: Mapping[str, Any] | None, which: str) -> str:
    if metadata is not None and not isinstance(metadata, Mapping):
        raise GemIndexError(f"the metadata of {which} is {metadata!r}; expected a dict")
    return encode(dict(metadata or {}), f"the metadata of {which}")
