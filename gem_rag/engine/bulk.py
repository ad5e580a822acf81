"""Many texts, readings or passages in batches: with a bar, and a word about what was cut."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import chain
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from gem_rag.compute.batches import by_budget, longest_first, most_padding, tokens_per_batch
from gem_rag.compute.embedder import Embedder
from gem_rag.compute.ranker import Asked, Judged, Ranked, Ranker
from gem_rag.compute.reader import Reader
from gem_rag.compute.reading import Reading
from gem_rag.config import Task
from gem_rag.engine.worker import Worker
from gem_rag.errors import ContextLengthError, TruncationWarning
from gem_rag.progress import progress
from gem_rag.text.codec import Tokenized

# Of readings only the query is run, so more fit into a batch than of texts; their copies bound it.
KEPT_BUDGET = 4


class Embedded(NamedTuple):
    """A batch of texts, read and embedded.

    Attributes:
        rows: Which of the given texts.
        readings: Of each, packed.
        vectors: float32 ``[n, d]``, as documents.
    """

    rows: list[int]
    readings: list[Reading]
    vectors: np.ndarray


class Bulk:
    """Reads, embeds and ranks any number of texts, batch by batch.

    Args:
        reader: Reads a batch.
        embedder: Embeds one.
        ranker: Ranks one.
        worker: Runs batches between other things.
    """

    def __init__(self, reader: Reader, embedder: Embedder, ranker: Ranker, worker: Worker) -> None:
        self._worker = worker
        self._reader = reader
        self._embedder = embedder
        self._ranker = ranker
        self._parts = reader.parts

    def read(
        self,
        texts: Sequence[str],
        max_length: int | None,
        show_progress: bool | None,
        kept_as: torch.dtype | None = None,
    ) -> list[Reading]:
        """One reading per text, in the order given."""
        tokenized = self._tokenized(texts, max_length, self._reader.room())
        out: dict[int, Reading] = {}
        for rows in self._batches(tokenized, show_progress, "reading"):
            mine = [texts[i] for i in rows], [tokenized[i] for i in rows]
            read = self._worker.call(partial(self._reader.readings, *mine, kept_as))
            out |= zip(rows, read, strict=True)
        return [out[i] for i in range(len(texts))]

    def read_and_embed(self, texts: Sequence[str], kept_as: torch.dtype) -> Iterator[Embedded]:
        """Readings and document vectors of texts, as batches are done."""
        self._parts.require_embeds()
        tokenized = self._tokenized(texts, None, self._reader.room())

        def run(rows: list[int]) -> Embedded:
            mine = [texts[i] for i in rows], [tokenized[i] for i in rows]
            readings, vectors = self._embedder.read(*mine, kept_as)
            return Embedded(rows, readings, vectors.float().cpu().numpy())

        for rows in self._batches(tokenized, False, "embedding"):
            yield self._worker.call(partial(run, rows))

    def embed(
        self,
        texts: Sequence[str],
        task: Task,
        max_length: int | None,
        show_progress: bool | None,
    ) -> np.ndarray:
        """float32 ``[n, d]``, rows L2-normalised."""
        self._parts.require_embeds()
        tokenized = self._tokenized(texts, max_length, self._embedder.longest_text(task))
        out = np.empty((len(texts), self._parts.dim), dtype=np.float32)
        for rows in self._batches(tokenized, show_progress, "embedding"):
            ids = [tokenized[i].ids for i in rows]
            out[rows] = self._vectors(self._embedder.forward_texts, ids, task)
        return out

    def embed_query(self, text: str, max_length: int | None) -> np.ndarray:
        """float32 ``[d]``, L2-normalised."""
        out: np.ndarray = self.embed([text], "query", max_length, show_progress=False)[0]
        return out

    def embed_readings(self, readings: Sequence[Reading], task: Task) -> np.ndarray:
        """float32 ``[n, d]``; only the special tokens are run."""
        self._parts.require_embeds()
        self._reader.require_own(readings)
        out = np.empty((len(readings), self._parts.dim), dtype=np.float32)
        lengths = [len(reading) for reading in readings]
        for rows in by_budget(longest_first(lengths), lengths, self._budget, math.inf):
            mine = [readings[i] for i in rows]
            out[rows] = self._vectors(self._embedder.forward_readings, mine, task)
        return out

    def embed_spans(self, reading: Reading, spans: Sequence[tuple[int, int]]) -> np.ndarray:
        """float32 ``[s, d]``: see `Reading.embed`."""
        self._parts.require_embeds()
        self._reader.require_own([reading])
        if not spans:
            return np.empty((0, self._parts.dim), dtype=np.float32)
        return self._vectors(self._embedder.forward_spans, reading, spans)

    def _vectors(self, forward: Callable[..., Tensor], *arguments: Any) -> np.ndarray:
        """A batch's vectors, float32 on the CPU, computed by the worker."""

        def run() -> np.ndarray:
            with torch.inference_mode():
                out: np.ndarray = forward(*arguments).float().cpu().numpy()
                return out

        return self._worker.call(run)

    def join(self, readings: Sequence[Reading]) -> Reading:
        """Several readings as one: see `Reader.join`."""
        return self._worker.call(partial(self._reader.join, readings))

    def rank(
        self,
        query: str,
        texts_or_readings: Sequence[str | Reading],
        max_length: int | None = None,
        floor: float | None = None,
        skill: str | None = None,
    ) -> list[Ranked]:
        """One `Ranked` per passage, best first."""
        readings = [p for p in texts_or_readings if isinstance(p, Reading)]
        self._reader.require_own(readings)
        self._reader.require_shareable(readings)
        judge = None if skill is None else self._ranker.judged(query, self._parts.skill(skill))
        asked = self._ranker.asked(query) if judge is None else judge
        texts = [p for p in texts_or_readings if isinstance(p, str)]
        ids = iter(self._tokenized(texts, max_length, self._reader.room(len(asked.ids))))
        passages = [p if isinstance(p, Reading) else next(ids) for p in texts_or_readings]
        if isinstance(asked, Judged):
            odds = self._scored(passages, asked, partial(self._ranker.relevance, judged=asked))
            ranked = [Ranked(i, float(s), -math.log1p(math.exp(-s))) for i, s in enumerate(odds)]
            return sorted(ranked, key=lambda r: -r.score)
        if floor is None:
            # An empty passage, of the kind that runs in one batch with the others.
            make = self._ranker.empty_reading
            empty = self._worker.call(make) if readings else Tokenized([], [], 0)
            *scores, floor = self._likelihoods([*passages, empty], asked)
        else:
            scores = [*self._likelihoods(passages, asked)] if passages else []
        ranked = [Ranked(i, float(s - floor), float(s)) for i, s in enumerate(scores)]
        return sorted(ranked, key=lambda r: -r.score)

    def _likelihoods(self, passages: Sequence[Reading | Tokenized], asked: Asked) -> np.ndarray:
        """Mean log-likelihood of the query after each passage, float64 ``[n]``."""
        return self._scored(passages, asked, partial(self._ranker.likelihoods, asked=asked))

    def _scored(
        self,
        passages: Sequence[Reading | Tokenized],
        asked: Asked | Judged,
        score: Callable[[Sequence[Reading | Tokenized]], np.ndarray],
    ) -> np.ndarray:
        """Each passage's score by what is run after it, float64 ``[n]``, in batches."""
        out = np.empty(len(passages), dtype=np.float64)
        head, query = len(self._parts.config.preamble_ids), len(asked.ids)
        lengths = [len(p) if isinstance(p, Reading) else head + len(p.ids) for p in passages]
        if max(lengths, default=0) + query > self._parts.base.max_context:
            raise ContextLengthError(
                f"a passage of {max(lengths)} tokens and a query of {query} do not fit the context "
                f"window of {self._parts.base.max_context}; read less of it (max_length)"
            )
        order, padded = longest_first(lengths), [n + query for n in lengths]
        read = [i for i in order if isinstance(passages[i], Reading)]
        fresh = [i for i in order if not isinstance(passages[i], Reading)]
        batches = chain(
            # Padding of what was read is not run.
            by_budget(read, padded, lambda: KEPT_BUDGET * self._budget(), math.inf),
            by_budget(fresh, padded, self._budget, most_padding(self._parts.base.device)),
        )
        for rows in batches:
            out[rows] = self._worker.call(partial(score, [passages[i] for i in rows]))
        return out

    def _budget(self) -> int:
        """Bound of a batch's tokens; a small one while answers are waited for."""
        most = tokens_per_batch(self._parts.base.device)
        scheduler = self._worker.scheduler
        return min(most, scheduler.limits.chunk_tokens) if scheduler.running else most

    def _tokenized(
        self, texts: Sequence[str], max_length: int | None, fits: int
    ) -> list[Tokenized]:
        """Tokenize to at most `max_length` and what fits the context; report cuts."""
        if isinstance(texts, str):
            raise TypeError("expected a list of texts, found one string; wrap it in a list")
        limit = self._parts.config.max_text_tokens if max_length is None else max_length
        if limit < 1 or fits < 1:
            raise ContextLengthError(f"max_length is {limit} with {fits} tokens of room; need >= 1")
        tokenized = self._parts.codec.encode_texts(texts, min(limit, fits))
        cut = [t.cut for t in tokenized if t.cut]
        if cut:
            warnings.warn(
                f"{len(cut)} of {len(texts)} texts were cut to {min(limit, fits)} tokens "
                f"({sum(cut)} tokens were not read); raise max_length (up to {fits}) or split them",
                TruncationWarning,
                stacklevel=5,
            )
        return tokenized

    def _batches(
        self, tokenized: Sequence[Tokenized], show_progress: bool | None, what: str
    ) -> Iterator[list[int]]:
        """Indices in batches of similar length and bounded tokens, longest first."""
        lengths = [len(t.ids) for t in tokenized]
        padding = most_padding(self._parts.base.device)
        lengths = [max(1, n) for n in lengths]
        batches = by_budget(longest_first(lengths), lengths, self._budget, padding)
        with progress(what, total=len(tokenized), show=show_progress) as advance:
            for rows in batches:
                yield rows
                advance(len(rows))
