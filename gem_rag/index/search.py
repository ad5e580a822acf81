"""Searching: by vectors, by words, by both, within one moment's state."""

import operator
import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np

from gem_rag.errors import GemIndexError
from gem_rag.index.ann import diverse
from gem_rag.index.database import Database, StoredChunk, Vectors
from gem_rag.index.filters import Where
from gem_rag.index.follower import Follower
from gem_rag.index.fulltext import FullText
from gem_rag.index.fusion import COSINE_SHARE, fused
from gem_rag.index.identity import Identity
from gem_rag.index.records import Hit, chunk_fields
from gem_rag.index.sql import CompiledFilter, compile_filter

Mode = Literal["hybrid", "vector", "words"]
DEPTH = 50  # how many of each search's best are put together at least


@dataclass(frozen=True)
class Query:
    """What is searched for: see `GemIndex.search`.

    Attributes:
        vectors: float32 [m, dim]; None searches by words alone.
        texts: m texts; None searches by vectors alone.
        mode: How; None is what is given.
        where: A filter.
        min_score: Least cosine.
        fingerprint: Of the model that made the vectors.
        distinct: Whether equal texts count once.
        alpha: The cosine's share in hybrid searches, 0 to 1.

    Raises:
        GemIndexError: The mode is unknown, or needs what was not given.
    """

    vectors: Vectors | None = None
    texts: Sequence[str] | None = None
    mode: Mode | None = None
    where: Where | None = None
    min_score: float | None = None
    fingerprint: str | None = None
    distinct: bool = False
    alpha: float | None = None

    def __post_init__(self) -> None:
        given = {"a vector": self.vectors is not None, "a text": self.texts is not None}
        needed = {"hybrid": ["a vector", "a text"], "vector": ["a vector"], "words": ["a text"]}
        if self.mode is not None and self.mode not in needed:
            raise GemIndexError(f"mode is {self.mode!r}; expected one of {', '.join(needed)}")
        if not any(given.values()):
            raise GemIndexError("a search takes a vector, a text, or both; got neither")
        missing = [name for name in needed.get(self.mode or "", []) if not given[name]]
        if missing:
            raise GemIndexError(f"a search of mode {self.mode!r} needs {missing[0]} too")
        if self.texts is not None:
            _check_texts(self.texts)
        if self.min_score is not None and self.vectors is None:
            raise GemIndexError("min_score is a least cosine, which needs a vector: give one")
        if self.alpha is not None and not 0 <= self.alpha <= 1:
            raise GemIndexError(f"alpha is {self.alpha}; expected 0 (words) to 1 (vectors)")
        counts = {len(x) for x in (self.vectors, self.texts) if x is not None}
        if len(counts) > 1:
            raise GemIndexError(
                f"got {self.count} vectors and {len(self.texts or ())} texts; expected as many"
            )

    @property
    def count(self) -> int:
        """How many searches these are."""
        return len(self.texts or ()) if self.vectors is None else len(self.vectors)

    @property
    def by_vectors(self) -> bool:
        """Whether vectors find."""
        return self.vectors is not None and self.mode != "words"

    @property
    def by_words(self) -> bool:
        """Whether words find."""
        return self.texts is not None and self.mode != "vector"


class Scored(NamedTuple):
    """A row that was found, what it is ordered by, and what by it was found."""

    row: int
    order: float
    cosine: float | None = None
    word: float | None = None
    fused: float | None = None


