"""A chunk as the columns of a row, and back."""

from typing import Any

from gem_rag.index.backends.store import Point
from gem_rag.index.backends.tokens import EMBEDDED, fields_of, numbers_of, tokens_of
from gem_rag.index.database import StoredChunk
from gem_rag.index.schema import digest_of

OWN = tuple(name for name in StoredChunk._fields if name != "row")  # what a chunk is made of again
TEXTS = ("id", "metadata", "text", "source", "heading", "lead", "mended")
WHOLE_NUMBERS = ("start", "stop", "page")
STORED = (*OWN, "revision")  # columns that are read back
FOUND_BY = ("digest", "tokens", "numbers")  # columns that are only searched


def columns_of(point: Point) -> dict[str, Any]:
    """A chunk's columns `STORED` and `FOUND_BY`."""
    chunk = point.chunk
    fields = fields_of(chunk)
    embedded = [] if point.vector is None else [EMBEDDED]
    return {
        **{name: value for name, value in chunk._asdict().items() if name in OWN},
        "revision": point.revision,
        "digest": str(digest_of(chunk.text)),
        "tokens": [*tokens_of(fields), *embedded],
        "numbers": numbers_of(fields),
    }


def point_of(columns: dict[str, Any], vector: Any = None) -> Point:
    """A chunk from its columns `STORED`."""
    chunk = StoredChunk(row=0, **{name: columns.get(name) for name in OWN})  # type: ignore[arg-type]
    return Point(chunk, columns.get("revision") or "", vector)
