"""Searching a store: by its vectors, by words, by both.

The store finds; what it found is scored here, from what stands in it, so that scores are comparable
whichever store it was.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from gem_rag.index.backends.reading import View
from gem_rag.index.backends.store import EVERYTHING, Among, And, Condition, Point
from gem_rag.index.backends.terms import Wanted, asked_terms, held_by
from gem_rag.index.identity import Identity
from gem_rag.index.records import Hit
from gem_rag.index.schema import digest_of
from gem_rag.index.search import DEPTH, Query, Scored, checked_count, hit_of, ordered

_SAMPLE = 64  # chunks that are looked at to know how long they are


class StoreSearch:
    """Finds chunks in a store.

    Args:
        view: The chunks.
        identity: Whose vectors they have.
    """

    def __init__(self, view: View, identity: Identity) -> None:
        self._view = view
        self._identity = identity
        self._sampled = (0, 1.0)  # of how many chunks, and the words of a usual one

    def find(self, query: Query, k: int) -> list[Hit]:
        """The `k` best chunks for one search, best first.

        Raises:
            GemIndexError: `k` is below 1, the vectors are another model's, or the filter is wrong.
        """
        wanted = checked_count(k)
        if query.vectors is not None:
            self._identity.check_fingerprint(query.fingerprint)
            self._identity.check_dim(query.vectors.shape[1])
        where = self._view.where(query.where)
        looked_for = wanted
        while True:
            found = _Found(self._view, query, where, self._identity.dim, self._average)
            line = found.best(looked_for)
            chosen = found.first_of_equals(line) if query.distinct else line
            # Copies took places of others: look deeper, until there are enough or no more.
            if len(chosen) >= wanted or len(line) < looked_for:
                return self._hits(query, where, found, chosen[:wanted])
            looked_for *= 2

    def _average(self, count: int) -> float:
        """Words of a chunk of usual length, of `count`; looked at anew when there are many more."""
        sampled, average = self._sampled
        if count != sampled and not _SAMPLE < count < 2 * sampled:
            lengths = [
                held_by(p.chunk).length for p in self._view.chunks.scroll(EVERYTHING, limit=_SAMPLE)
            ]
            average = sum(lengths) / len(lengths) if lengths else 1.0
            self._sampled = (count, average)
        return average

    def _hits(
        self, query: Query, where: Condition, found: "_Found", line: Sequence[Scored]
    ) -> list[Hit]:
        covered = found.covered
        if not query.distinct:
            return [hit_of(s, found.points[s.row].chunk, covered) for s in line]
        chunks = [found.points[scored.row].chunk for scored in line]
        sources = self._sources_of([chunk.text for chunk in chunks], where)
        return [
            hit_of(scored, chunk, covered, _own_first(chunk.source, sources[chunk.text]))
            for scored, chunk in zip(line, chunks, strict=True)
        ]

    def _sources_of(self, texts: Sequence[str], where: Condition) -> dict[str, set[str]]:
        """Of each text the sources of the matching chunks that hold it."""
        sources: dict[str, set[str]] = {text: set() for text in texts}
        if texts:
            same = Among("digest", tuple(str(digest_of(text)) for text in sources))
            among = same if where == EVERYTHING else And((same, where))
            for chunk in (point.chunk for point in self._view.chunks.scroll(among)):
                if chunk.text in sources and chunk.source is not None:
                    sources[chunk.text].add(chunk.source)
        return sources


class _Found:
    """What a store found for one search; a row is a place in `points`."""

    def __init__(
        self,
        view: View,
        query: Query,
        where: Condition,
        dim: int | None,
        average: Callable[[int], float],
    ) -> None:
        self._chunks = view.chunks
        self._query = query
        self._where = where
        self._has_vectors = dim is not None
        self._vector: Any = None if query.vectors is None else query.vectors[0]
        self.points: list[Point] = []
        self.covered: Mapping[int, float] = {}
        self._rows: dict[str, int] = {}
        self._average = average
        self._wanted = Wanted([], [], 0, 1.0)

    def best(self, n: int) -> list[Scored]:
        """The n best, best first."""
        query = self._query
        if not query.by_words:
            near = self._near(n)
            self._cover()
            least = query.min_score
            scored = [Scored(row, cosine, cosine) for row, cosine in near.items()]
            return [s for s in scored if least is None or s.order >= least]
        depth = max(n, DEPTH)  # the store's own order of words is a rough one
        if not query.by_vectors and query.min_score is not None:
            depth = self._chunks.count(self._where)  # who is far from the vector is left out
        near = self._near(depth) if query.by_vectors else {}
        cosines: dict[int, float | None] = dict(near)
        return ordered(cosines | self._worded(depth, cosines), self._scores(), query)[:n]

    def _near(self, n: int) -> dict[int, float]:
        if not self._has_vectors:
            return {}
        found = self._chunks.nearest(self._vector, n, self._where)
        return {self._row(point): cosine for point, cosine in found}

    def _worded(self, n: int, known: Mapping[int, float | None]) -> dict[int, float | None]:
        """What words find; cosines of those that the vector did not find."""
        has_vector = self._vector is not None and self._has_vectors
        found = self._ask(n, vectors=has_vector)
        cosines: dict[int, float | None] = {}
        for point in found:
            row = self._row(point)
            if row not in known and has_vector and point.vector is not None:
                cosines[row] = float(np.asarray(point.vector) @ self._vector)
        return cosines

    def _ask(self, n: int, *, vectors: bool) -> list[Point]:
        """The words' chunks; what the words weigh is known from then on."""
        [text] = self._query.texts or [""]
        terms = asked_terms(text)
        if not terms or not n:
            return []
        found, holding = self._chunks.worded(terms, n, self._where, vectors=vectors)
        count = self._chunks.count(EVERYTHING)
        self._wanted = Wanted(terms, holding, count, self._average(count))
        return found

    def _scores(self) -> dict[int, float]:
        """Word scores of all that was found, above 0."""
        held = [held_by(point.chunk) for point in self.points]
        self.covered = {row: self._wanted.covered(each) for row, each in enumerate(held)}
        scores = {row: self._wanted.score(each) for row, each in enumerate(held)}
        return {row: score for row, score in scores.items() if score > 0}

    def _cover(self) -> None:
        """A search by vectors alone that has a text tells how much of it stands in the chunks."""
        if self._query.texts is not None and self.points:
            self._ask(1, vectors=False)
            self._scores()

    def _row(self, point: Point) -> int:
        if point.chunk.id not in self._rows:
            self._rows[point.chunk.id] = len(self.points)
            self.points.append(point)
        return self._rows[point.chunk.id]

    def first_of_equals(self, line: Sequence[Scored]) -> list[Scored]:
        """Of chunks of one text the best."""
        firsts: dict[str, Scored] = {}
        for scored in line:
            firsts.setdefault(self.points[scored.row].chunk.text, scored)
        return list(firsts.values())


def _own_first(own: str | None, sources: set[str]) -> list[str]:
    return sorted(sources, key=lambda source: (source != own, source))
