"""How cost grows with the number of chunks: the index on disk and in memory, search, first token.

    python benchmarks/scaling.py --json scaling.json --docs

Each size is filled and measured in processes of its own: jittered vectors as `index.py` has them,
texts whose words are drawn from Wikipedia passages, questions from BoolQ. Every measurement's slope
is fitted in log-log: 1 is in proportion to the chunks, 0 does not grow. Beside it: flat search at
every size, IVF and HNSW up to 100,000 vectors (for a million they take minutes to build: see
`index.py`), and where flat search takes as long as embedding a question does.

``--quick`` shows that everything works, its numbers mean nothing; ``--from`` prints an earlier run
again.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from engine_work import seconds
from memory import in_own_process, resident_mb
from sides import say
from speed_report import DOCS, figure, machine, markdown, number, put_into_docs
from vectors import BLOCK, K, clusters, jittered, queries_for
from words import Words

from gem_rag.index import GemIndex
from gem_rag.index.ann import IVF_MINIMUM, VectorIndex, training_share
from gem_rag.index.database import Version
from gem_rag.model import GemModel
from gem_rag.rag import GemRAG
from gem_rag_train.data.sources import boolq

if TYPE_CHECKING:
    from matplotlib.axes import Axes

SIZES = (10_000, 100_000, 1_000_000)
QUICK = (1_000, 4_000)
APPROXIMATE_MOST = 100_000
JITTER, QUERIES, ASKED = 0.4, 30, 5
WORDS = 60  # a chunk's: some 80 tokens

DISK, MEMORY = "index on disk, MB", "memory beside the model's, MB"
VECTORS, BY_WORDS, BOTH = "search by vector, ms", "by words, ms", "by both, ms"
FIRST = "question to first token, ms"
QUESTION = "a question embedded, ms"
OPENING, FILLING = "opening and first search, s", "chunks written a second"
GROWING = (DISK, MEMORY, VECTORS, BY_WORDS, BOTH, FIRST, OPENING)
KINDS = ("flat", "ivf", "hnsw")
Row = dict[str, float]


def fill(folder: Path, size: int, fingerprint: str, dim: int) -> float:
    """A new index of so many chunks; seconds."""
    words = Words(" ".join(passage.body for passage in boolq("dev")))
    base, start = clusters(BLOCK, dim), time.perf_counter()
    with GemIndex(folder, fingerprint=fingerprint, dim=dim) as index:
        for block in jittered(base, size, JITTER, seed=0):
            index.add(words.chunks(len(block), WORDS), block)
    return time.perf_counter() - start


def used(folder: Path, size: int) -> Row:
    """What a process that answers from the index sees."""
    model = GemModel.from_pretrained()
    questions = [p.question for p in boolq("dev") if p.question][:QUERIES]
    model.embed_query(questions[0])
    filled = in_own_process(fill, folder, size, model.fingerprint, model.dim)
    before = resident_mb()
    vectors = queries_for(clusters(BLOCK, model.dim), QUERIES, JITTER)
    with GemIndex(folder) as index:
        opening = seconds(lambda: index.search(vectors[0], K))
        searches: dict[str, Callable[[int], object]] = {
            VECTORS: lambda i: index.search(vectors[i], K),
            BY_WORDS: lambda i: index.search(k=K, text=questions[i]),
            BOTH: lambda i: index.search(vectors[i], K, text=questions[i]),
        }
        found = {
            name: middle_ms(partial(do, i) for i in range(QUERIES)) for name, do in searches.items()
        }
        memory = resident_mb() - before
        streaming = GemRAG(model, index, threshold=None, beams=1)
        found[FIRST] = first_token(streaming, questions[:ASKED])
        found[QUESTION] = middle_ms(partial(model.embed_query, q) for q in questions)
        disk = index.info().bytes / 1e6
    return found | {DISK: disk, MEMORY: memory, OPENING: opening, FILLING: size / filled}


def first_token(rag: GemRAG, questions: Sequence[str]) -> float:
    """Milliseconds of questions whose passages have been read before."""

    def ask(question: str) -> None:
        pieces = rag.stream(question, max_new_tokens=2)
        next(iter(pieces))
        pieces.close()

    for question in questions:
        ask(question)
    return middle_ms(partial(ask, question) for question in questions)


def middle_ms(works: Iterable[Callable[[], object]]) -> float:
    """Median milliseconds."""
    return 1000 * statistics.median(seconds(work) for work in works)


def searched(kind: Any, size: int, dim: int) -> Row:
    """Milliseconds a search of one kind, and seconds to build it; vectors alone."""
    base = clusters(BLOCK, dim)
    blocks = partial(jittered, base, size, JITTER, 0)
    training = None
    if kind == "ivf" and size >= IVF_MINIMUM:
        rng, share = np.random.default_rng(3), training_share(size)
        training = np.concatenate([block[rng.random(len(block)) < share] for block in blocks()])
    numbered = (
        (np.arange(len(block), dtype=np.int64) + 1 + number * BLOCK, block)
        for number, block in enumerate(blocks())
    )
    start = time.perf_counter()
    index = VectorIndex.build(kind, dim, Version(1, 1), numbered, training=training)
    build = time.perf_counter() - start
    queries = queries_for(base, QUERIES, JITTER)
    return {"ms": middle_ms(partial(index.search, q[None], K) for q in queries), "build": build}


def measure(sizes: Sequence[int], file: Path | None) -> dict[str, Any]:
    """Every size, the smallest first; written after each."""
    rows: dict[int, Row] = {}
    kinds: dict[str, dict[int, Row]] = {kind: {} for kind in KINDS}
    for size in sizes:
        start = time.perf_counter()
        with tempfile.TemporaryDirectory() as folder:
            rows[size] = in_own_process(used, Path(folder) / "index", size)
        say(f"{size:,} chunks: {rows[size]} ({time.perf_counter() - start:.0f} s)")
        for kind in KINDS:
            if kind == "flat" or size <= APPROXIMATE_MOST:
                start = time.perf_counter()
                kinds[kind][size] = in_own_process(searched, kind, size, 576)
                took = time.perf_counter() - start
                say(f"{size:,} vectors, {kind}: {kinds[kind][size]} ({took:.0f} s)")
        report = {"machine": machine(), "rows": rows, "kinds": kinds}
        if file is not None:
            file.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    return report


def slope(points: Mapping[int, float]) -> float:
    """Of a line through the points in log-log."""
    x, y = np.log(list(points)), np.log(np.maximum(list(points.values()), 1e-9))
    return float(np.polyfit(x, y, 1)[0])


def column(rows: Mapping[int, Row], what: str) -> dict[int, float]:
    return {size: row[what] for size, row in rows.items()}


def crossing(points: Mapping[int, float], level: float) -> float:
    """How many chunks a line through the points has at a level."""
    x, y = np.log(list(points.values())), np.log(list(points))
    return float(np.exp(np.polyval(np.polyfit(x, y, 1), np.log(level))))


def tables(report: Mapping[str, Any]) -> str:
    """What grew, the kinds of search, and where flat search takes as long as a question."""
    rows, kinds = report["rows"], report["kinds"]
    sizes = [f"{size:,} chunks" for size in rows]
    grown = [_grown(what, column(rows, what)) for what in (*GROWING, QUESTION, FILLING)]
    searches = [_searches(kind, found, rows) for kind, found in kinds.items()]
    parts = [
        markdown(("", *sizes, "slope"), grown),
        markdown(("search (building), vectors alone", *sizes, "slope"), searches),
    ]
    if len(rows) > 1:
        question = statistics.median(column(rows, QUESTION).values())
        chunks = crossing(column(kinds["flat"], "ms"), question)
        parts.append(
            f"Flat search takes as long as embedding a question ({question:.0f} ms) at some "
            f"{round_to_two(chunks):,} chunks."
        )
    return "\n\n".join([*parts, f"{report['machine']}."])


def _grown(what: str, points: Mapping[int, float]) -> tuple[str, ...]:
    return (what, *map(number, points.values()), _shown_slope(points))


def _searches(kind: str, found: Mapping[int, Row], sizes: Iterable[int]) -> tuple[str, ...]:
    cells = (
        f"{number(found[n]['ms'])} ms ({number(found[n]['build'])} s)" if n in found else ""
        for n in sizes
    )
    return (kind, *cells, _shown_slope(column(found, "ms")))


def _shown_slope(points: Mapping[int, float]) -> str:
    return f"{slope(points):.2f}" if len(points) > 1 else ""


def round_to_two(value: float) -> int:
    """Two digits: more would be made up."""
    return int(float(f"{value:.1e}"))


def plot(report: Mapping[str, Any]) -> None:
    """Everything over the number of chunks, in log-log."""
    rows, kinds = report["rows"], report["kinds"]
    with figure(DOCS / "scaling.svg", (11, 3.4), 1, 3) as panels:
        sizes, times, searches = panels
        _lines(sizes, "MB", {what: column(rows, what) for what in (DISK, MEMORY)})
        asked = (VECTORS, BY_WORDS, BOTH, FIRST, QUESTION)
        _lines(times, "ms", {what: column(rows, what) for what in asked})
        by_kind = {kind: column(found, "ms") for kind, found in kinds.items()}
        _lines(searches, "ms, vectors alone", by_kind | {QUESTION: column(rows, QUESTION)})


def _lines(panel: Axes, label: str, lines: Mapping[str, Mapping[int, float]]) -> None:
    for name, points in lines.items():
        panel.loglog(list(points), list(points.values()), "o-", label=name.rsplit(",", 1)[0], ms=4)
    panel.set_xlabel("chunks")
    panel.set_ylabel(label)
    panel.grid(alpha=0.3)
    panel.legend(fontsize=7)


def read(file: Path) -> dict[str, Any]:
    """An earlier run; JSON made its sizes words."""
    report: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    report["rows"] = {int(size): row for size, row in report["rows"].items()}
    report["kinds"] = {
        kind: {int(size): row for size, row in found.items()}
        for kind, found in report["kinds"].items()
    }
    return report


def main() -> None:
    shape = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=shape)
    parser.add_argument("--sizes", type=int, nargs="+", default=list(SIZES))
    parser.add_argument("--quick", action="store_true", help="tiny, to see that all of it works")
    parser.add_argument("--json", metavar="FILE", type=Path, help="write all numbers there too")
    parser.add_argument("--docs", action="store_true", help="write docs/speed.md's part and plot")
    parser.add_argument("--from", dest="source", metavar="FILE", type=Path, help="measure nothing")
    options = parser.parse_args()
    sizes = QUICK if options.quick else sorted(options.sizes)
    report = read(options.source) if options.source else measure(sizes, options.json)
    text = tables(report)
    print(text)
    if options.docs:
        plot(report)
        seen = "![Disk, memory, search and first token over the number of chunks](scaling.svg)"
        put_into_docs("scaling", f"{text}\n\n{seen}")


if __name__ == "__main__":
    main()
