"""What `engine.py` measures, with nothing that only one side's code has."""

from __future__ import annotations

import argparse
import asyncio
import statistics
import subprocess
import threading
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from gem_rag.model import GemModel

ONE, EIGHT = "one stream, tokens/s", "8 streams that join one by one, tokens/s in all"
GAIN = "8 streams / one stream"
JOIN_SECONDS, PULSE_SECONDS = 0.2, 0.01
SENTENCE = "The warranty covers defects of material for two years from the day of delivery."
QUESTIONS = (
    "Who wrote Faust?",
    "How is a reading kept on the disk?",
    "What does it cost to rank ten passages?",
    "Where are special tokens put, and how many are there?",
    "When was the bridge over the river opened to traffic?",
)
SUBJECTS = (
    "a baker who finds a letter in the bread",
    "a ship in a storm",
    "a fox and an old clock",
    "two brothers who build a bridge",
    "a teacher on the moon",
    "a lost key",
    "a village without a well",
    "the last train of the night",
)
# Which the default model goes on with for more than 600 tokens, greedily, in either format.
PROMPTS = tuple(f"Write a long story about {subject}." for subject in SUBJECTS)


def passages(count: int, seed: int = 0) -> list[str]:
    """Prose of this project's documentation, about 60 to 250 tokens each."""
    files = sorted((Path(__file__).parents[1] / "docs").rglob("*.md"))
    lines = [line for file in files for line in file.read_text(encoding="utf-8").splitlines()]
    words = [word for line in lines if line[:1].isalpha() for word in line.split()]
    words = [word for word in words if len(word) < 15]  # addresses, paths, commands
    rng = Random(seed)
    lengths = [rng.randint(48, 112) for _ in range(count)]
    starts = [rng.randrange(len(words) - length) for length in lengths]
    return [" ".join(words[s : s + n]) for s, n in zip(starts, lengths, strict=True)]


