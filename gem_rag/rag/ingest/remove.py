"""Taking sources out of an index, and with them what was read of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from gem_rag.documents.find import absolute
from gem_rag.errors import GemError
from gem_rag.index.filters import Where
from gem_rag.index.protocol import Index
from gem_rag.index.records import Record
from gem_rag.rag.ingest.plan import source_name
from gem_rag.rag.ingest.report import Removal

Forget = Callable[[Sequence[str]], object]  # of texts, what was read of them


def remove(
    index: Index, sources: Sequence[str | Path], where: Where | None, forget: Forget
) -> Removal:
    """See `GemRAG.remove`."""
    if bool(sources) == (where is not None):
        raise GemError("expected either sources (names or paths) or where; give one of them")
    with index.transaction():
        if where is None:
            removal, chunks = _by_name(index, sources)
        else:
            removal, chunks = _by_filter(index, where)
    forget(index.documents.unread(chunks))
    return removal


def drop(index: Index, names: Sequence[str], forget: Forget) -> None:
    """Remove documents and what was read of them."""
    with index.transaction():
        chunks = [chunk for name in names for chunk in index.documents.chunks(name)]
        index.documents.remove(names)
    forget(index.documents.unread(chunks))


def _by_name(index: Index, sources: Sequence[str | Path]) -> tuple[Removal, list[Record]]:
    known = [document.source for document in index.documents.all()]
    names: dict[str, None] = {}
    loose: list[Record] = []  # added without a document: their metadata names a source
    missing: list[str] = []
    for source in sources:
        meant = _meant(source, known)
        alone = [] if meant else list(index.iterate(_without_document(str(source))))
        if not (meant or alone):
            missing.append(str(source))
        names |= dict.fromkeys(meant or ([str(source)] if alone else []))
        loose += alone
    chunks = [chunk for name in names for chunk in index.documents.chunks(name)]
    index.documents.remove(list(names))
    if loose:
        index.delete([chunk.id for chunk in loose])
    return Removal(list(names), [], missing, len(chunks) + len(loose)), chunks + loose


def _meant(source: str | Path, known: Sequence[str]) -> list[str]:
    """The document of this name, or else those of this file or below this folder."""
    if str(source) in known:
        return [str(source)]
    path = Path(source_name(absolute(source)))
    return [name for name in known if Path(name).is_relative_to(path)]


def _without_document(source: str) -> Where:
    return {"$and": [{"$source": {"$exists": False}}, {"source": source}]}


def _by_filter(index: Index, where: Where) -> tuple[Removal, list[Record]]:
    chunks = list(index.iterate(where))
    index.delete([chunk.id for chunk in chunks])
    touched = dict.fromkeys(chunk.source for chunk in chunks if chunk.source is not None)
    removed = [name for name in touched if index.documents.get(name) is None]
    changed = [name for name in touched if name not in set(removed)]
    return Removal(removed, changed, [], len(chunks)), chunks
