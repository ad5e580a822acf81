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
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from memory import in_own_process, peak_mb, resident_mb
from numpy.typing import NDArray
from vectors import BLOCK, K, Vectors, clusters, exact_neighbours, jittered, queries_for, unit

from gem_rag.index import GemIndex
from gem_rag.index.ann import IVF_MINIMUM, VectorIndex, training_share
from gem_rag.index.database import Version
from gem_rag.index.snapshot import load_snapshot, save_snapshot


def base_vectors(source: str | None) -> Vectors:
    """From an .npy file, a callable named module:function, or the stand-in."""
    if source is None:
        return clusters()
    if source.endswith(".npy"):
        return unit(np.load(source, allow_pickle=False).astype(np.float32))
    module, _, name = source.partition(":")
    return unit(np.asarray(getattr(importlib.import_module(module), name)(), dtype=np.float32))


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
