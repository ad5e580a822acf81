"""Where an index is, in one string: a folder, or the address of a server.

====================================================  =============================================
``manuals``, ``/data/manuals``                        a folder (`GemIndex`)
``postgresql://user:password@host/db?collection=c``   PostgreSQL with pgvector
``qdrant+http://host:6333/c``, ``qdrant+https://``    Qdrant; ``key@host`` gives the API key
``milvus+http://host:19530/c``, ``milvus+https://``   Milvus; ``user:password@host`` or ``:token@``
``qdrant+file:///folder?collection=c``                Qdrant's local mode
``milvus+file:///file.db?collection=c``               Milvus Lite
====================================================  =============================================

The collection may be left out.
"""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import SplitResult, parse_qsl, unquote, urlencode, urlsplit

from gem_rag.errors import GemIndexError
from gem_rag.index.gem_index import GemIndex
from gem_rag.index.protocol import Index

_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.\-]+://")
_COLLECTION = "collection"
_KNOWN = "postgresql://, qdrant+http(s)://, milvus+http(s)://, qdrant+file://, milvus+file://"
Place = str | Path


class _Address(NamedTuple):
    """What an adapter is opened with."""

    url: str
    options: dict[str, Any]


def is_address(place: Place) -> bool:
    """Whether a place is a server's address, and no folder."""
    return isinstance(place, str) and _SCHEME.match(place) is not None


def shown(place: Place) -> str:
    """A place as it may be printed: without a password or key."""
    if not is_address(place):
        return str(place)
    unsaid = re.sub(r"(?<=[?&])(ssl)?password=[^&#]*&?", "", str(place))  # libpq takes them there
    unsaid = unsaid.rstrip("?&")
    named = re.sub(r"(://[^/?#@]*?):[^/?#]*@", r"\1@", unsaid)
    alone = named == unsaid and not named.startswith("postgres")  # a key without a user
    return re.sub(r"://[^/?#@]*@", "://", named) if alone else named


def open_index(
    place: Place | None,
    *,
    fingerprint: str | None = None,
    dim: int | None = None,
    create: bool = True,
) -> Index:
    """The index at a place; None is one in memory.

    Args:
        place: A folder or an address: see this module's text.
        fingerprint: Of the model whose vectors it is to have; None is not checked.
        dim: Numbers in a vector; None likewise.
        create: Make it if there is none; otherwise that is an error.

    Raises:
        GemIndexError: No address is like this, there is no index and `create` is False, it cannot
            be reached, or it is another model's.
        MissingExtraError: The extra of this kind of store is not installed.
    """
    made_by: dict[str, Any] = {"fingerprint": fingerprint, "dim": dim, "create": create}
    if place is None or not is_address(place):
        return GemIndex(place, **made_by)
    parts = urlsplit(str(place))
    opener = _OPENERS.get(parts.scheme)
    if opener is None:
        raise GemIndexError(
            f"{shown(place)} is no address of an index; expected {_KNOWN}, or a folder"
        )
    return opener(parts, made_by)


def _postgres(parts: SplitResult, made_by: dict[str, Any]) -> Index:
    from gem_rag.index.backends.postgres import PostgresIndex

    given = parse_qsl(parts.query, keep_blank_values=True)
    left = urlencode([(key, value) for key, value in given if key != _COLLECTION], safe="/")
    return PostgresIndex(parts._replace(query=left).geturl(), **_named(parts), **made_by)


def _qdrant(parts: SplitResult, made_by: dict[str, Any]) -> Index:
    from gem_rag.index.backends.qdrant import QdrantIndex

    key = parts.password or parts.username
    by_key: dict[str, Any] = {"api_key": unquote(key)} if key else {}
    return QdrantIndex(_url(parts), **_named(parts), **by_key, **made_by)


def _milvus(parts: SplitResult, made_by: dict[str, Any]) -> Index:
    from gem_rag.index.backends.milvus import MilvusIndex

    who = [unquote(part) for part in (parts.username, parts.password) if part]
    token: dict[str, Any] = {"token": ":".join(who)} if who else {}
    return MilvusIndex(_url(parts), **_named(parts), **token, **made_by)


_OPENERS: dict[str, Callable[[SplitResult, dict[str, Any]], Index]] = {
    "postgresql": _postgres,
    "postgres": _postgres,
    "qdrant+http": _qdrant,
    "qdrant+https": _qdrant,
    "qdrant+file": _qdrant,
    "milvus+http": _milvus,
    "milvus+https": _milvus,
    "milvus+file": _milvus,
}


def _named(parts: SplitResult) -> dict[str, Any]:
    """The collection's name, where one is given."""
    name = dict(parse_qsl(parts.query)).get(_COLLECTION, "")
    if not name and parts.scheme.endswith(("+http", "+https")):
        name = parts.path.strip("/")
    return {"collection": name} if name else {}


def _url(parts: SplitResult) -> str:
    """The server's own address, or the file's path."""
    scheme = parts.scheme.partition("+")[2]
    if scheme == "file":
        return unquote(parts.path)
    return f"{scheme}://{parts.netloc.rpartition('@')[2]}"
