"""What an actor of an ingest on Ray does in a second, and what it adds to a node's memory.

`python benchmarks/ray_ingest.py --actors 1 2 --chunks 200` with the default model;
`--tiny` with a random one, where the pipeline and the writer are what is measured. Seconds run from
the first block that came back to the last: starting Ray and loading the model are not in them.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

import psutil
import torch

from gem_rag.documents.split import CHUNK_TOKENS
from gem_rag.index import GemIndex
from gem_rag.model import GemModel, create
from gem_rag.rag.ingest.ray import AT_ONCE, RayWorkers
from gem_rag.rag.ingest.write import Ingest
from gem_rag.store import ReadingStore

SENTENCE = "The pump of station {} is opened by hand before winter, and its seals are greased. "


class Timed:
    """Ray's workers, and when each source came back from them."""

    def __init__(self, workers: RayWorkers) -> None:
        self._workers = workers
        self.came: list[tuple[float, int]] = []
        self.seen: dict[int, list[Actor]] = {}  # by process, as often as one was looked at

    def __call__(self, sources, plan, report):
        for number, work in enumerate(self._workers(sources, plan, report)):
            if number % AT_ONCE == 0:  # a block came
                for pid, actor in actors().items():
                    self.seen.setdefault(pid, []).append(actor)
            self.came.append((time.perf_counter(), len(work.passages) if work else 0))
            yield work

    @property
    def cpu(self) -> float:
        """Seconds of CPU that all actors used since the first block."""
        return sum(seen[-1].cpu - seen[0].cpu for seen in self.seen.values())


class Actor(NamedTuple):
    """A process that embeds: private MB, shared MB, seconds of CPU so far."""

    private: float
    shared: float
    cpu: float


def actors() -> dict[int, Actor]:
    """Those there are, by process."""
    out = {}
    for child in psutil.Process().children(recursive=True):
        if "Embed" in " ".join(child.cmdline()):
            full, times = child.memory_full_info(), child.cpu_times()
            shared = (full.rss - full.uss) / 1e6
            out[child.pid] = Actor(full.uss / 1e6, shared, times.user + times.system)
    return out


def documents(folder: Path, chunks: int, sentences: int = 11) -> Path:
    folder.mkdir()
    for i in range(chunks):
        text = "".join(SENTENCE.format(f"{i}-{j}") for j in range(sentences))
        (folder / f"{i:05}.txt").write_text(text)
    return folder


def tiny(folder: Path) -> GemModel:
    from tiny import make_base

    create(make_base(folder / "base"), num_special_tokens=2).save_pretrained(folder / "tiny")
    return GemModel.from_pretrained(folder / "tiny")


def measure(model: GemModel, docs: Path, folder: Path, count: int) -> dict[str, object]:
    with GemIndex(folder, fingerprint=model.fingerprint, dim=model.dim) as index:
        timed = Timed(RayWorkers(model, count))
        started = time.perf_counter()
        ingest = Ingest(index, ReadingStore(model), CHUNK_TOKENS, timed)
        report = ingest.add([docs], remove_missing=False, exclude=(), show_progress=False)
        whole = time.perf_counter() - started
    first, last = timed.came[0][0], timed.came[-1][0]
    after = sum(chunks for _, chunks in timed.came[AT_ONCE:])
    most = [max(seen, key=lambda actor: actor.private) for seen in timed.seen.values()]
    return {
        "actors": count,
        "dtype": str(model.base.dtype),
        "chunks": report.chunks,
        "chunks_a_second": round(after / (last - first), 1),
        "chunks_a_cpu_second": round(after / timed.cpu, 1) if timed.cpu else None,
        "seconds_to_first_block": round(whole - (last - first), 1),
        "private_mb": [round(actor.private) for actor in most],
        "shared_mb": [round(actor.shared) for actor in most],
    }


def writer(chunks: int, dim: int, at_once: int) -> float:
    """Chunks a second that the one writer commits, vectors given, ``at_once`` in a commit."""
    import numpy as np

    from gem_rag.index.records import Passage

    vectors = np.random.default_rng(0).normal(size=(at_once, dim)).astype(np.float32)
    words = [SENTENCE.format(i) * 12 for i in range(at_once)]
    with tempfile.TemporaryDirectory() as folder, GemIndex(folder, dim=dim) as index:
        started = time.process_time()
        for i in range(0, chunks, at_once):
            with index.transaction():
                for j, text in enumerate(words):
                    passages = [Passage(text, 0, len(text))]
                    index.documents.put(f"{i + j}", text, "0", passages, vectors[j : j + 1])
        return chunks / (time.process_time() - started)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--actors", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--chunks", type=int, default=200)
    parser.add_argument("--dtype", default="auto")
    parser.add_argument("--tiny", action="store_true")
    parser.add_argument("--writer", action="store_true", help="measure the writer alone")
    options = parser.parse_args()
    torch.set_num_threads(1)
    if options.writer:
        for at_once in (32, 1024):
            print(
                json.dumps(
                    {"at_once": at_once, "chunks_a_cpu_second": round(writer(4096, 576, at_once))}
                )
            )
        return
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        model = tiny(folder) if options.tiny else GemModel.from_pretrained(dtype=options.dtype)
        docs = documents(folder / "docs", options.chunks)
        for count in options.actors:
            print(json.dumps(measure(model, docs, folder / f"index{count}", count)), flush=True)


if __name__ == "__main__":
    main()
