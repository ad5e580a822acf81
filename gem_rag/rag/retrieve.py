"""Candidates -> rank -> threshold -> cut: the one place where passages are chosen."""

from __future__ import annotations

import time
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Generic, Protocol, TypeVar

from gem_rag.compute.ranker import Ranked
from gem_rag.compute.reading import Reading
from gem_rag.config import RelevanceWeights
from gem_rag.engine.work import one_request
from gem_rag.errors import ContextLengthError, GemError
from gem_rag.index.filters import Where
from gem_rag.index.protocol import Index
from gem_rag.index.records import Hit
from gem_rag.index.search import Mode
from gem_rag.model import GemModel
from gem_rag.rag.citation import Citation
from gem_rag.rag.relevance import MOST_EXPLAINED, confidence, explained, known_before
from gem_rag.store import ReadingStore

CANDIDATES = 16  # how many the index finds for the model to rank, where nobody says otherwise
RANKED_AT_ONCE = 4  # after so many it is seen whether the others can still be better
NEAREST = 3  # how many passages are offered where none answers
T = TypeVar("T")


class Rank(Protocol):
    """`GemModel.rank` of texts, or a `ReadingStore`'s."""

    def __call__(
        self, query: str, texts: Sequence[str], /, *, floor: float | None = None
    ) -> list[Ranked]:
        """One `Ranked` per text, best first."""
        ...


@dataclass(frozen=True)
class Candidate(Generic[T]):
    """What a search found.

    Attributes:
        item: The thing.
        text: The words it is ranked by.
        score: Its cosine with the question; None where that is not known.
        word_score: How well the question's words stand in it, 0 to 1; None likewise.
    """

    item: T
    text: str
    score: float | None = None
    word_score: float | None = None


@dataclass(frozen=True)
class Chosen(Generic[T]):
    """A candidate that was chosen.

    Attributes:
        item: The thing.
        index: Its place among the candidates.
        score: Cosine; None where that is not known.
        rank_score: What ranking makes of it (`gem_rag.rag.relevance`); None where nothing was
            ranked.
        explained: The part of the question's surprise that it explains, at most 1; None likewise.
    """

    item: T
    index: int
    score: float | None
    rank_score: float | None = None
    explained: float | None = None


@dataclass(frozen=True)
class Choice:
    """How candidates become the passages that are used.

    Attributes:
        k: How many at most; None is all candidates.
        rank: Ranks them; None keeps the search's order.
        candidates: How many a search should find to be ranked.
        least_score: Least cosine.
        least_rank: Least rank score, of what is ranked.
        weights: What words and cosine count for beside likelihood, see `gem_rag.rag.relevance`;
            None ranks by likelihood alone, in nats per token above an empty passage.
        must_rank: A question so long that no passage fits beside it is an error, as it is where the
            passages are to be answered from; else it leaves the search's order.
    """

    k: int | None = None
    rank: Rank | None = None
    candidates: int = CANDIDATES
    least_score: float | None = None
    least_rank: float | None = None
    weights: RelevanceWeights | None = None
    must_rank: bool = False

    @property
    def wanted(self) -> int:
        """How many a search should find."""
        if self.rank is None:
            return self.candidates if self.k is None else self.k
        return max(self.candidates, self.k or 0)

    def best(self, question: str, found: Sequence[Candidate[T]]) -> list[Chosen[T]]:
        """The passages to use, best first.

        Where the question has no words to rank by, the search's order stays.

        Raises:
            ContextLengthError: See `must_rank`.
        """
        return self.ordered(question, found)[: self.k]

    @one_request()
    def ordered(self, question: str, found: Sequence[Candidate[T]]) -> list[Chosen[T]]:
        """`best`, and after them in their order all others that were ranked on the way."""
        near = [
            Chosen(candidate.item, index, candidate.score)
            for index, candidate in enumerate(found)
            if self.least_score is None or (candidate.score or 0.0) >= self.least_score
        ]
        if self.rank is None or not near or not question.strip():
            return near
        try:
            ranked = self._ranked(self.rank, question, found, near)
        except ContextLengthError as error:
            if self.must_rank:
                raise
            warnings.warn(f"passages are not ranked: {error}", stacklevel=2)
            return near
        least = self.least_rank
        return [c for c in ranked if least is None or (c.rank_score or 0.0) >= least]

    def _ranked(
        self,
        rank: Rank,
        question: str,
        found: Sequence[Candidate[T]],
        near: Sequence[Chosen[T]],
    ) -> list[Chosen[T]]:
        """Ranked, best first; those that cannot come among the `k` best are left out."""
        weights = self.weights
        if weights is None:
            places = rank(question, [found[c.index].text for c in near])
            return [
                replace(near[p.index], rank_score=p.score, explained=explained(p)) for p in places
            ]
        known = {c.index: known_before(c.score, found[c.index].word_score, weights) for c in near}
        order = sorted(near, key=lambda c: -known[c.index])
        ranked: list[Chosen[T]] = []
        floor: float | None = None
        while order and not self._settled(ranked, known[order[0].index]):
            batch, order = order[:RANKED_AT_ONCE], order[RANKED_AT_ONCE:]
            for place in rank(question, [found[c.index].text for c in batch], floor=floor):
                floor, chosen, share = place.floor, batch[place.index], explained(place)
                score = share + known[chosen.index]
                ranked.append(replace(chosen, rank_score=score, explained=share))
            ranked.sort(key=lambda c: -(c.rank_score or 0.0))
        return ranked

    def _settled(self, ranked: Sequence[Chosen[T]], known: float) -> bool:
        """Whether the `k` best stay, whatever the likelihood of those that are left."""
        if self.k is None or len(ranked) < self.k:
            return False
        return (ranked[self.k - 1].rank_score or 0.0) >= known + MOST_EXPLAINED


