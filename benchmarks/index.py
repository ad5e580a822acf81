"""Recall@10, time and memory of the index's kinds against exact search.

Each kind is measured in a process of its own, so that memory is what that kind needs. Vectors are
base embeddings repeated up to the size asked for, each copy jittered: real embeddings keep their
low intrinsic dimension and clusters, which decide how well approximate search works (noise alone
has neither). Queries are other jittered copies, never in the index.

    python benchmarks/index.py --vectors embeddings.npy --sizes 10000 100000 1000000 --json out.json
"""

import argparse
import importlib
import json
import multiprocessing
import resource
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gem_rag.index import GemIndex
from gem_rag.index.ann import IVF_MINIMUM, VectorIndex, training_share
from gem_rag.index.database import Version
from gem_rag.index.snapshot import load_snapshot, save_snapshot

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


def base_vectors(source: str | None) -> Vectors:
    """From an .npy file, a callable named module:function, or the stand-in."""
    if source is None:
        return clusters()
    if source.endswith(".npy"):
        return unit(np.load(source, allow_pickle=False).astype(np.float32))
    module, _, name = source.partition(":")
    return unit(np.asarray(getattr(importlib.import_module(module), name)(), dtype=np.float32))


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


def resident_mb() -> float:
    """Memory in use now; where the system does not tell, its highest so far."""
    status = Path("/proc/self/statm")
    if status.exists():
        return int(status.read_text().split()[1]) * resource.getpagesize() / 1e6
    return peak_mb()


def peak_mb() -> float:
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (1e6 if sys.platform == "darwin" else 1e3)


def time_searches(index: VectorIndex, queries: Vectors, rows: NDArray[Any] | None = None) -> float:
    """Milliseconds a query, one at a time."""
    start = time.perf_counter()
    for query in queries:
        index.search(query[None], K, rows)
    return (time.perf_counter() - start) / len(queries) * 1e3


def measure_kind(
    kind: Any, base: Vectors, size: int, jitter: float, queries: Vectors, truth: NDArray[Any]
) -> dict[str, Any]:
    """Build, search, search filtered, write and read one kind of index."""
    before = resident_mb()
    training = None
    if kind == "ivf" and size >= IVF_MINIMUM:
        share = training_share(size)
        rng = np.random.default_rng(3)
        blocks = jittered(base, size, jitter, seed=0)
        training = np.concatenate([block[rng.random(len(block)) < share] for block in blocks])
    start = time.perf_counter()
    numbered = (
        (np.arange(len(block), dtype=np.int64) + 1 + number * BLOCK, block)
        for number, block in enumerate(jittered(base, size, jitter, seed=0))
    )
    index = VectorIndex.build(kind, base.shape[1], Version(1, 1), numbered, training=training)
    build = time.perf_counter() - start
    del training
    index.search(queries[:1], K)
    found = [index.search(query[None], K)[1][0] - 1 for query in queries]
    recall = np.mean([len(set(a) & set(b)) / K for a, b in zip(found, truth.tolist(), strict=True)])
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "vectors.faiss"
        start = time.perf_counter()
        save_snapshot(index, file)
        saved = time.perf_counter()
        file_mb = file.stat().st_size / 1e6
        memory = resident_mb() - before
        searching = time_searches(index, queries)
        half, hundredth = (np.arange(1, size + 1, step, dtype=np.int64) for step in (2, 100))
        filtered = [time_searches(index, queries[:50], rows) for rows in (half, hundredth)]
        del index
        loading = time.perf_counter()
        load_snapshot(file)
        loaded = time.perf_counter()
    return {
        "size": size,
        "kind": kind,
        "recall@10": round(float(recall), 4),
        "ms": round(searching, 3),
        "ms_half": round(filtered[0], 3),
        "ms_1%": round(filtered[1], 3),
        "build_s": round(build, 2),
        "memory_mb": round(memory),
        "peak_mb": round(peak_mb()),
        "file_mb": round(file_mb),
        "save_s": round(saved - start, 2),
        "load_s": round(loaded - loading, 2),
    }


def measure_sqlite(base: Vectors, size: int, jitter: float) -> dict[str, Any]:
    """What reading all vectors from SQLite costs: the alternative to a FAISS file."""
    with tempfile.TemporaryDirectory() as folder:
        start = time.perf_counter()
        with GemIndex(folder, kind="flat") as index:
            for block in jittered(base, size, jitter, seed=0):
                index.add(["some text of a usual length " * 20] * len(block), block)
            added = time.perf_counter()
            size_mb = index.info().bytes / 1e6
        with GemIndex(folder) as index:
            opening = time.perf_counter()
            index.search(base[0])
            first = time.perf_counter() - opening
    return {
        "size": size,
        "kind": "sqlite -> flat",
        "build_s": round(added - start, 2),
        "file_mb": round(size_mb),
        "load_s": round(first, 2),
    }


def in_own_process(function: Any, *arguments: Any) -> dict[str, Any]:
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        result: dict[str, Any] = pool.apply(function, arguments)
    return result


def show(row: dict[str, Any]) -> None:
    print("  ".join(f"{key} {value}" for key, value in row.items()), flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--vectors",
        help="base embeddings: a file.npy, float [n, dim], or module:function, a callable without "
        "arguments that returns such an array; without it, clustered vectors of low rank",
    )
    parser.add_argument("--sizes", type=int, nargs="+", default=[10_000, 100_000, 1_000_000])
    parser.add_argument("--kinds", nargs="+", default=["flat", "hnsw", "ivf"])
    parser.add_argument("--queries", type=int, default=200)
    parser.add_argument(
        "--jitter", type=float, default=0.4, help="length of the noise added to each unit vector"
    )
    parser.add_argument("--no-sqlite", action="store_true", help="leave out reading from SQLite")
    parser.add_argument("--json", type=Path, help="write the rows there as well")
    options = parser.parse_args()

    base = base_vectors(options.vectors)
    queries = queries_for(base, options.queries, options.jitter)
    rows = []
    for size in options.sizes:
        truth = exact_neighbours(base, queries, size, options.jitter)
        for kind in options.kinds:
            arguments = (kind, base, size, options.jitter, queries, truth)
            rows.append(in_own_process(measure_kind, *arguments))
            show(rows[-1])
        if not options.no_sqlite:
            rows.append(in_own_process(measure_sqlite, base, size, options.jitter))
            show(rows[-1])
    if options.json:
        options.json.write_text(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    main()
