"""The documents of an index that is kept by a store."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from typing import Any

from numpy.typing import ArrayLike

from gem_rag.errors import GemIndexError
from gem_rag.index.backends.reading import View
from gem_rag.index.backends.store import Among, Point
from gem_rag.index.backends.writing import DocumentWriter, Known
from gem_rag.index.database import READY, Vectors
from gem_rag.index.documents import DocumentInfo, absent, between, joined
from gem_rag.index.records import Chunk, Passage, Record, chunk_fields, encode_passages
from gem_rag.index.schema import digest_of

_TEXTS_AT_ONCE = 200  # that are looked for in one request

Accept = Callable[[ArrayLike | None, int], Vectors | None]


class StoredDocuments:
    """The documents in a store: see `gem_rag.index.documents.Documents`.

    Args:
        view: The chunks.
        writer: The documents' rows.
        accept: Checks vectors that are to be written, so many of them.
        transaction: Makes one change of several, where the store can.
    """

    def __init__(
        self,
        view: View,
        writer: DocumentWriter,
        accept: Accept,
        transaction: Callable[[], AbstractContextManager[Any]],
    ) -> None:
        self._view = view
        self._writer = writer
        self._accept = accept
        self._transaction = transaction

    def put(
        self,
        source: str,
        text: str,
        content_hash: str,
        passages: Sequence[Passage],
        vectors: ArrayLike | None,
    ) -> None:
        """Store a document and its pieces, in the place of the one of the same source.

        A crash on the way leaves the old one or the new one; doing it again mends what is left.

        Args:
            source: Its name or path.
            text: All of it.
            content_hash: What says whether it has changed.
            passages: n pieces of it.
            vectors: Numbers [n, dim]; None stores pieces that are found by words.

        Raises:
            GemIndexError: A piece is no slice of the text, or cannot be stored.
        """
        chunks = encode_passages(source, text, passages)
        rest = "".join(between(text, chunks))
        with self._transaction():
            matrix = self._accept(vectors, len(chunks))
            self._writer.put(self._view.chunks, source, content_hash, chunks, matrix, rest)

    def remove(self, sources: Sequence[str]) -> list[str]:
        """Delete documents and all of their chunks; which of them were there."""
        if not sources:
            return []
        with self._transaction():
            return self._writer.remove(self._view.chunks, list(dict.fromkeys(sources)))

    def move(self, old: str, new: str, again: Callable[[str], str] = str) -> None:
        """Give a document another source, in the place of the one that has it.

        Its chunks keep their vectors and are given new ids. A crash on the way may leave both.

        Args:
            old: Its source.
            new: Its source from now on.
            again: From what was read beside or instead of a chunk's text, what is now.

        Raises:
            GemIndexError: There is no such document, or the new source is no text.
        """
        encode_passages(new, "", [])  # raises where it is no source
        known = self._known(old)
        if new == old:
            return
        points = self._points(known, vectors=True)
        chunks = [
            c._replace(
                source=new, lead=c.lead and again(c.lead), mended=c.mended and again(c.mended)
            )
            for c in (point.chunk for point in points)
        ]
        with self._transaction():
            vectors = [point.vector for point in points]
            rest = self._writer.rest(known)
            self._writer.put(self._view.chunks, new, known.hash, chunks, vectors, rest)
            if known.state != READY:
                self._writer.tear([new])
            self._writer.remove(self._view.chunks, [old])

    def all(self) -> list[DocumentInfo]:
        """All of them, by source."""
        return sorted((k.info for k in self._writer.known()), key=lambda known: known.source)

    def __len__(self) -> int:
        return self._writer.count()

    def get(self, source: str) -> DocumentInfo | None:
        """One of them; None if it is not there."""
        return next((known.info for known in self._writer.known([source])), None)

    def with_hash(self, content_hash: str) -> list[DocumentInfo]:
        """Those of the same content."""
        found = self._writer.with_hash(content_hash)
        return sorted((known.info for known in found), key=lambda known: known.source)

    def chunks(self, source: str) -> list[Record]:
        """A document's chunks, in the order of its text; none where there is no such one."""
        found = self._writer.known([source])
        points = self._points(found[0]) if found else []
        return [Record(**chunk_fields(point.chunk)) for point in points]

    def _points(self, known: Known, *, vectors: bool = False) -> list[Point]:
        among = Among("revision", (known.revision,))
        points = self._view.chunks.scroll(among, vectors=vectors)
        return sorted(points, key=lambda p: (p.chunk.start or 0, p.chunk.stop or 0))

    def unread(self, chunks: Sequence[Chunk]) -> list[str]:
        """What was read of chunks that were deleted, and is read of none that is there."""
        texts = list(dict.fromkeys(chunk.text for chunk in chunks))
        kept = {point.chunk.read for point in self._same(texts)}
        return [words for words in dict.fromkeys(c.words for c in chunks) if words not in kept]

    def _same(self, texts: Sequence[str]) -> Iterator[Point]:
        for i in range(0, len(texts), _TEXTS_AT_ONCE):
            digests = tuple(str(digest_of(text)) for text in texts[i : i + _TEXTS_AT_ONCE])
            yield from self._view.chunks.scroll(Among("digest", digests))

    def text(self, source: str) -> str:
        """The text that was indexed, to whose characters `start` and `end` of its chunks refer.

        Raises:
            GemIndexError: There is no such document, or parts of it were deleted since.
        """
        known = self._known(source)
        if known.state != READY:
            raise GemIndexError(
                f"the text of {source!r} is not whole: chunks of it were deleted; add it again"
            )
        chunks = (point.chunk for point in self._points(known))
        places = ((c.start or 0, c.stop or 0, c.text) for c in chunks)
        return "".join(joined(self._writer.rest(known), places))

    def _known(self, source: str) -> Known:
        found = self._writer.known([source])
        if not found:
            raise absent(source)
        return found[0]
