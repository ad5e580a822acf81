"""The documents as they are shown: what the index holds, and what is on its way into it."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from gem_rag.documents.find import path_name
from gem_rag.errors import GemIndexError
from gem_rag.server.errors import not_found
from gem_rag.server.folders import Folder, short_hash
from gem_rag.server.service import Loaded, Service


@dataclass(frozen=True)
class Shown:
    """A document as it is shown in a list.

    Attributes:
        id: Always the same for a source.
        source: Path, or the name it was added by.
        name: Of its file, with the folders it lies in below a watched one.
        folder: Id of the watched folder; None for what lies in none.
        state: ``queued``, ``indexing``, ``ready`` or ``failed``.
        chunks: Passages in the index.
        error: Why it failed.
    """

    id: str
    source: str
    name: str
    folder: str | None
    state: str
    chunks: int
    error: str | None


def id_of(source: str) -> str:
    """A document's id."""
    return f"d_{short_hash(source)}"


def shown_name(loaded: Loaded, source: str) -> str:
    """What a document is called."""
    return _name(loaded, source, loaded.folders.of(source))


def _name(loaded: Loaded, source: str, folder: Folder | None) -> str:
    root = path_name(loaded.uploads.folder) if folder is None else folder.name
    if source.startswith(root + os.sep):
        return source[len(root) + 1 :].replace(os.sep, "/")
    return source.rpartition(os.sep)[2] or source


def shown(loaded: Loaded, source: str, chunks: int | None) -> Shown:
    """One of them.

    Args:
        loaded: Knows what is on its way.
        source: Which.
        chunks: Of it in the index; None where it is not there.
    """
    folder = loaded.folders.of(source)
    state = loaded.indexer.state_of(source, chunks is not None)
    return Shown(
        id=id_of(source),
        source=source,
        name=_name(loaded, source, folder),
        folder=None if folder is None else folder.id,
        state=state or ("ready" if chunks is not None else "queued"),
        chunks=chunks or 0,
        error=loaded.indexer.error_of(source),
    )


def all_shown(loaded: Loaded) -> list[Shown]:
    """All documents, by name."""
    known = {document.source: document.chunks for document in loaded.rag.index.documents.all()}
    coming = dict.fromkeys(source for source in loaded.indexer.sources if source not in known)
    found = [shown(loaded, source, chunks) for source, chunks in {**known, **coming}.items()]
    return sorted(found, key=lambda document: (document.name.casefold(), document.source))


def matching(documents: Iterable[Shown], words: str, state: str | None) -> list[Shown]:
    """Those whose name holds some words, in a state."""
    wanted = words.casefold()
    return [
        one for one in documents if wanted in one.name.casefold() and state in (None, one.state)
    ]


def source_of(loaded: Loaded, name: str) -> str:
    """The source of a document's id.

    Raises:
        ApiError: 404, there is none.
    """
    known = (document.source for document in loaded.rag.index.documents.all())
    for source in (*known, *loaded.indexer.sources):
        if id_of(source) == name:
            return source
    raise not_found(f"document {name!r}")


def with_text(loaded: Loaded, source: str) -> dict[str, Any]:
    """A document with its text, and where its passages lie in it."""
    index = loaded.rag.index
    known = index.documents.get(source)
    text: str | None = None
    if known is not None:
        try:
            text = index.documents.text(source)
        except GemIndexError:  # parts of it were deleted
            text = None
    chunks = index.documents.chunks(source) if text is not None else []
    return {
        **vars(shown(loaded, source, None if known is None else known.chunks)),
        "text": text,
        "passages": [
            {"id": c.id, "start": c.start, "end": c.end, "heading": c.heading, "page": c.page}
            for c in chunks
        ],
    }


async def delete(service: Service, source: str) -> None:
    """Take a document out: an upload with its file; a watched folder's file is left alone."""
    loaded = service.loaded
    if service.uploads.holds(source):
        await asyncio.to_thread(service.uploads.remove, source)
    elif loaded.folders.of(source) is not None:
        await asyncio.to_thread(service.records.leave_out, source)
    await loaded.indexer.forget([source])
