"""One index in four stores: speed side by side, and whether they find the same.

Chunks have random words and random vectors, the hardest there are for approximate search: what is
compared is exact search ("flat"), whose recall against numpy is printed and has to be 1 everywhere.
Servers run on this machine, as the tests start them (Qdrant and Milvus in their local modes, which
have no indexes; PostgreSQL as it is); addresses of other servers may be given.

    python benchmarks/stores.py --chunks 100000
    python benchmarks/stores.py --chunks 100000 --stores postgres=postgresql://db/x qdrant=qdrant+http://host:6333
"""

import argparse
import json
import statistics
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

from stores import KINDS, new_name, place_of

from gem_rag.index.address import open_index
from gem_rag.index.protocol import Index
from gem_rag.index.records import Passage

Vectors = NDArray[np.float32]
WORDS, WORDS_A_CHUNK, CHUNKS_A_DOCUMENT = 20_000, 60, 50
K = 10


def random_vectors(count: int, dim: int, seed: int) -> Vectors:
    """Float32 [count, dim] of length one."""
    vectors = np.random.default_rng(seed).standard_normal((count, dim), dtype=np.float32)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def word(number: int) -> str:
    """A word of its own for each number."""
    letters = ""
    while number or not letters:
        number, letter = divmod(number, 26)
        letters = chr(ord("a") + letter) + letters
    return f"q{letters}x"


def documents(count: int) -> Iterator[tuple[str, str, list[Passage]]]:
    """Sources, texts and pieces of random words; some words are much more frequent than others."""
    rng = np.random.default_rng(0)
    for first in range(0, count, CHUNKS_A_DOCUMENT):
        pieces, text = [], ""
        for number in range(first, min(first + CHUNKS_A_DOCUMENT, count)):
            ranks = np.minimum(rng.zipf(1.3, WORDS_A_CHUNK), WORDS)
            words = " ".join(map(word, (*ranks.tolist(), WORDS + number)))
            metadata = {"number": number, "even": number % 2 == 0, "part": number % 100}
            pieces.append(Passage(words, len(text), len(text) + len(words), metadata=metadata))
            text += words + "\n"
        yield f"document-{first}.txt", text, pieces


def fill(index: Index, count: int, vectors: Vectors) -> float:
    """Put all documents; chunks a second."""
    started, at = time.perf_counter(), 0
    for source, text, pieces in documents(count):
        index.documents.put(source, text, source, pieces, vectors[at : at + len(pieces)])
        at += len(pieces)
    return count / (time.perf_counter() - started)


def milliseconds(calls: list[Callable[[], Any]]) -> float:
    """The median of several calls, after one to warm up."""
    calls[0]()
    times = []
    for call in calls:
        started = time.perf_counter()
        call()
        times.append(time.perf_counter() - started)
    return 1000 * statistics.median(times)


def recall(index: Index, vectors: Vectors, queries: Vectors) -> float:
    """Which part of the true nearest is found."""
    found = 0
    for query in queries:
        true = set(np.argsort(-(vectors @ query), kind="stable")[:K].tolist())
        found += len(true & {hit.metadata["number"] for hit in index.search(query, K)})
    return found / (K * len(queries))


def measure(index: Index, count: int, dim: int, asked: int) -> dict[str, float]:
    """Speeds of one store, and its recall."""
    vectors, queries = random_vectors(count, dim, 1), random_vectors(asked, dim, 2)
    texts = [f"{word(20 + i)} {word(300 + i)} {word(WORDS + i)}" for i in range(asked)]
    row: dict[str, float] = {"put_per_s": fill(index, count, vectors)}
    searches: dict[str, Callable[[int], Any]] = {
        "vector_ms": lambda i: index.search(queries[i], K),
        "words_ms": lambda i: index.search(text=texts[i], k=K),
        "hybrid_ms": lambda i: index.search(queries[i], K, text=texts[i], distinct=True),
        "half_ms": lambda i: index.search(queries[i], K, where={"even": True}),
        "1%_ms": lambda i: index.search(queries[i], K, where={"part": i % 100}),
        "count_ms": lambda i: index.count({"number": {"$lt": count // 2 + i}}),
    }
    for name, search in searches.items():
        row[name] = milliseconds([lambda i=i, search=search: search(i) for i in range(asked)])
    started = time.perf_counter()
    row["read_per_s"] = sum(1 for _ in index.iterate()) / (time.perf_counter() - started)
    source, text, pieces = next(documents(count))
    replaced = vectors[: len(pieces)]
    row["replace_ms"] = milliseconds(
        [
            lambda i=i: index.documents.put(source, text, f"again {i}", pieces, replaced)
            for i in range(3)
        ]
    )
    row["recall"] = recall(index, vectors, queries)
    return row


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--chunks", type=int, default=10_000)
    parser.add_argument("--dim", type=int, default=256)
    parser.add_argument("--queries", type=int, default=20)
    parser.add_argument("--stores", nargs="+", default=list(KINDS), metavar="KIND[=ADDRESS]")
    parser.add_argument("--json", type=Path, help="write the rows there as well")
    options = parser.parse_args()
    warnings.simplefilter("ignore")  # Qdrant's, that its local mode is for small collections
    rows = []
    for given in options.stores:
        kind, _, address = given.partition("=")
        with ExitStack() as stack:
            index = stack.enter_context(opened(kind, address, stack))
            row = measure(index, options.chunks, options.dim, options.queries)
        rows.append({"store": kind, "chunks": options.chunks, "dim": options.dim, **row})
        shown = (
            f"{k} {v:.4g}" if isinstance(v, float) else f"{k} {v}" for k, v in rows[-1].items()
        )
        print("  ".join(shown), flush=True)
    if options.json:
        options.json.write_text(json.dumps(rows, indent=2))


def opened(kind: str, address: str, stack: ExitStack) -> Index:
    """A new index at an address, or where the tests make them."""
    if address:
        return open_index(address)
    if kind == "qdrant":  # its files are written for each chunk anew, which says little
        from gem_rag.index.backends import QdrantIndex

        return QdrantIndex(":memory:")
    folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
    return open_index(stack.enter_context(place_of(kind, folder)).address(new_name()))


if __name__ == "__main__":
    main()