class Search:
    """Finds chunks in a database by its vectors in memory and its words.

    Args:
        database: The chunks.
        identity: Whose vectors they are.
        follower: Their copy in memory.
    """

    def __init__(self, database: Database, identity: Identity, follower: Follower) -> None:
        self._database = database
        self._identity = identity
        self._follower = follower
        self._warned = False

    def find(self, query: Query, k: int) -> list[list[Hit]]:
        """For each of the query's searches its `k` best chunks, best first.

        Raises:
            GemIndexError: `k` is below 1, the vectors are another model's, or the filter is wrong.
        """
        condition = compile_filter(query.where)
        wanted = checked_count(k)
        with self._database.snapshot():
            if query.distinct:
                found = self._distinct(query, wanted, condition)
            else:
                found = self._scored(query, wanted, condition)
            return self._hits(query, found, condition)

    def diverse(self, query: Query, k: int, fetch_k: int | None, lambda_mult: float) -> list[Hit]:
        """For one search: see `GemIndex.mmr`."""
        if not 0 <= lambda_mult <= 1:
            raise GemIndexError(f"lambda_mult is {lambda_mult}; expected 0 (diverse) to 1 (near)")
        k = checked_count(k)
        wanted = max(checked_count(fetch_k, "fetch_k") if fetch_k else 4 * k, k)
        condition = compile_filter(query.where)
        with self._database.snapshot():
            search = self._distinct if query.distinct else self._scored
            [line] = search(query, wanted, condition)
            if not line:
                return []
            scores = np.array([scored.order for scored in line], dtype=np.float32)
            chosen = diverse(scores, self._vectors_of(line), k, lambda_mult)
            return self._hits(query, [[line[i] for i in chosen]], condition)[0]

    def _distinct(
        self, query: Query, k: int, condition: CompiledFilter | None
    ) -> list[list[Scored]]:
        """For each search its `k` best rows of different texts, best first."""
        wanted = k
        while True:
            found = self._scored(query, wanted, condition)
            firsts = [self._first_of_equals(line) for line in found]
            # Copies took places of others: look deeper, until there are enough or no more.
            if all(
                len(first) >= k or len(line) < wanted
                for first, line in zip(firsts, found, strict=True)
            ):
                return [first[:k] for first in firsts]
            wanted *= 2

    def _scored(self, query: Query, n: int, condition: CompiledFilter | None) -> list[list[Scored]]:
        """For each search its `n` best rows, best first."""
        if query.vectors is not None:
            self._identity.check_fingerprint(query.fingerprint)
            self._identity.check_dim(query.vectors.shape[1])
        full_text = self._words_for(query)
        if full_text is None:
            return self._nearest(query, n, condition)
        if query.by_vectors:
            depth = max(n, DEPTH)
        else:  # who is far from the vector is left out: any may have to be looked at
            depth = n if query.min_score is None else self._database.count(condition)
        near = self._nearest(query, depth, condition) if query.by_vectors else None
        lines = []
        for i, text in enumerate(query.texts or ()):
            asked = full_text.asked(text)
            worded = dict(full_text.search(asked, depth, condition)) if asked else {}
            cosines = {} if near is None else {s.row: s.cosine for s in near[i]}
            if asked and near is not None:
                worded |= full_text.scores(asked, cosines.keys() - worded.keys())
            cosines |= self._cosines(query, i, worded.keys() - cosines.keys())
            lines.append(ordered(cosines, worded, query)[:n])
        return lines

    def _words_for(self, query: Query) -> FullText | None:
        """The full text if it is asked for and there is one; otherwise vectors have to do."""
        if not query.by_words:
            return None
        full_text = self._database.full_text
        if full_text is None:
            why = self._database.why_no_words
            if query.vectors is None:
                raise GemIndexError(f"the index cannot be searched by words: {why}")
            if not self._warned:
                self._warned = True
                warnings.warn(f"the index is searched by vectors alone: {why}", stacklevel=2)
        return full_text

    def _nearest(
        self, query: Query, n: int, condition: CompiledFilter | None
    ) -> list[list[Scored]]:
        """For each search the `n` rows whose vectors are nearest."""
        assert query.vectors is not None
        dim = self._identity.dim
        if dim is None:
            return [[] for _ in query.vectors]
        among = None if condition is None else self._database.rows_where(condition)
        scores, rows = self._follower.fresh(dim).search(query.vectors, n, among)
        return [
            [
                Scored(row, score, cosine=score)
                for row, score in zip(line_rows, line_scores, strict=True)
                if query.min_score is None or score >= query.min_score
            ]
            for line_rows, line_scores in zip(rows.tolist(), scores.tolist(), strict=True)
        ]

    def _cosines(self, query: Query, which: int, rows: Iterable[int]) -> dict[int, float]:
        """Cosines of rows that words found with one search's vector, where both are there."""
        dim = self._identity.dim
        if query.vectors is None or dim is None:
            return {}
        found = self._database.vectors(rows, dim)
        return {row: float(vector @ query.vectors[which]) for row, vector in found.items()}

    def _vectors_of(self, line: Sequence[Scored]) -> Vectors:
        """The rows' vectors, float32 [n, dim]; zeros for those that have none."""
        dim = self._identity.dim or 1
        found = self._database.vectors((scored.row for scored in line), dim)
        none = np.zeros(dim, dtype=np.float32)
        return np.stack([found.get(scored.row, none) for scored in line])

    def _stored(self, line: Sequence[Scored]) -> list[tuple[Scored, StoredChunk]]:
        chunks = self._database.chunks_by_row(scored.row for scored in line)
        return [(scored, chunks[scored.row]) for scored in line]

    def _first_of_equals(self, line: Sequence[Scored]) -> list[Scored]:
        firsts: dict[str, Scored] = {}
        for scored, chunk in self._stored(line):
            firsts.setdefault(chunk.text, scored)
        return list(firsts.values())

    def _hits(
        self, query: Query, found: Sequence[Sequence[Scored]], condition: CompiledFilter | None
    ) -> list[list[Hit]]:
        stored = [self._stored(line) for line in found]
        covered = self._covered(query, found)
        if not query.distinct:
            return [
                [hit_of(scored, chunk, held) for scored, chunk in line]
                for line, held in zip(stored, covered, strict=True)
            ]
        texts = (chunk.text for line in stored for _, chunk in line)
        sources = self._database.sources_of(texts, condition)
        return [
            [hit_of(scored, chunk, held, sources[chunk.text]) for scored, chunk in line]
            for line, held in zip(stored, covered, strict=True)
        ]

    def _covered(self, query: Query, found: Sequence[Sequence[Scored]]) -> list[dict[int, float]]:
        """Of each search's rows, which part of its text's words stands in them."""
        full_text = self._database.full_text
        if query.texts is None or full_text is None:
            return [{} for _ in found]
        return [
            full_text.covered(text, (scored.row for scored in line)) if line else {}
            for text, line in zip(query.texts, found, strict=True)
        ]


