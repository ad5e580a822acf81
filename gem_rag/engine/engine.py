"""The engine: everything that is asked of a loaded model goes through it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from functools import partial
from typing import TypeVar

import numpy as np
import torch

from gem_rag.compute.embedder import Embedder
from gem_rag.compute.ranker import Ranked, Ranker
from gem_rag.compute.reader import Reader
from gem_rag.compute.reading import Reading
from gem_rag.config import Task
from gem_rag.engine.answers import Answer
from gem_rag.engine.bulk import Bulk, Embedded
from gem_rag.engine.committee import After
from gem_rag.engine.options import GenerationOptions
from gem_rag.engine.prefixes import Prefixes
from gem_rag.engine.request import Request, Requests
from gem_rag.engine.results import Generation
from gem_rag.engine.runner import Runner
from gem_rag.engine.scheduler import Limits
from gem_rag.engine.streams import Stream
from gem_rag.engine.work import Work, ahead, finished, given_up
from gem_rag.engine.worker import Worker

PREFIX_BYTES = 256 << 20  # of beginnings of prompts that are kept
T = TypeVar("T")
Spans = Sequence[tuple[int, int]]


@dataclass(frozen=True)
class Stats:
    """What an engine is doing, and has done since it was made.

    Attributes:
        queued: Rows and units of other work that have not begun.
        rows: Answers that are generated now.
        kv_bytes: Keys and values held: of these rows, and of beginnings of prompts.
        tokens: Generated so far.
        tokens_per_second: While tokens were generated, of all rows together.
        busy_seconds: Spent computing.
        prefix_hits: Prompts whose beginning was not run again.
        prefix_misses: Prompts that were run whole.
        proposed: Tokens guessed from what was read, and checked.
        accepted: Those of them that were right: each saved a step.
    """

    queued: int
    rows: int
    kv_bytes: int
    tokens: int
    tokens_per_second: float
    busy_seconds: float
    prefix_hits: int
    prefix_misses: int
    proposed: int
    accepted: int


class Engine:
    """Runs what many callers ask of one model; `GemModel` documents each method.

    Args:
        reader: Reads.
        embedder: Embeds.
        ranker: Ranks.
    """

    def __init__(self, reader: Reader, embedder: Embedder, ranker: Ranker) -> None:
        self._parts = reader.parts
        # On transformers' forward a prompt is run in one pass, to be its own model's bit for bit;
        # what an adapter took part in would be another's after the adapter was trained on.
        keeps = self._parts.decoder is not None and not self._parts.generates_adapted
        kept = PREFIX_BYTES if keeps else 0
        self._runner = Runner(self._parts, Prefixes(kept))
        self._worker = Worker(self._runner, Limits())
        self._bulk = Bulk(reader, embedder, ranker, self._worker)
        self._requests = Requests(reader, self._bulk)

    @property
    def limits(self) -> Limits:
        """Bounds of what runs at once; may be exchanged."""
        return self._worker.scheduler.limits

    @limits.setter
    def limits(self, limits: Limits) -> None:
        self._worker.limit(limits)

    def read(
        self,
        texts: Sequence[str],
        max_length: int | None = None,
        show_progress: bool | None = None,
        kept_as: torch.dtype | None = None,
    ) -> Work[list[Reading]]:
        """Texts to readings, packed in a dtype where one is named."""
        return Work(partial(self._bulk.read, texts, max_length, show_progress, kept_as))

    def read_and_embed(self, texts: Sequence[str], kept_as: torch.dtype) -> Iterator[Embedded]:
        """Texts to readings and vectors, in batches; while one is used, the next is computed."""
        return ahead(self._bulk.read_and_embed(texts, kept_as))

    def embed(
        self,
        texts: Sequence[str],
        task: Task,
        max_length: int | None = None,
        show_progress: bool | None = None,
    ) -> Work[np.ndarray]:
        """Texts to vectors, ``[n, d]``."""
        return Work(partial(self._bulk.embed, texts, task, max_length, show_progress))

    def embed_query(self, text: str, max_length: int | None = None) -> Work[np.ndarray]:
        """One question to its vector, ``[d]``."""
        return Work(partial(self._bulk.embed_query, text, max_length))

    def embed_readings(
        self, readings: Sequence[Reading], task: Task = "document"
    ) -> Work[np.ndarray]:
        """Readings to vectors, ``[n, d]``."""
        return Work(partial(self._bulk.embed_readings, readings, task))

    def embed_spans(self, reading: Reading, spans: Spans) -> Work[np.ndarray]:
        """Parts of a reading to vectors, ``[s, d]``."""
        return Work(partial(self._bulk.embed_spans, reading, spans))

    def rank(
        self,
        query: str,
        texts_or_readings: Sequence[str | Reading],
        max_length: int | None = None,
        floor: float | None = None,
        skill: str | None = None,
    ) -> Work[list[Ranked]]:
        """Passages in order of relevance."""
        return Work(partial(self._bulk.rank, query, texts_or_readings, max_length, floor, skill))

    def join(self, readings: Sequence[Reading]) -> Work[Reading]:
        """Several readings as one."""
        return Work(partial(self._bulk.join, readings))

    def generate(
        self,
        requests: Sequence[Request],
        after: Sequence[After] | None,
        options: GenerationOptions,
        cancelled: Callable[[int], bool] | None = None,
    ) -> Work[list[Generation]]:
        """Several answers together."""
        return Work(partial(self._generate, requests, after, options, cancelled))

    def _generate(
        self,
        requests: Sequence[Request],
        after: Sequence[After] | None,
        options: GenerationOptions,
        cancelled: Callable[[int], bool] | None,
    ) -> list[Generation]:
        rows = self._requests.rows(requests, after, options)
        unwanted = given_up()
        asked = [None if cancelled is None else partial(cancelled, i) for i in range(len(rows))]
        answers = [
            Answer(row, self._parts, asked=ask, unwanted=unwanted)
            for row, ask in zip(rows, asked, strict=True)
        ]
        self._submit(answers, options)
        return finished([answer.future for answer in answers])

    def stream(
        self,
        request: Request,
        after: After | None,
        options: GenerationOptions,
        wait: bool = True,
    ) -> Stream:
        """One answer piece by piece."""
        (row,) = self._requests.rows([request], None if after is None else [after], options)
        answer = Answer(row, self._parts, is_streamed=True, read_on=self._worker.wake)
        begin = partial(self._submit, [answer], options, wait=wait)
        return Stream(answer, begin, partial(_stop, self._worker, answer))

    def submit(
        self,
        request: Request,
        after: After | None,
        options: GenerationOptions,
        wait: bool = True,
    ) -> Future[Generation]:
        """Queue a request; what is wrong with it is its future's error."""
        try:
            (row,) = self._requests.rows([request], None if after is None else [after], options)
        except Exception as error:
            failed: Future[Generation] = Future()
            failed.set_exception(error)
            return failed
        answer = Answer(row, self._parts, unwanted=given_up())
        self._submit([answer], options, wait=wait)
        return answer.future

    def _submit(
        self, answers: Sequence[Answer], options: GenerationOptions, *, wait: bool = True
    ) -> None:
        self._worker.submit(answers, wait=wait)
        if options.timeout is not None:
            for answer in answers:
                leave = partial(self._worker.leave, answer, wait=False)
                answer.end_after(options.timeout, leave)

    def call(self, run: Callable[[], T]) -> T:
        """Compute something of one's own between other things, in the engine's thread.

        torch keeps threads for each thread that computes in parallel: with two such, all of them
        sleep where they would wait awake, and both are slowed. Runs in inference mode.
        """
        return self._worker.call(run)

    def stats(self) -> Stats:
        """What it is doing, and what it has done so far."""
        worker, prefixes = self._worker, self._runner.prefixes
        written = worker.written
        return Stats(
            queued=worker.scheduler.queued,
            rows=len(worker.scheduler.running),
            kv_bytes=self._runner.slots.nbytes + prefixes.nbytes,
            tokens=written.tokens,
            tokens_per_second=written.tokens / worker.step_seconds if worker.step_seconds else 0.0,
            busy_seconds=worker.busy_seconds,
            prefix_hits=prefixes.hits,
            prefix_misses=prefixes.misses,
            proposed=written.proposed,
            accepted=written.accepted,
        )


def _stop(worker: Worker, answer: Answer, wait: bool) -> None:
    """Cancel an answer; not a bound method, or a dropped stream would be kept by its own end."""
    answer.future.cancel()
    worker.leave(answer, wait=wait)
