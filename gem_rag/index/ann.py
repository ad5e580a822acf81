"""Nearest neighbours in memory with FAISS: flat, HNSW or IVF, over a copy of SQLite's vectors."""

import importlib
import math
from collections.abc import Iterable
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from gem_rag.index.database import Rows, Vectors, Version

Kind = Literal["auto", "flat", "hnsw", "ivf"]
KINDS: tuple[Kind, ...] = ("auto", "flat", "hnsw", "ivf")

# Exact search of 100,000 x 576 took 10 to 20 ms on two cores (benchmarks/index.py): nothing beside
# a language model, and not worth an approximation.
FLAT_LIMIT = 100_000
# HNSW answers a million faster (0.9 ms against 16), but takes twice as long to build and finds 0.95
# of the neighbours where IVF finds all; a language model's user notices that, not milliseconds.
LARGE_KIND: Kind = "ivf"
# Too few vectors to train clusters on.
IVF_MINIMUM = 1_000

HNSW_LINKS = 32
HNSW_EF_CONSTRUCTION = 80
HNSW_EF_SEARCH = 96
HNSW_EF_SEARCH_MAX = 2048
IVF_SHARE_PROBED = 1 / 16
IVF_MIN_PROBES = 64
IVF_TRAINING_PER_LIST = 48
IVF_MAX_GROWTH = 4  # beyond this growth the clusters trained on the start are too few
MAX_DEAD_SHARE = 0.25


def faiss() -> Any:
    """The module, imported when first used; untyped, since its stubs miss much of it."""
    return importlib.import_module("faiss")


def resolve_kind(wanted: Kind, count: int) -> Kind:
    """The kind to build for so many vectors."""
    if wanted == "auto":
        wanted = "flat" if count <= FLAT_LIMIT else LARGE_KIND
    return "flat" if wanted == "ivf" and count < IVF_MINIMUM else wanted


def training_share(count: int) -> float:
    """The share of so many vectors that IVF should train on: its sample sets its clusters."""
    lists = 4 * math.sqrt(count)
    return min(1.0, lists * IVF_TRAINING_PER_LIST / max(count, 1))


class VectorIndex:
    """A FAISS index over vectors in ascending order of their SQLite rows.

    FAISS numbers vectors by position; `rows[position]` is the SQLite row. Deleted vectors stay,
    masked by `alive`, until so many are dead that the caller builds afresh (HNSW cannot remove).

    Attributes:
        kind: "flat", "hnsw" or "ivf".
        rows: int64 [n], ascending.
        alive: bool [n].
        version: The point of the database's history this is a copy of.
        last_row: The largest row number seen.
        built_with: How many vectors there were when it was built.
    """

    def __init__(self, kind: Kind, dim: int, version: Version, faiss_index: Any) -> None:
        self.kind: Kind = kind
        self.dim = dim
        self.version = version
        self.rows: Rows = np.empty(0, dtype=np.int64)
        self.alive: NDArray[np.bool_] = np.empty(0, dtype=bool)
        self.last_row = 0
        self.built_with = 0
        self.faiss_index = faiss_index

    @classmethod
    def build(
        cls,
        kind: Kind,
        dim: int,
        version: Version,
        blocks: Iterable[tuple[Rows, Vectors]],
        *,
        training: Vectors | None = None,
    ) -> "VectorIndex":
        """Build from all vectors, in blocks of (rows [n], float32 [n, dim], L2-normalised).

        Args:
            kind: "flat", "hnsw" or "ivf" (see `resolve_kind`).
            dim: Numbers in a vector.
            version: The point of the database's history the vectors are from.
            blocks: Ascending by row.
            training: For IVF, the vectors to find its clusters in, float32 [m, dim]; one
                cluster for every `IVF_TRAINING_PER_LIST` of them (see `training_share`).
        """
        index = cls(kind, dim, version, _empty(kind, dim, training))
        rows = []
        for block_rows, vectors in blocks:
            index.faiss_index.add(vectors)
            rows.append(block_rows)
        if rows:
            index.extend(np.concatenate(rows))
        index.built_with = len(index)
        return index

    def __len__(self) -> int:
        """How many vectors are alive."""
        return int(np.count_nonzero(self.alive))

    @property
    def worn(self) -> bool:
        """Whether it should be built afresh: many are dead, or IVF has outgrown its clusters."""
        dead = len(self.rows) - len(self)
        outgrown = self.kind == "ivf" and len(self) > IVF_MAX_GROWTH * self.built_with
        return outgrown or dead > MAX_DEAD_SHARE * max(len(self.rows), 1)

    def add(self, rows: Rows, vectors: Vectors) -> None:
        """Append vectors, float32 [n, dim], whose rows [n] lie above all others."""
        self.faiss_index.add(vectors)
        self.extend(rows)

    def remove(self, rows: Rows) -> None:
        """Forget rows; those not held are ignored."""
        self.alive[self.positions(rows)] = False

    def positions(self, rows: Rows) -> NDArray[np.intp]:
        """Where the rows given are in FAISS; rows not held are left out."""
        if not len(self.rows):
            return np.empty(0, dtype=np.intp)
        found = np.searchsorted(self.rows, rows).clip(max=len(self.rows) - 1)
        positions: NDArray[np.intp] = found[self.rows[found] == rows]
        return positions

    def search(
        self, queries: Vectors, k: int, rows: Rows | None = None
    ) -> tuple[Vectors, NDArray[np.int64]]:
        """The nearest vectors by inner product.

        Whenever `k` vectors are there to be found, `k` are returned. Filters that leave few
        vectors are searched exactly whatever the kind.

        Args:
            queries: float32 [m, dim], L2-normalised.
            k: How many to find.
            rows: Search only among these.

        Returns:
            Scores float32 [m, k'] and rows int64 [m, k'], best first; k' is `k` or the number of
            vectors searched, whichever is smaller.
        """
        allowed = self._allowed(rows)
        count = len(self.rows) if allowed is None else int(np.count_nonzero(allowed))
        k = min(k, count)
        if k == 0:
            return np.empty((len(queries), 0), np.float32), np.empty((len(queries), 0), np.int64)
        selector = _selector(allowed)
        if self.kind == "flat" or (rows is not None and count <= FLAT_LIMIT):
            scores, found = self._exact(queries, k, selector)
        else:
            scores, found = self._approximate(queries, k, selector, count / len(self.rows))
            short = (found < 0).any(axis=1)
            if short.any():
                scores[short], found[short] = self._exact(queries[short], k, selector)
        # Rounding may leave the product of two unit vectors a hair above one.
        return np.clip(scores, -1.0, 1.0), self.rows[found]

    def extend(self, rows: Rows) -> None:
        """Take note of rows whose vectors FAISS holds already."""
        self.rows = np.concatenate([self.rows, rows])
        self.alive = np.concatenate([self.alive, np.ones(len(rows), dtype=bool)])
        self.last_row = int(self.rows[-1])

    def _allowed(self, rows: Rows | None) -> NDArray[np.bool_] | None:
        if rows is None:
            return None if self.alive.all() else self.alive
        allowed = np.zeros(len(self.rows), dtype=bool)
        allowed[self.positions(rows)] = True
        return allowed & self.alive

    def _exact(self, queries: Vectors, k: int, selector: Any) -> tuple[Any, Any]:
        if self.kind == "ivf":
            lists = self.faiss_index.nlist
            parameters = faiss().SearchParametersIVF(sel=selector, nprobe=lists)
            return self._run(self.faiss_index, queries, k, parameters)
        flat = self.faiss_index
        if self.kind == "hnsw":
            flat = faiss().downcast_index(flat.storage)
        return self._run(flat, queries, k, faiss().SearchParameters(sel=selector))

    def _approximate(
        self, queries: Vectors, k: int, selector: Any, share: float
    ) -> tuple[Any, Any]:
        """Look at so many more candidates as fewer of them are allowed."""
        if self.kind == "ivf":
            lists = self.faiss_index.nlist
            probes = min(lists, math.ceil(max(lists * IVF_SHARE_PROBED, IVF_MIN_PROBES) / share))
            parameters = faiss().SearchParametersIVF(sel=selector, nprobe=probes)
        else:
            candidates = max(HNSW_EF_SEARCH, 2 * k) / share
            wide = max(k, min(math.ceil(candidates), HNSW_EF_SEARCH_MAX))
            parameters = faiss().SearchParametersHNSW(sel=selector, efSearch=wide)
        return self._run(self.faiss_index, queries, k, parameters)

    @staticmethod
    def _run(index: Any, queries: Vectors, k: int, parameters: Any) -> tuple[Any, Any]:
        scores, found = index.search(queries, k, params=parameters)
        return scores, found


