"""The engine: everything that is asked of a loaded model goes through it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import Future
from functools import partial

import numpy as np

from gem_rag.compute.embedder import Embedder
from gem_rag.compute.parts import Parts
from gem_rag.compute.ranker import Ranked, Ranker
from gem_rag.compute.reader import Reader
from gem_rag.compute.reading import Reading
from gem_rag.config import Task
from gem_rag.engine.bulk import Bulk
from gem_rag.engine.calls import without_calls
from gem_rag.engine.options import GenerationOptions
from gem_rag.engine.request import Request, Requests
from gem_rag.engine.results import Generation
from gem_rag.engine.rows import Rows
from gem_rag.engine.streams import Stream
from gem_rag.engine.work import Work
from gem_rag.engine.worker import Worker

Spans = Sequence[tuple[int, int]]


class Engine:
    """Runs what many callers ask of one model; `GemModel` documents each method.

    Args:
        reader: Reads.
        embedder: Embeds.
        ranker: Ranks.
    """

    def __init__(self, reader: Reader, embedder: Embedder, ranker: Ranker) -> None:
        self._bulk = Bulk(reader, embedder, ranker)
        self._answers = _Answers(reader.parts, Requests(reader, self._bulk))
        self._worker = Worker(self._answers.generate)

    def read(
        self,
        texts: Sequence[str],
        max_length: int | None = None,
        show_progress: bool | None = None,
    ) -> Work[list[Reading]]:
        """Texts to readings."""
        return Work(partial(self._bulk.read, texts, max_length, show_progress))

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
    ) -> Work[list[Ranked]]:
        """Passages in order of relevance."""
        return Work(partial(self._bulk.rank, query, texts_or_readings, max_length))

    def generate(
        self,
        requests: Sequence[Request],
        after: Sequence[Reading] | None,
        options: GenerationOptions,
        cancelled: Callable[[int], bool] | None = None,
    ) -> Work[list[Generation]]:
        """Several answers together."""
        return Work(partial(self._answers.generate, requests, after, options, cancelled))

    def stream(self, request: Request, after: Reading | None, options: GenerationOptions) -> Stream:
        """One answer piece by piece."""
        return self._answers.stream(request, after, options)

    def submit(
        self, request: Request, after: Reading | None, options: GenerationOptions
    ) -> Future[Generation]:
        """Queue a request; requests of equal options that wait together share a batch."""
        return self._worker.submit(request, after, options)


class _Answers:
    """Requests to answers.

    Args:
        parts: The model's parts.
        requests: Makes rows of them.
    """

    def __init__(self, parts: Parts, requests: Requests) -> None:
        self._parts = parts
        self._requests = requests

    def generate(
        self,
        requests: Sequence[Request],
        after: Sequence[Reading] | None,
        options: GenerationOptions,
        cancelled: Callable[[int], bool] | None = None,
    ) -> list[Generation]:
        if not requests:
            return []
        rows = Rows(self._parts, self._requests.rows(requests, after, options))
        for _ in rows.pieces(cancelled):
            pass
        return [rows.result(row) for row in range(len(requests))]

    def stream(self, request: Request, after: Reading | None, options: GenerationOptions) -> Stream:
        readings = None if after is None else [after]
        (row,) = made = self._requests.rows([request], readings, options)
        rows = Rows(self._parts, made)
        pieces = (piece for _, piece in rows.pieces())
        shown = without_calls(pieces, row.tools) if row.tools else pieces
        return Stream(shown, lambda: rows.result(0))
