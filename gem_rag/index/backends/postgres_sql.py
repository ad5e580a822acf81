"""What `PostgresIndex` says in SQL: its tables, its filters, its full-text search."""

from collections.abc import Mapping, Sequence
from typing import Any

from gem_rag.index.backends.store import (
    Among,
    And,
    Condition,
    HasId,
    Negated,
    Number,
    Or,
    Part,
    Tokens,
)

ENTRIES = """
CREATE TABLE IF NOT EXISTS {table} (
    kind text NOT NULL,
    name text NOT NULL,
    hash text NOT NULL,
    torn boolean NOT NULL,
    body text NOT NULL,
    PRIMARY KEY (kind, name)
);
CREATE INDEX IF NOT EXISTS {by_hash} ON {table} (hash)
"""
CHUNKS = """
CREATE TABLE IF NOT EXISTS {table} (
    id text PRIMARY KEY,
    metadata text NOT NULL,
    text text NOT NULL,
    source text,
    start integer,
    stop integer,
    heading text,
    page bigint,
    lead text,
    mended text,
    revision text NOT NULL,
    digest text NOT NULL,
    tokens text[] NOT NULL,
    numbers jsonb NOT NULL,
    words tsvector NOT NULL,
    vector vector{length}
);
CREATE INDEX IF NOT EXISTS {by_source} ON {table} (source);
CREATE INDEX IF NOT EXISTS {by_revision} ON {table} (revision);
CREATE INDEX IF NOT EXISTS {by_digest} ON {table} (digest);
CREATE INDEX IF NOT EXISTS {by_tokens} ON {table} USING gin (tokens);
CREATE INDEX IF NOT EXISTS {by_words} ON {table} USING gin (words)
"""
_SYMBOLS = {"$gt": ">", "$gte": ">=", "$lt": "<", "$lte": "<="}
_MOST_POSITIONS = 255  # of a lexeme, as PostgreSQL has it


def table_name(name: str) -> str:
    """A table as `to_regclass` takes it."""
    return f'"{name}"'


def where_sql(where: Condition) -> tuple[str, dict[str, Any]]:
    """A condition that is never NULL, and its parameters by name; no value stands in its text."""
    given: dict[str, Any] = {}
    return _sql(where, given), given


def _sql(where: Condition, given: dict[str, Any]) -> str:
    match where:
        case And(parts):
            return _joined("AND", parts, given) or "TRUE"
        case Or(parts):
            return _joined("OR", parts, given) or "FALSE"
        case Negated(part):
            return f"NOT {_sql(part, given)}"
        case HasId(ids):
            return f"id = ANY({_bound(list(ids), given)})"
        case Tokens(tokens):
            return f"tokens && {_bound(list(tokens), given)}::text[]"
        case Among(column, values):
            return f"coalesce({column} = ANY({_bound(list(values), given)}), FALSE)"
        case Part(column, text):
            return f"coalesce(position({_bound(text, given)} in {column}) > 0, FALSE)"
        case Number(key, operator, operand):
            value = f"(numbers->>{_bound(key, given)})::float8"
            return f"coalesce({value} {_SYMBOLS[operator]} {_bound(operand, given)}, FALSE)"


def _joined(word: str, parts: Sequence[Condition], given: dict[str, Any]) -> str:
    tests = f" {word} ".join(_sql(part, given) for part in parts)
    return f"({tests})" if tests else ""


def _bound(value: Any, given: dict[str, Any]) -> str:
    name = f"w{len(given)}"
    given[name] = value
    return f"%({name})s"


def lexemes(times: Mapping[str, float]) -> str:
    """Terms as PostgreSQL's ``tsvector``: how often each stands there is how many places it has."""
    return " ".join(f"{tsquery(term)}:{_places(count)}" for term, count in times.items())


def _places(count: float) -> str:
    return ",".join(map(str, range(1, 1 + min(max(1, round(count)), _MOST_POSITIONS))))


def tsquery(term: str) -> str:
    """A term as PostgreSQL's ``tsquery`` has it: data, whatever it holds."""
    quoted = term.replace("\\", "\\\\").replace("'", "''")
    return f"'{quoted}'"


def rank(count: int) -> str:
    """What so many terms count in a chunk, by PostgreSQL's rank and their rarity."""
    terms = (f"%(rarity{i})s * ts_rank(words, %(term{i})s::tsquery)" for i in range(count))
    return " + ".join(terms) or "0"
