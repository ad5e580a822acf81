"""Requests from many threads or tasks, generated together where they wait at the same time."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, InvalidStateError
from contextlib import suppress
from dataclasses import dataclass, field

from gem_rag.compute.reading import Reading
from gem_rag.engine.options import GenerationOptions
from gem_rag.engine.request import Request
from gem_rag.engine.results import Generation

Generate = Callable[..., list[Generation]]  # as `Engine.generate`
LARGEST = 16  # requests in a batch: bounds the memory their caches take
GATHER_SECONDS = 0.005  # how long the first request waits for company; a token takes longer
IDLE_SECONDS = 1.0


@dataclass
class _Job:
    request: Request
    after: Reading | None
    options: GenerationOptions
    future: Future[Generation] = field(default_factory=Future)

    def fits(self, other: _Job) -> bool:
        """Whether both can be rows of one batch."""
        return self.options == other.options and (self.after is None) == (other.after is None)


class Worker:
    """A queue and one worker thread, which is there only while there is work.

    Args:
        generate: Runs requests of equal options together, as `Engine.generate`.
    """

    def __init__(self, generate: Generate) -> None:
        self._generate = generate
        self._waiting: deque[_Job] = deque()
        self._changed = threading.Condition()
        self._working = False

    def submit(
        self, request: Request, after: Reading | None, options: GenerationOptions
    ) -> Future[Generation]:
        """Queue a request."""
        job = _Job(request, after, options)
        with self._changed:
            self._waiting.append(job)
            self._changed.notify()
            if not self._working:
                self._working = True
                threading.Thread(target=self._work, name="gem-rag-batches", daemon=True).start()
        return job.future

    def _work(self) -> None:
        while batch := self._next():
            self._run(batch)

    def _next(self) -> list[_Job]:
        """The first request that waits and those that fit it; empty when idle for a while."""
        with self._changed:
            if not self._changed.wait_for(lambda: self._waiting, IDLE_SECONDS):
                self._working = False
                return []
            seen = 0
            while len(self._waiting) > seen:  # as long as more keep coming
                seen = len(self._waiting)
                self._changed.wait(GATHER_SECONDS)
            first = self._waiting[0]
            batch = [job for job in self._waiting if job.fits(first)][:LARGEST]
            taken = {id(job) for job in batch}
            self._waiting = deque(job for job in self._waiting if id(job) not in taken)
            return batch

    def _run(self, batch: list[_Job]) -> None:
        batch = [job for job in batch if not job.future.cancelled()]
        if not batch:
            return
        after = None if batch[0].after is None else [job.after for job in batch]
        try:
            done = self._generate(
                [job.request for job in batch],
                after,
                batch[0].options,
                lambda row: batch[row].future.cancelled(),
            )
        except BaseException as error:
            if len(batch) == 1:
                with suppress(InvalidStateError):
                    batch[0].future.set_exception(error)
                return
            for job in batch:  # one bad request must not fail the others
                self._run([job])
            return
        for job, generation in zip(batch, done, strict=True):
            with suppress(InvalidStateError):  # cancelled meanwhile
                job.future.set_result(generation)
