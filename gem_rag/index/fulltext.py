"""The words of chunks in SQLite's full-text search (FTS5): which chunks hold a query's, how well.

The table holds no text of its own (``content=''``), so that text stands once in the file. What it
was given has to be given again to take it out.
"""

import json
from collections.abc import Iterable, Sequence
from functools import cached_property
from pathlib import PurePath
from typing import NamedTuple

from gem_rag.index.bm25 import COLUMN_WEIGHTS, SATURATION, lacked, rarity
from gem_rag.index.connection import Connection
from gem_rag.index.sql import CompiledFilter
from gem_rag.index.words import JOINTS, RULES, words
from gem_rag.index.words import asked as asked_words

__all__ = ["COLUMNS", "RULES", "Asked", "FullText", "Worded"]

TOKENIZER = f"tokenize=\"porter ascii tokenchars '{JOINTS}'\""  # stems English words
_SCHEMA = f"CREATE VIRTUAL TABLE words USING fts5(text, heading, source, content='', {TOKENIZER})"


class Worded(NamedTuple):
    """What of a chunk can be searched by words; `COLUMNS` of the view `passages` make one."""

    row: int
    text: str
    heading: str | None
    source: str | None


class Asked(NamedTuple):
    """A query in FTS5's language, and the score of a chunk that its words fill."""

    terms: str
    most: float


COLUMNS = "row, coalesce(mended, coalesce(lead, '') || text), heading, source"


class FullText:
    """The words of an index.

    Args:
        connection: To the file they are in.
    """

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    @cached_property
    def is_available(self) -> bool:
        """Whether this Python's SQLite has full-text search."""
        [(enabled,)] = self._connection.run("SELECT sqlite_compileoption_used('ENABLE_FTS5')")
        return bool(enabled)

    def create(self) -> None:
        """Make the table anew, empty."""
        self._connection.run("DROP TABLE IF EXISTS words")
        self._connection.run(_SCHEMA)

    def insert(self, chunks: Iterable[Worded]) -> None:
        """Add chunks."""
        sql = "INSERT INTO words (rowid, text, heading, source) VALUES (?, ?, ?, ?)"
        self._connection.run_many(sql, map(_columns, chunks))

    def delete(self, chunks: Iterable[Worded]) -> None:
        """Take chunks out; each as it was added."""
        sql = (
            "INSERT INTO words (words, rowid, text, heading, source) VALUES ('delete', ?, ?, ?, ?)"
        )
        self._connection.run_many(sql, map(_columns, chunks))

    def asked(self, query: str) -> Asked | None:
        """A query as it is searched; None where it holds no word."""
        terms = [_quoted(word) for word in asked_words(query)]
        most = SATURATION * sum(self._rarities(terms))
        return Asked(" OR ".join(terms), most) if terms and most else None

    def search(
        self, query: Asked, k: int, where: CompiledFilter | None = None
    ) -> list[tuple[int, float]]:
        """The `k` best chunks: rows and scores (see `scores`), best first."""
        within = (
            "" if where is None else f"AND +rowid IN (SELECT row FROM passages WHERE {where.sql})"
        )
        parameters = {} if where is None else where.parameters
        return self._run(query, f"{within} ORDER BY rank, rowid LIMIT :k", {**parameters, "k": k})

    def scores(self, query: Asked, rows: Iterable[int]) -> dict[int, float]:
        """How well the query's words stand in chunks, 0 to 1; those that hold none are left out.

        BM25 over what it would be if all of the query's words filled the chunk: comparable across
        queries.
        """
        within = "AND +rowid IN (SELECT value FROM json_each(:rows))"
        return dict(self._run(query, within, {"rows": json.dumps(list(rows))}))

    def covered(self, query: str, rows: Iterable[int]) -> dict[int, float]:
        """Which part of a query's words stands in each of these chunks, 0 to 1.

        A word counts by its rarity, and once, however often it stands there. Empty where the query
        holds no word.
        """
        wanted = json.dumps(within := list(rows))
        [(count,)] = self._connection.run("SELECT count(*) FROM chunks")
        held, most = dict.fromkeys(within, 0.0), 0.0
        for word in asked_words(query):
            sql = (
                "SELECT count(*), group_concat(CASE WHEN rowid IN "
                "(SELECT value FROM json_each(:rows)) THEN rowid END) "
                "FROM words WHERE words MATCH :word"
            )
            [(holding, among)] = self._connection.run(sql, {"rows": wanted, "word": _quoted(word)})
            weight = lacked(count, holding)
            most += weight
            for row in among.split(",") if among else ():
                held[int(row)] += weight
        return {row: weight / most for row, weight in held.items()} if most else {}

    def _run(
        self, query: Asked, rest: str, parameters: dict[str, object]
    ) -> list[tuple[int, float]]:
        sql = f"SELECT rowid, -rank FROM words WHERE words MATCH :terms AND rank MATCH :by {rest}"
        by = f"bm25({', '.join(map(str, COLUMN_WEIGHTS))})"
        found = self._connection.run(sql, {**parameters, "terms": query.terms, "by": by})
        return [(row, score / query.most) for row, score in found]

    def _rarities(self, terms: Sequence[str]) -> list[float]:
        """Of each word, its inverse document frequency as SQLite's BM25 has it."""
        [(count,)] = self._connection.run("SELECT count(*) FROM chunks")
        rarities = []
        for term in terms:
            sql = "SELECT count(*) FROM words WHERE words MATCH ?"
            [(holding,)] = self._connection.run(sql, (term,))
            rarities.append(rarity(count, holding))
        return rarities


def columns_of(chunk: Worded) -> tuple[list[str], list[str], list[str]]:
    """The words of a chunk's text, of its headings, and of its source's name."""
    name = PurePath(chunk.source or "").name  # the folders are mostly the same for all
    return words(chunk.text), words(chunk.heading or ""), words(name)


def _columns(chunk: Worded) -> tuple[int, str, str, str]:
    text, heading, name = (" ".join(column) for column in columns_of(chunk))
    return chunk.row, text, heading, name


def _quoted(word: str) -> str:
    """A word as FTS5's query language has it: data, whatever it holds."""
    prefix = "*" if word.endswith("*") else ""
    return f'"{word.removesuffix("*")}"{prefix}'