def ordered(
    cosines: Mapping[int, float | None], worded: Mapping[int, float], query: Query
) -> list[Scored]:
    """Rows that were found, best first; equal ones in the order they were added."""
    rows = sorted({*cosines, *worded} if query.by_vectors else worded)
    near = np.array([cosines.get(row, np.nan) for row in rows], dtype=np.float64)
    words = np.array([worded.get(row, 0.0) for row in rows], dtype=np.float64)
    share = COSINE_SHARE if query.alpha is None else query.alpha
    scores = fused(near, words, share) if query.by_vectors else words
    return [
        Scored(
            rows[i],
            float(scores[i]),
            cosines.get(rows[i]),
            float(words[i]),
            float(scores[i]) if query.by_vectors else None,
        )
        for i in np.argsort(-scores, kind="stable")
        if query.min_score is None or near[i] >= query.min_score
    ]


def hit_of(
    scored: Scored,
    chunk: StoredChunk,
    covered: Mapping[int, float],
    sources: Sequence[str] | None = None,
) -> Hit:
    """A chunk that was found, as a search returns it.

    Args:
        scored: Its scores.
        chunk: What is stored of it.
        covered: By row, which part of the query's words stands in it.
        sources: Of all chunks of its text; None is its own.
    """
    if sources is None:
        sources = () if chunk.source is None else (chunk.source,)
    return Hit(
        **chunk_fields(chunk),
        score=scored.cosine,
        word_score=scored.word,
        fused_score=scored.fused,
        covered=covered.get(scored.row),
        sources=tuple(sources),
    )


def _check_texts(texts: Sequence[str]) -> None:
    if isinstance(texts, str):
        raise GemIndexError("texts is one string; expected a list of texts")
    for text in texts:
        if not isinstance(text, str):
            raise GemIndexError(f"a text to search for is {text!r}; expected a string")


def checked_count(k: int, name: str = "k") -> int:
    """A number of chunks, 1 or more; numpy's whole numbers are numbers too."""
    try:
        wanted = operator.index(k)
    except TypeError:
        raise GemIndexError(f"{name} is {k!r}; expected a whole number") from None
    if wanted < 1:
        raise GemIndexError(f"{name} is {wanted}; expected 1 or more")
    return wanted
