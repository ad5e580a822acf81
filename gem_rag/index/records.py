"""What goes into an index and comes out of it, and the checks on the way in."""

import json
import uuid
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from gem_rag.errors import GemIndexError
from gem_rag.index.ann import Kind
from gem_rag.index.database import Vectors

Metadata = dict[str, Any]


@dataclass(frozen=True)
class Record:
    """A stored chunk; `vector` (float32 [dim], unit length) only where it was asked for."""

    id: str
    text: str
    metadata: Metadata
    vector: NDArray[np.float32] | None = field(default=None, compare=False, repr=False)


@dataclass(frozen=True)
class Hit:
    """A chunk found by a search; `score` is the cosine with the query, -1 to 1."""

    id: str
    text: str
    metadata: Metadata
    score: float


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
        dim: Numbers in a vector; None before the first is added.
        fingerprint: Of the model that made the vectors; None if it was not recorded.
        kind: How it is searched at its present size: "flat", "hnsw" or "ivf".
        bytes: On disk.
        generation: Rises with every change.
    """

    path: Path | None
    count: int
    dim: int | None
    fingerprint: str | None
    kind: Kind
    bytes: int
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
) -> list[tuple[str, str, str]]:
    """Check n texts with their metadata and ids; (id, metadata as JSON, text) of each.

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
        (_text(name, "an id"), _metadata(meta, which), _text(text, f"the text of {which}"))
        for name, meta, text, which in zip(names, metas, texts, called, strict=True)
    ]


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


def encode(value: Any, what: str) -> str:
    """A value as JSON that gives the same value back.

    Raises:
        GemIndexError: JSON cannot hold it: other types than str, int, float, bool, None, list
            and dict with string keys, or numbers that are not finite.
    """
    try:
        encoded = json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
        same = json.loads(encoded) == value
        encoded.encode()
    except (TypeError, ValueError, RecursionError) as error:
        raise GemIndexError(f"{what} cannot be stored as JSON: {error}") from error
    if not same:
        raise GemIndexError(
            f"{what} changes when stored as JSON ({value!r}): use string keys, and lists for tuples"
        )
    return encoded


def decode(encoded: str) -> Any:
    """The value that was encoded."""
    return json.loads(encoded)
