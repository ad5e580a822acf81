"""Documents in a store without transactions: a crash leaves the old one or the new one.

A document's row says which writing of it counts (`revision`), and which chunks are of writings that
do not count (`hidden`). A document is replaced in four steps, each of which the server does at once
or which is not seen before the next:

1. the row says that the new writing is hidden, and goes on showing the old one;
2. the new chunks are written, with ids made of source and content, so that doing it again after a
   crash writes the same rows;
3. the row says that the new writing counts and the old one is hidden: from here on it is replaced;
4. the old chunks are deleted, and the row says that nothing is hidden.

Whoever writes the document next begins by deleting what is hidden.
"""

import hashlib
import json
import uuid
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, replace

from gem_rag.index.backends.store import Among, Chunks, Entry, Point, Store
from gem_rag.index.database import CHANGED, READY, StoredChunk, Vectors
from gem_rag.index.documents import DocumentInfo

_DOCUMENT, _REST = "document", "rest"
_PIECE = 10_000  # characters of text that one row holds: a field of Milvus has 65,535 bytes
_NAMESPACE = uuid.UUID("8f2c1f5e-6d0a-4c5b-9a56-0d3f1b7f2a11")  # of the ids of documents' chunks


@dataclass(frozen=True)
class Known:
    """What a document's row says.

    Attributes:
        source: Its name or path.
        hash: Of its content.
        state: See `DocumentInfo`.
        chunks: How many there are.
        revision: The writing that counts; "" where none does.
        pieces: Rows that hold the text in no chunk.
        hidden: Writings that do not count, of which chunks may be there.
    """

    source: str
    hash: str = ""
    state: str = READY
    chunks: int = 0
    revision: str = ""
    pieces: int = 0
    hidden: tuple[str, ...] = ()

    @classmethod
    def of(cls, entry: Entry) -> "Known":
        """From its row."""
        told = json.loads(entry.body)
        return cls(entry.name, entry.hash, **told | {"hidden": tuple(told["hidden"])})

    @property
    def entry(self) -> Entry:
        """Its row."""
        told = asdict(self)
        source, content_hash = told.pop("source"), told.pop("hash")
        return Entry(_DOCUMENT, source, content_hash, bool(self.hidden), json.dumps(told))

    @property
    def info(self) -> DocumentInfo:
        """What is said of it."""
        return DocumentInfo(self.source, self.hash, self.state, self.chunks)


class DocumentWriter:
    """Puts documents into a store and takes them out.

    Args:
        store: Where.
    """

    def __init__(self, store: Store) -> None:
        self._store = store

    def known(self, sources: Sequence[str] | None = None) -> list[Known]:
        """What is known of documents that are there, of all or of some."""
        found = self._store.entries.find(_DOCUMENT, names=sources)
        return [known for known in map(Known.of, found) if known.revision]

    def with_hash(self, content_hash: str) -> list[Known]:
        """Documents of the same content."""
        found = self._store.entries.find(_DOCUMENT, hash=content_hash)
        return [known for known in map(Known.of, found) if known.revision]

    def count(self) -> int:
        """How many there are."""
        torn = self._store.entries.find(_DOCUMENT, torn=True)
        absent = sum(not Known.of(entry).revision for entry in torn)
        return self._store.entries.count(_DOCUMENT) - absent

    def put(
        self,
        into: Chunks,
        source: str,
        content_hash: str,
        chunks: Sequence[StoredChunk],
        vectors: Vectors | Sequence[Vectors | None] | None,
        rest: str,
    ) -> None:
        """Store a document in the place of the one of the same source; `rest` is in no chunk."""
        found = [Known.of(e) for e in self._store.entries.find(_DOCUMENT, names=[source])]
        old = self._clean(into, found[0]) if found else Known(source)
        revision = _revision(source, content_hash, old.revision)
        placed = [
            Point(
                c._replace(id=_id(revision, i)), revision, None if vectors is None else vectors[i]
            )
            for i, c in enumerate(chunks)
        ]
        pieces = [rest[i : i + _PIECE] for i in range(0, len(rest), _PIECE)]
        new = Known(source, content_hash, READY, len(chunks), revision, len(pieces))
        entries = self._store.entries
        entries.put([replace(old, hidden=(revision,)).entry])
        into.put(placed)
        entries.put([Entry(_REST, _piece(revision, i), body=p) for i, p in enumerate(pieces)])
        replaced = (old.revision,) if old.revision else ()
        entries.put([replace(new, hidden=replaced).entry])
        if replaced:
            entries.delete(_REST, _pieces(old))
            self._clean(into, replace(new, hidden=replaced))

    def _clean(self, chunks: Chunks, known: Known) -> Known:
        """Delete what is left of writings that do not count."""
        if not known.hidden:
            return known
        chunks.delete(Among("revision", known.hidden))
        clean = replace(known, hidden=())
        if clean.revision:
            self._store.entries.put([clean.entry])
        return clean

    def remove(self, chunks: Chunks, sources: Sequence[str]) -> list[str]:
        """Delete documents; which of them were there."""
        known = self.known(sources)
        entries = self._store.entries
        entries.put([replace(k, revision="", hidden=(k.revision, *k.hidden)).entry for k in known])
        for one in known:
            self._clean(chunks, replace(one, revision="", hidden=(one.revision, *one.hidden)))
            entries.delete(_REST, _pieces(one))
        entries.delete(_DOCUMENT, [one.source for one in known])
        return [one.source for one in known]

    def tear(self, sources: Iterable[str]) -> list[Known]:
        """Say of documents that they are not whole, before chunks of them are deleted."""
        wanted = list(dict.fromkeys(sources))
        known = [replace(k, state=CHANGED) for k in self.known(wanted)] if wanted else []
        self._store.entries.put([one.entry for one in known])
        return known

    def recount(self, chunks: Chunks, torn: Sequence[Known]) -> None:
        """After chunks were deleted: how many are left, and none is no document."""
        for one in torn:
            if left := chunks.count(Among("revision", (one.revision,))):
                self._store.entries.put([replace(one, chunks=left).entry])
            else:
                self._store.entries.delete(_REST, _pieces(one))
                self._store.entries.delete(_DOCUMENT, [one.source])

    def rest(self, known: Known) -> str:
        """What of a document's text is in no chunk."""
        if not (names := _pieces(known)):
            return ""
        found = {e.name: e.body for e in self._store.entries.find(_REST, names=names)}
        return "".join(found.get(name, "") for name in names)


def _revision(source: str, content_hash: str, current: str) -> str:
    """The same for the same content, so that a second try writes the same; not what is there."""
    revision = _digest(source, content_hash)
    return revision if revision != current else _digest(source, content_hash, current)


def _digest(*parts: str) -> str:
    return hashlib.blake2b("\0".join(parts).encode(), digest_size=12).hexdigest()


def _id(revision: str, number: int) -> str:
    return str(uuid.uuid5(_NAMESPACE, f"{revision}/{number}"))


def _piece(revision: str, number: int) -> str:
    return f"{revision}/{number}"


def _pieces(known: Known) -> list[str]:
    return [_piece(known.revision, i) for i in range(known.pieces)]