def _selector(allowed: NDArray[np.bool_] | None) -> Any:
    if allowed is None:
        # Not None: without a selector FAISS splits one query's scan over threads and waits for
        # all of them, which took five times as long on a busy machine.
        return faiss().IDSelectorAll()
    return faiss().IDSelectorBitmap(np.packbits(allowed, bitorder="little"))


def _empty(kind: Kind, dim: int, training: Vectors | None) -> Any:
    if kind == "flat":
        return faiss().IndexFlatIP(dim)
    if kind == "hnsw":
        index = faiss().IndexHNSWFlat(dim, HNSW_LINKS, faiss().METRIC_INNER_PRODUCT)
        index.hnsw.efConstruction = HNSW_EF_CONSTRUCTION
        return index
    if training is None:
        raise ValueError("IVF needs vectors to find its clusters in: pass training")
    return _clustered(dim, training)


def _clustered(dim: int, training: Vectors) -> Any:
    lists = max(1, len(training) // IVF_TRAINING_PER_LIST)
    index = faiss().IndexIVFFlat(faiss().IndexFlatIP(dim), dim, lists, faiss().METRIC_INNER_PRODUCT)
    index.cp.spherical = True
    index.cp.niter = 10
    index.cp.min_points_per_centroid = 1  # the sample's size is random: no warnings about it
    index.cp.max_points_per_centroid = 2 * IVF_TRAINING_PER_LIST
    index.train(training)
    return index


def diverse(scores: Vectors, vectors: Vectors, k: int, lambda_mult: float) -> list[int]:
    """Maximal marginal relevance: which candidates to take, in order.

    Args:
        scores: Cosines with the query, float32 [n].
        vectors: The candidates, float32 [n, dim], L2-normalised.
        k: How many to take.
        lambda_mult: 1 is relevance alone, 0 diversity alone.
    """
    chosen: list[int] = []
    redundancy = np.zeros(len(scores), dtype=np.float32)
    open_ = np.ones(len(scores), dtype=bool)
    while open_.any() and len(chosen) < k:
        gain = lambda_mult * scores - (1 - lambda_mult) * redundancy
        best = int(np.argmax(np.where(open_, gain, -np.inf)))
        open_[best] = False
        similarity = vectors @ vectors[best]
        redundancy = np.maximum(redundancy, similarity) if chosen else similarity
        chosen.append(best)
    return chosen
