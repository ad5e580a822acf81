"""Chunks put into an index and taken out, inside one transaction each."""

from collections.abc import Sequence

from numpy.typing import ArrayLike

from gem_rag.errors import GemIndexError
from gem_rag.index.database import Database, StoredChunk
from gem_rag.index.filters import Where
from gem_rag.index.identity import Identity
from gem_rag.index.records import Deletion
from gem_rag.index.sql import compile_filter


class Writer:
    """Writes to a database; every method is called inside a transaction.

    Args:
        database: What is changed.
        identity: Whose vectors it holds.
    """

    def __init__(self, database: Database, identity: Identity) -> None:
        self._database = database
        self._identity = identity

    def write(
        self, chunks: Sequence[StoredChunk], vectors: ArrayLike | None, *, replace: bool
    ) -> list[str]:
        """Chunks that belong to no document; their ids."""
        matrix = self._identity.accept(vectors, len(chunks))
        names = [chunk.id for chunk in chunks]
        if not chunks:
            return names
        existing = self._database.rows_by_id(names)
        if existing and not replace:
            raise GemIndexError(
                f"{len(existing)} of {len(names)} ids exist already, the first is "
                f"{next(iter(existing))!r}: use upsert to replace, or other ids"
            )
        self._database.advance()
        self._database.delete(list(existing.values()))
        self._database.insert(chunks, matrix)
        return names

    def set_vectors(self, ids: Sequence[str], vectors: ArrayLike) -> None:
        """Vectors of chunks that are there."""
        if len(set(ids)) < len(ids):
            raise GemIndexError("an id is given twice; expected one vector for each chunk")
        matrix = self._identity.accept(vectors, len(ids))
        rows = self._database.rows_by_id(ids)
        if rows and matrix is not None:
            self._database.advance()
            places = [i for i, name in enumerate(ids) if name in rows]
            self._database.renew([rows[ids[i]] for i in places], matrix[places])

    def delete(self, ids: Sequence[str]) -> Deletion:
        """Chunks by id."""
        rows = self._database.rows_by_id(ids)
        self._delete(list(rows.values()))
        wanted = dict.fromkeys(ids)
        return Deletion(
            deleted=[name for name in wanted if name in rows],
            missing=[name for name in wanted if name not in rows],
        )

    def delete_where(self, where: Where | None) -> Deletion:
        """Chunks by filter."""
        found = self._database.chunks_where(compile_filter(where))
        self._delete([chunk.row for chunk in found])
        return Deletion([chunk.id for chunk in found], [])

    def _delete(self, rows: Sequence[int]) -> None:
        if rows:
            self._database.advance()
            self._database.delete(rows)