@dataclass
class Found:
    """What was found for a question.

    Attributes:
        citations: Best first.
        readings: Of the citations' passages, where they were ranked from readings.
        texts: What was read of the citations' passages.
        started: When the search began (`time.perf_counter`).
        timings: Seconds: ``retrieve`` and ``rank``.
        nearest: At most `NEAREST` passages that can be offered in an answer's stead, best first of
            those that were ranked.
        empty: Whether the index holds no documents at all.
    """

    citations: list[Citation]
    readings: list[Reading]
    texts: list[str]
    started: float
    timings: dict[str, float] = field(default_factory=dict)
    nearest: list[Citation] = field(default_factory=list)
    empty: bool = False


class Retriever:
    """Finds passages in an index with the model that made its vectors, and by words.

    Args:
        model: Embeds the question, if it has learned to, and ranks.
        index: Where the passages are.
        store: Kept readings, from which they are ranked.
    """

    def __init__(self, model: GemModel, index: Index, store: ReadingStore) -> None:
        self._model = model
        self._index = index
        self._store = store

    @one_request()
    def find(
        self,
        question: str,
        *,
        k: int | None,
        candidates: int,
        rank: bool,
        mode: Mode = "hybrid",
        where: Where | None = None,
        searched: str | None = None,
    ) -> Found:
        """The best passages for a question.

        Args:
            question: What is asked, and passages are ranked by.
            k: How many at most; None is all candidates.
            candidates: How many are ranked.
            rank: Whether they are.
            mode: What finds candidates: vectors, words, or both.
            where: Filter.
            searched: What candidates are searched by, where that says more; None is the question.

        Raises:
            GemError: The question is empty.
        """
        if not question.strip():
            raise GemError("the question is empty; expected words")
        started = time.perf_counter()
        if not self._index.count():
            return Found([], [], [], started, {"retrieve": 0.0, "rank": 0.0}, empty=True)
        kept = _KeptRank(self._model, self._store)
        weights = self._model.config.relevance
        choice = Choice(k, kept if rank else None, candidates, weights=weights, must_rank=True)
        hits = self.search(searched or question, choice.wanted, mode, where)
        found = time.perf_counter()
        ordered: list[Chosen[Hit]] = choice.ordered(
            question, [Candidate(h, h.words, h.score, h.word_score) for h in hits]
        )
        chosen = ordered[:k]
        timings = {"retrieve": found - started, "rank": 0.0}
        if rank and hits:
            timings["rank"] = time.perf_counter() - found
        return Found(
            citations=[self._cited(c) for c in chosen],
            readings=[kept.readings[c.item.words] for c in chosen] if kept.readings else [],
            texts=[c.item.words for c in chosen],
            started=started,
            timings=timings,
            nearest=[self._cited(c) for c in ordered[:NEAREST]],
        )

    def _cited(self, chosen: Chosen[Hit]) -> Citation:
        """A chosen passage, and how likely it answers."""
        hit, weights = chosen.item, self._model.config.answerable
        share = chosen.explained
        likely = None if share is None else confidence(share, hit.covered, hit.score, weights)
        return Citation.of(hit, chosen.rank_score, likely)

    def search(self, question: str, k: int, mode: Mode, where: Where | None) -> list[Hit]:
        """What the index finds, equal texts once; without vectors, where the model makes none."""
        if mode == "hybrid" and not self._model.embeds:
            mode = "words"
        return self._index.search(
            None if mode == "words" else self._model.embed_query(question),
            k,
            text=question,
            mode=mode,
            where=where,
            fingerprint=None if mode == "words" else self._model.fingerprint,
            distinct=True,
        )


class _KeptRank:
    """Ranks from readings where the model's scope allows it, and keeps them for the answer."""

    def __init__(self, model: GemModel, store: ReadingStore) -> None:
        self._model = model
        self._store = store
        self.readings: dict[str, Reading] = {}

    def __call__(
        self, question: str, texts: Sequence[str], /, *, floor: float | None = None
    ) -> list[Ranked]:
        if not self._model.shares_readings:
            return self._model.rank(question, texts, floor=floor)
        readings = self._store.read(texts)
        self.readings |= zip(texts, readings, strict=True)
        return self._model.rank(question, readings, floor=floor)
