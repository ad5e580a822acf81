"""Searching: vectors to the chunks nearest to them, within one moment's state."""

import numpy as np
from numpy.typing import NDArray

from gem_rag.errors import GemIndexError
from gem_rag.index.ann import diverse
from gem_rag.index.database import Database, StoredChunk, Vectors
from gem_rag.index.filters import Where
from gem_rag.index.follower import Follower
from gem_rag.index.identity import Identity
from gem_rag.index.records import Hit, decode
from gem_rag.index.sql import compile_filter


class Search:
    """Finds chunks in a database by its vectors in memory.

    Args:
        database: The chunks.
        identity: Whose vectors they are.
        follower: Their copy in memory.
    """

    def __init__(self, database: Database, identity: Identity, follower: Follower) -> None:
        self._database = database
        self._identity = identity
        self._follower = follower

    def nearest(
        self,
        queries: Vectors,
        k: int,
        where: Where | None,
        min_score: float | None,
        fingerprint: str | None,
    ) -> list[list[Hit]]:
        """For each of the queries, float32 [m, dim], its best chunks: see `GemIndex.search`."""
        with self._database.snapshot():
            self._identity.check_fingerprint(fingerprint)
            scores, rows = self._nearest_rows(queries, k, where)
            chunks = self._database.chunks_by_row(np.unique(rows))
            return [
                [
                    _hit(chunks[row], score)
                    for row, score in zip(line_rows, line_scores, strict=True)
                    if min_score is None or score >= min_score
                ]
                for line_rows, line_scores in zip(rows.tolist(), scores.tolist(), strict=True)
            ]

    def diverse(
        self,
        query: Vectors,
        k: int,
        fetch_k: int | None,
        lambda_mult: float,
        where: Where | None,
        fingerprint: str | None,
    ) -> list[Hit]:
        """For one query, float32 [1, dim]: see `GemIndex.mmr`."""
        if not 0 <= lambda_mult <= 1:
            raise GemIndexError(f"lambda_mult is {lambda_mult}; expected 0 (diverse) to 1 (near)")
        with self._database.snapshot():
            self._identity.check_fingerprint(fingerprint)
            [scores], [rows] = self._nearest_rows(query, max(fetch_k or 4 * k, k), where)
            if not len(rows):
                return []
            candidates = self._database.vectors(rows.tolist(), query.shape[1])
            chosen = diverse(scores, candidates, k, lambda_mult)
            chunks = self._database.chunks_by_row(rows[chosen])
            return [_hit(chunks[int(rows[i])], float(scores[i])) for i in chosen]

    def _nearest_rows(
        self, queries: Vectors, k: int, where: Where | None
    ) -> tuple[Vectors, NDArray[np.int64]]:
        """Scores float32 [m, k'] and rows int64 [m, k']; call inside a snapshot."""
        if k < 1:
            raise GemIndexError(f"k is {k}; expected 1 or more")
        condition = compile_filter(where)
        dim = queries.shape[1]
        self._identity.check_dim(dim)
        if self._identity.dim is None:
            return np.empty((len(queries), 0), np.float32), np.empty((len(queries), 0), np.int64)
        rows = None if condition is None else self._database.rows_where(condition)
        return self._follower.fresh(dim).search(queries, k, rows)


def _hit(chunk: StoredChunk, score: float) -> Hit:
    return Hit(chunk.id, chunk.text, decode(chunk.metadata), score)
