"""What is seen of a store: only whole documents, by filters in our language."""

from collections.abc import Iterator, Sequence
from typing import Any

from gem_rag.index.backends.matching import matches
from gem_rag.index.backends.store import (
    EVERYTHING,
    Among,
    And,
    Chunks,
    Condition,
    HasId,
    Negated,
    Point,
    Store,
)
from gem_rag.index.backends.tokens import narrowed
from gem_rag.index.backends.writing import Known
from gem_rag.index.filters import Where, parse
from gem_rag.index.identity import Identity


class View:
    """The chunks of a store that are to be seen.

    Chunks of a document that is being written, or whose writer broke off, and those of the one it
    replaced are both there for a while: which of them count is said by the document's own row.

    Args:
        store: Where they are.
        identity: Whose vectors they have.
    """

    def __init__(self, store: Store, identity: Identity) -> None:
        self._store = store
        self._identity = identity

    @property
    def chunks(self) -> Chunks:
        """All of them, whole or not."""
        return self._store.chunks(self._identity.dim)

    def where(self, where: Where | None) -> Condition:
        """A filter as this store is asked for it, without what is not to be seen."""
        seen = self._seen()
        if not where:
            return seen
        asked = parse(where)
        condition, exact = narrowed(asked)
        within = condition if seen == EVERYTHING else And((condition, seen))
        if exact:
            return within
        maybe = self.chunks.scroll(within)
        return HasId(tuple(p.chunk.id for p in maybe if matches(asked, p.chunk)))

    def _seen(self) -> Condition:
        if self._store.is_atomic:
            return EVERYTHING
        torn = self._store.entries.find("document", torn=True)
        hidden = tuple(name for entry in torn for name in Known.of(entry).hidden)
        return Negated(Among("revision", hidden)) if hidden else EVERYTHING

    def count(self, where: Where | None) -> int:
        """How many match."""
        return self.chunks.count(self.where(where))

    def scroll(self, where: Where | None, **options: Any) -> Iterator[Point]:
        """All that match; options as for `Chunks.scroll`."""
        return self.chunks.scroll(self.where(where), **options)

    def by_id(self, ids: Sequence[str], *, vectors: bool = False) -> dict[str, Point]:
        """Chunks by id; ids that do not exist are left out."""
        if not ids:
            return {}
        condition = And((HasId(tuple(dict.fromkeys(ids))), self._seen()))
        return {p.chunk.id: p for p in self.chunks.scroll(condition, vectors=vectors)}
