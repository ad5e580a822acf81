"""Vectors to fill an index with, and their true neighbours: numpy alone.

Base embeddings are repeated up to the size asked for, each copy jittered: they keep their low
intrinsic dimension and clusters, which decide how well approximate search works. Queries are other
jittered copies, never in the index.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

Vectors = NDArray[np.float32]
BLOCK = 20_000
K = 10


def clusters(count: int = 20_000, dim: int = 576, seed: int = 0) -> Vectors:
    """A stand-in where there are no real embeddings: clustered, of low rank, float32 [n, dim]."""
    rng = np.random.default_rng(seed)
    centres = rng.normal(size=(2000, 64))
    points = centres[rng.integers(2000, size=count)] + 0.6 * rng.normal(size=(count, 64))
    vectors = points @ rng.normal(size=(64, dim)) + 0.8 * rng.normal(size=(count, dim))
    return unit(vectors)


def unit(vectors: NDArray[Any]) -> Vectors:
    """Vectors [n, dim] at length one."""
    normalised = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    return np.asarray(normalised, dtype=np.float32)


def jittered(base: Vectors, count: int, jitter: float, seed: int) -> Iterator[Vectors]:
    """Blocks float32 [<= BLOCK, dim] of `count` base vectors, moved by noise of length jitter."""
    rng = np.random.default_rng(seed)
    for start in range(0, count, BLOCK):
        picked = base[np.arange(start, min(start + BLOCK, count)) % len(base)]
        noise = rng.standard_normal(picked.shape, dtype=np.float32) / np.sqrt(base.shape[1])
        yield unit(picked + jitter * noise)


def queries_for(base: Vectors, count: int, jitter: float) -> Vectors:
    picked = base[np.random.default_rng(1).choice(len(base), count, replace=len(base) < count)]
    [queries] = jittered(picked, count, jitter, seed=2)
    return queries


def exact_neighbours(base: Vectors, queries: Vectors, size: int, jitter: float) -> NDArray[Any]:
    """Positions [m, K] of the true neighbours, by blocks, so that memory stays small."""
    scores = np.full((len(queries), 0), 0, dtype=np.float32)
    positions = np.zeros((len(queries), 0), dtype=np.int64)
    for number, block in enumerate(jittered(base, size, jitter, seed=0)):
        products = queries @ block.T  # (m, block)
        best = np.argpartition(-products, K, axis=1)[:, :K]
        scores = np.hstack([scores, np.take_along_axis(products, best, axis=1)])
        positions = np.hstack([positions, best + number * BLOCK])
        keep = np.argsort(-scores, axis=1)[:, :K]
        scores = np.take_along_axis(scores, keep, axis=1)
        positions = np.take_along_axis(positions, keep, axis=1)
    return positions
