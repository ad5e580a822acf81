"""Candidates -> rank -> threshold -> cut: the one place where passages are chosen."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

from gem_rag.compute.ranker import Ranked
from gem_rag.compute.reading import Reading
from gem_rag.errors import GemError
from gem_rag.index.gem_index import GemIndex
from gem_rag.index.records import Hit
from gem_rag.model import GemModel
from gem_rag.rag.citation import Citation
from gem_rag.store import ReadingStore

CANDIDATES = 10  # how many the index finds for the model to rank, where nobody says otherwise
Rank = Callable[[str, Sequence[str]], list[Ranked]]  # of `GemModel` or a `ReadingStore`
T = TypeVar("T")


@dataclass(frozen=True)
class Candidate(Generic[T]):
    """What a search found: the thing, the words it is ranked by, its cosine with the question."""

    item: T
    text: str
    score: float


@dataclass(frozen=True)
class Chosen(Generic[T]):
    """A candidate that was chosen.

    Attributes:
        item: The thing.
        index: Its place among the candidates.
        score: Cosine.
        rank_score: Calibrated query likelihood (nats per token); None where nothing was ranked.
    """

    item: T
    index: int
    score: float
    rank_score: float | None = None


@dataclass(frozen=True)
class Choice:
    """How candidates become the passages that are used.

    Attributes:
        k: How many at most; None is all candidates.
        rank: Ranks them; None keeps the search's order.
        candidates: How many a search should find to be ranked.
        least_score: Least cosine.
        least_rank: Least calibrated query likelihood, of what is ranked.
    """

    k: int | None = None
    rank: Rank | None = None
    candidates: int = CANDIDATES
    least_score: float | None = None
    least_rank: float | None = None

    @property
    def wanted(self) -> int:
        """How many a search should find."""
        if self.rank is None:
            return self.candidates if self.k is None else self.k
        return max(self.candidates, self.k or 0)

    def best(self, question: str, found: Sequence[Candidate[T]]) -> list[Chosen[T]]:
        """The passages to use, best first."""
        near = [
            Chosen(candidate.item, index, candidate.score)
            for index, candidate in enumerate(found)
            if self.least_score is None or candidate.score >= self.least_score
        ]
        if self.rank is None or not near:
            return near[: self.k]
        places = self.rank(question, [found[chosen.index].text for chosen in near])
        ranked = [
            Chosen(near[p.index].item, near[p.index].index, near[p.index].score, p.score)
            for p in places
            if self.least_rank is None or p.score >= self.least_rank
        ]
        return ranked[: self.k]


@dataclass
class Found:
    """What was found for a question.

    Attributes:
        citations: Best first.
        readings: Of the citations' passages, where they were ranked from readings.
        started: When the search began (`time.perf_counter`).
        timings: Seconds: ``retrieve`` and ``rank``.
    """

    citations: list[Citation]
    readings: list[Reading]
    started: float
    timings: dict[str, float] = field(default_factory=dict)


class Retriever:
    """Finds passages in an index with the model that made its vectors.

    Args:
        model: Embeds the question and ranks.
        index: Where the passages are.
        store: Kept readings, from which they are ranked.
    """

    def __init__(self, model: GemModel, index: GemIndex, store: ReadingStore) -> None:
        self._model = model
        self._index = index
        self._store = store

    def find(
        self,
        question: str,
        *,
        k: int | None,
        candidates: int,
        rank: bool,
        where: dict[str, Any] | None = None,
    ) -> Found:
        """The best passages for a question.

        Args:
            question: What is asked.
            k: How many at most; None is all candidates.
            candidates: How many are ranked.
            rank: Whether they are.
            where: Metadata filter.

        Raises:
            GemError: The question is empty.
        """
        if not question.strip():
            raise GemError("the question is empty; expected words")
        started = time.perf_counter()
        kept = _KeptRank(self._model, self._store)
        choice = Choice(k, kept if rank else None, candidates)
        vector = self._model.embed_query(question)
        fingerprint = self._model.fingerprint
        hits = self._index.search(vector, k=choice.wanted, where=where, fingerprint=fingerprint)
        searched = time.perf_counter()
        chosen: list[Chosen[Hit]] = choice.best(
            question, [Candidate(h, h.text, h.score) for h in hits]
        )
        timings = {"retrieve": searched - started, "rank": 0.0}
        if rank and hits:
            timings["rank"] = time.perf_counter() - searched
        return Found(
            citations=[Citation.of(c.item, c.rank_score) for c in chosen],
            readings=[kept.readings[c.index] for c in chosen] if kept.readings else [],
            started=started,
            timings=timings,
        )


class _KeptRank:
    """Ranks from readings where the model's scope allows it, and keeps them for the answer."""

    def __init__(self, model: GemModel, store: ReadingStore) -> None:
        self._model = model
        self._store = store
        self.readings: list[Reading] = []

    def __call__(self, question: str, texts: Sequence[str]) -> list[Ranked]:
        if self._model.shares_readings:
            self.readings = self._store.read(texts)
        return self._model.rank(question, self.readings or texts)