def seconds(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def seconds_to_say(command: Sequence[str]) -> float:
    """From a process's start to the first line that it prints."""
    start = time.perf_counter()
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        said = process.stdout.readline()
        took = time.perf_counter() - start
    assert said, f"it ended with status {process.returncode} and printed nothing"
    return took


def joining(read: Callable[[str], int], prompts: Sequence[str] = PROMPTS) -> float:
    """Tokens/s of streams that begin one after another, from the first start to the last end."""
    tokens: list[int] = []
    threads = [threading.Thread(target=lambda p=p: tokens.append(read(p))) for p in prompts]
    start = time.perf_counter()
    for place, thread in enumerate(threads):
        time.sleep(max(0.0, start + place * JOIN_SECONDS - time.perf_counter()))
        thread.start()
    for thread in threads:
        thread.join()
    assert len(tokens) == len(prompts), "a stream failed"
    return sum(tokens) / (time.perf_counter() - start)


def read_stream(model: GemModel, prompt: str, tokens: int) -> int:
    """Read a stream to its end; how many tokens it had."""
    stream = model.stream(prompt, max_new_tokens=tokens)
    for _ in stream:
        pass
    found = stream.generation.usage.completion_tokens
    assert found == tokens, f"{prompt!r} ended after {found} tokens"
    return found


def embedding(model: GemModel, options: argparse.Namespace) -> dict[str, float]:
    texts = passages(options.passages)
    tokens = sum(len(model.codec.encode(text)) for text in texts)
    model.embed_documents(passages(8, seed=1))
    took = seconds(lambda: model.embed_documents(texts, show_progress=False))
    return {"reading passages (ours: and embedding them), tokens/s": tokens / took}


def query(model: GemModel, options: argparse.Namespace) -> dict[str, float]:
    del options
    model.embed_query(SENTENCE)
    times = [seconds(partial(model.embed_query, q)) for q in QUESTIONS * 3]
    return {"a query, ms": 1000 * statistics.median(times)}


def stream(model: GemModel, options: argparse.Namespace) -> dict[str, float]:
    read_stream(model, PROMPTS[-1], 8)
    times = [seconds(partial(read_stream, model, p, options.tokens)) for p in PROMPTS[:3]]
    return {ONE: options.tokens / statistics.median(times)}


def ranking(model: GemModel, options: argparse.Namespace) -> dict[str, float]:
    del options
    model.rank(SENTENCE, passages(3, seed=1))
    lists = [passages(10, seed) for seed in (2, 3, 4)]
    times = [seconds(partial(model.rank, QUESTIONS[1], t)) for t in lists]
    return {"ranking ten passages from text, s": statistics.median(times)}


def joined(model: GemModel, options: argparse.Namespace) -> dict[str, float]:
    read_stream(model, "Hello", 2)
    return {EIGHT: joining(lambda prompt: read_stream(model, prompt, options.tokens))}


class Running:
    """Eight streams that are read until this is left, and how many pieces each has given."""

    def __init__(self, model: GemModel) -> None:
        self.pieces = [0] * len(PROMPTS)
        self._model = model
        self._over = threading.Event()
        self._threads = [threading.Thread(target=self._read, args=(i,)) for i in range(8)]

    def _read(self, place: int) -> None:
        stream = self._model.stream(PROMPTS[place], max_new_tokens=600)
        for _ in stream:
            self.pieces[place] += 1
            if self._over.is_set():
                break
        stream.close()

    def __enter__(self) -> Running:
        for thread in self._threads:
            thread.start()
        while min(self.pieces) < 4:
            time.sleep(0.01)
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        for thread in self._threads:
            thread.join()


def beside(model: GemModel, options: argparse.Namespace) -> dict[str, float]:
    """One sentence is embedded while streams run."""
    del options
    model.embed_documents([SENTENCE])
    times, steps = [], []
    with Running(model) as running:
        for _ in range(5):
            time.sleep(0.3)
            before = list(running.pieces)
            times.append(seconds(lambda: model.embed_documents([SENTENCE])))
            steps.append(max(b - a for a, b in zip(before, running.pieces, strict=True)))
        assert max(running.pieces) < 590, "a stream ended while it was measured"
    return {
        "a sentence embedded while 8 streams run, ms": 1000 * statistics.median(times),
        "steps of a stream meanwhile": statistics.median(steps),
    }


def heartbeat(model: GemModel, options: argparse.Namespace) -> dict[str, float]:
    """The event loop's longest gap while streams and an embedding are awaited in it."""
    read_stream(model, "Hello", 2)
    model.embed_documents(passages(2, seed=1))
    texts = passages(options.passages // 4)
    return {"longest gap of an event loop, ms": 1000 * asyncio.run(_gap(model, texts, options))}


async def _gap(model: GemModel, texts: list[str], options: argparse.Namespace) -> float:
    async def read(prompt: str) -> None:
        async for _ in model.astream(prompt, max_new_tokens=options.tokens // 2):
            pass

    reading = [asyncio.create_task(read(prompt)) for prompt in PROMPTS]
    work = asyncio.gather(*reading, model.aembed_documents(texts, show_progress=False))
    longest, last = 0.0, time.perf_counter()
    while not work.done():
        await asyncio.sleep(PULSE_SECONDS)
        now = time.perf_counter()
        longest, last = max(longest, now - last), now
    await work
    return longest


Measure = Callable[["GemModel", argparse.Namespace], dict[str, float]]
MEASURES: dict[str, Measure] = {
    "embedding": embedding,
    "query": query,
    "stream": stream,
    "ranking": ranking,
    "joining": joined,
    "beside": beside,
    "heartbeat": heartbeat,
}


def more_is_better(name: str) -> bool:
    """Whether of two numbers of this name the larger is the better."""
    return "tokens/s" in name or name == GAIN


def child(measure: str, dtype: str, options: argparse.Namespace) -> dict[str, Any]:
    """One measurement, and of which code it is."""
    import torch

    import gem_rag
    from gem_rag.model import GemModel

    model = GemModel.from_pretrained(dtype=dtype)
    what = f"{Path(gem_rag.__file__).parent}, torch {torch.__version__}"
    return {"what": what, "found": MEASURES[measure](model, options)}
