"""What the time is spent on, call by call: a first token, indexing, ranking from text.

    python benchmarks/split.py

Of the rows `first`, `indexing` and `ranking` of `speed.py`, on the same texts. What is inside
another line is in both; the engine's thread and its caller's are watched alike.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial, wraps
from pathlib import Path
from typing import Any

from engine_work import QUESTIONS, read_stream
from speed_texts import Sizes, Texts, make
from speed_work import ASKED, indexing

import gem_rag.store
from gem_rag.checkpoints.embedded import embedded_base
from gem_rag.compute.parts import Parts
from gem_rag.compute.reader import Reader
from gem_rag.engine.slots import Slots
from gem_rag.engine.worker import Worker
from gem_rag.index.documents import Documents
from gem_rag.model import GemModel
from gem_rag.rag.ingest.plan import Plan
from gem_rag.store import ReadingStore

Watched = Mapping[str, tuple[Any, str]]  # what is called, by what it is to a reader
FIRST: Watched = {
    "the reading, from disk": (ReadingStore, "read"),
    "it is put in its place": (Slots, "open"),
    "the question is run": (Parts, "run"),
    "the output head": (Parts, "logits"),
}
INDEXING: Watched = {
    "files are read and cut": (Plan, "work"),
    "the engine computes": (Worker, "call"),
    "of it, texts are run": (Reader, "outputs"),
    "of it, readings are packed": (Reader, "taken"),
    "beside it, readings are written": (gem_rag.store, "atomic_write"),
    "documents are put into the index": (Documents, "put"),
}
RANKING: Watched = {
    "passages and question are run": (Parts, "run"),
    "the output head": (Parts, "logits"),
}


@contextmanager
def watching(watched: Watched) -> Iterator[dict[str, float]]:
    """Seconds that calls took, by name, of all threads."""
    took: dict[str, float] = defaultdict(float)

    def timed(name: str, call: Callable[..., Any]) -> Callable[..., Any]:
        @wraps(call)
        def run(*arguments: Any, **options: Any) -> Any:
            start = time.perf_counter()
            try:
                return call(*arguments, **options)
            finally:
                took[name] += time.perf_counter() - start

        return run

    before = {name: vars(owner)[called] for name, (owner, called) in watched.items()}
    for name, (owner, called) in watched.items():
        setattr(owner, called, timed(name, before[name]))
    try:
        yield took
    finally:
        for name, (owner, called) in watched.items():
            setattr(owner, called, before[name])


def say(what: str, watched: Watched, work: Callable[[], object], per: float) -> None:
    """Run something twice, and print the second run's split in ms."""
    work()
    with watching(watched) as took:
        start = time.perf_counter()
        work()
        whole = time.perf_counter() - start
    print(f"\n{what}: {1000 * whole / per:.1f} ms")
    for name in watched:
        print(f"  {name:34} {1000 * took[name] / per:8.1f}")


def first(model: GemModel, chunks: list[str], folder: str) -> None:
    """A token after each chunk, whose reading is on disk."""
    store = ReadingStore(model, folder)
    for chunk in chunks:
        (reading,) = store.read([chunk])
        model.generate(ASKED, after=reading, max_new_tokens=1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--dtype", default="auto")
    model = GemModel.from_pretrained(dtype=parser.parse_args().dtype)
    texts: Texts = make(embedded_base() / "tokenizer.json", Sizes())
    read_stream(model, "Hello", 2)
    with tempfile.TemporaryDirectory() as folder:
        chunks = texts.passages[:10]
        say("a first token", FIRST, partial(first, model, chunks, folder), len(chunks))
        pages = len(texts.pages)
        say("indexing a page", INDEXING, partial(indexing, model, texts, Path(folder)), pages)
    ranked = partial(model.rank, QUESTIONS[1], texts.passages[:10])
    say("ranking ten passages from text", RANKING, ranked, 1)


if __name__ == "__main__":
    main()
