"""The words of chunks and queries as terms with weights: what sparse vectors are made of.

Words are split as everywhere in the index (`gem_rag.index.words`) and stemmed by SQLite's own
stemmer, so that all stores find the same words. A chunk's weights are BM25's without the words'
rarity, which changes with every chunk and is put into the query.
"""

import hashlib
import sqlite3
from collections.abc import Iterable, Mapping, Sequence
from functools import cache, lru_cache
from threading import Lock
from typing import NamedTuple

from gem_rag.index.bm25 import COLUMN_WEIGHTS, SATURATION, lacked, rarity, saturated
from gem_rag.index.database import StoredChunk
from gem_rag.index.fulltext import TOKENIZER, Worded, columns_of
from gem_rag.index.words import asked, is_unspaced

AVERAGE_WORDS = 200  # of a chunk as the store weighs it; parts of words are words too
_REMEMBERED = 1 << 18  # stems: few different words make up most of any text


class Stemmer:
    """Words to what they are searched by, as SQLite's full-text search makes it of them."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._known: dict[str, str] = {}
        self._connection = sqlite3.connect(":memory:", check_same_thread=False)
        try:
            create = f"CREATE VIRTUAL TABLE words USING fts5(text, content='', {TOKENIZER})"
            self._connection.execute(create)
            self._connection.execute("CREATE VIRTUAL TABLE stems USING fts5vocab(words, instance)")
            self._can = True
        except sqlite3.OperationalError:  # no full-text search: words are found as they stand
            self._can = False

    def __call__(self, words: Iterable[str]) -> list[str]:
        """The stems of words, in their order."""
        given = list(words)
        with self._lock:
            if len(self._known) > _REMEMBERED:
                self._known.clear()
            new = [word for word in dict.fromkeys(given) if word not in self._known]
            self._known |= dict.fromkeys(new, "") | self._stemmed(new)
            return [self._known[word] or word for word in given]

    def _stemmed(self, words: Sequence[str]) -> dict[str, str]:
        if not (self._can and words):
            return {}
        run = self._connection.execute
        self._connection.executemany(
            "INSERT INTO words (rowid, text) VALUES (?, ?)", enumerate(words)
        )
        found = run("SELECT doc, term FROM stems ORDER BY doc, offset DESC").fetchall()
        run("INSERT INTO words (words) VALUES ('delete-all')")
        return {words[row]: term for row, term in found}


@cache
def stemmer() -> Stemmer:
    """The one of this process."""
    return Stemmer()


class Held(NamedTuple):
    """The terms that a chunk holds.

    Attributes:
        times: Of each, how often it stands there; in the headings it counts more.
        length: Words of the chunk.
    """

    times: Mapping[str, float]
    length: int


def held_by(chunk: StoredChunk) -> Held:
    """A chunk's terms."""
    return _held(chunk.read, chunk.heading, chunk.source)


@lru_cache(maxsize=4096)  # the same chunks are found again and again
def _held(read: str, heading: str | None, source: str | None) -> Held:
    columns = columns_of(Worded(0, read, heading, source))
    times: dict[str, float] = {}
    for weight, words in zip(COLUMN_WEIGHTS, columns, strict=True):
        for stem in stemmer()(_with_beginnings(words)):
            times[stem] = times.get(stem, 0.0) + weight
    return Held(times, sum(len(words) for words in columns))


def weights_of(chunk: StoredChunk) -> dict[int, float]:
    """A chunk's sparse vector: its terms' numbers, and 0 to `SATURATION` for each."""
    times, length = held_by(chunk)
    return {term_number(t): saturated(n, length, AVERAGE_WORDS) for t, n in times.items()}


def _with_beginnings(words: Sequence[str]) -> list[str]:
    """Pairs of characters are asked for by the first alone, too, as ``*`` after it says."""
    return [*words, *(f"{word[0]}*" for word in words if is_unspaced(word))]


def asked_terms(query: str) -> list[str]:
    """The different terms of a query."""
    return list(dict.fromkeys(stemmer()(asked(query))))


def term_number(term: str) -> int:
    """A term as the index of a sparse vector: 1 to 2^32 - 2."""
    hashed = int.from_bytes(hashlib.blake2b(term.encode(), digest_size=4).digest(), "big")
    return 1 + hashed % (2**32 - 2)


class Wanted:
    """The terms of a query, and how well chunks answer to them.

    Args:
        terms: The query's.
        holding: Of each, how many chunks hold it.
        count: How many chunks there are.
        average: Words of a chunk of usual length.
    """

    def __init__(
        self, terms: Sequence[str], holding: Sequence[int], count: int, average: float
    ) -> None:
        self._average = average
        self._rarities = {t: rarity(count, n) for t, n in zip(terms, holding, strict=True)}
        self._weights = {t: lacked(count, n) for t, n in zip(terms, holding, strict=True)}

    def score(self, held: Held) -> float:
        """BM25 over what it would be if the words filled the chunk, 0 to 1."""
        times, length = held
        most = SATURATION * sum(self._rarities.values())
        found = sum(
            weight * saturated(times[term], length, self._average)
            for term, weight in self._rarities.items()
            if term in times
        )
        return found / most if most else 0.0

    def covered(self, held: Held) -> float:
        """Which part of the query's words stands in a chunk, 0 to 1."""
        most = sum(self._weights.values())
        found = sum(weight for term, weight in self._weights.items() if term in held.times)
        return found / most if most else 0.0
