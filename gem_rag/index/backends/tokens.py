"""Metadata as tokens that any store can search for, and the filter language in terms of them.

Stores differ in what they know of JSON: whether 1 is 1.0, what a missing field is, what is in a
list. So a chunk's fields are told to them as short hashes, one for each thing that a filter can ask
by equality ("year is the number 2020", "tags is a list of 3", "author is there"), and as numbers by
name for comparisons. What cannot be told so (parts of strings, their order) is narrowed by the
store and decided here (`gem_rag.index.backends.matching`).
"""

import hashlib
from collections.abc import Iterator, Mapping
from typing import Any

from gem_rag.index.backends.store import (
    EVERYTHING,
    And,
    Condition,
    HasId,
    Negated,
    Number,
    Or,
    Part,
    Tokens,
)
from gem_rag.index.database import StoredChunk
from gem_rag.index.filters import FALLBACK, OURS, All, FieldTest, Ids, Not, Some
from gem_rag.index.filters import Condition as Asked
from gem_rag.index.values import decode

_COLUMNS = tuple(name.removeprefix("$") for name in OURS)
EMBEDDED = "embedded"  # the token of chunks that have a vector


def fields_of(chunk: StoredChunk) -> dict[str, Any]:
    """A chunk's fields by the names that a filter may call them; those it has not are left out."""
    metadata = decode(chunk.metadata)
    fields = dict(metadata)
    for key, value in metadata.items():
        for name, below in _nested(key, value):
            fields.setdefault(name, below)
    ours = {f"${name}": value for name in _COLUMNS if (value := _own(chunk, name)) is not None}
    if FALLBACK in ours:
        fields.setdefault(FALLBACK.removeprefix("$"), ours[FALLBACK])
    return fields | ours


def _own(chunk: StoredChunk, name: str) -> Any:
    return {"source": chunk.source, "heading": chunk.heading, "page": chunk.page}[name]


def _nested(key: str, value: Any) -> Iterator[tuple[str, Any]]:
    """What lies below a field, by dotted names."""
    if isinstance(value, Mapping) and "." not in key:
        for below, inner in value.items():
            if "." not in below:
                yield f"{key}.{below}", inner
                for name, deeper in _nested(below, inner):
                    yield f"{key}.{name}", deeper


def tokens_of(fields: Mapping[str, Any]) -> list[str]:
    """Everything that can be asked of a chunk's fields by equality."""
    return list(
        dict.fromkeys(token for name, value in fields.items() for token in _of(name, value))
    )


def _of(name: str, value: Any) -> Iterator[str]:
    yield _token(name, "?")
    if isinstance(value, Mapping):
        return
    if isinstance(value, list):
        yield _token(name, "#", len(value))
        members = (member for member in value if not isinstance(member, list | Mapping))
        yield from (_token(name, "@", member) for member in members)
        return
    yield _token(name, "=", value)
    yield _token(name, "type", _type(value))


def numbers_of(fields: Mapping[str, Any]) -> dict[str, float]:
    """A chunk's numbers by their keys."""
    return {number_key(name): float(v) for name, v in fields.items() if _type(v) == "number"}


def number_key(name: str) -> str:
    """A field's name as any store takes it for the name of a number."""
    return f"n{_hashed(name)}"


def _token(name: str, what: str, value: Any = "") -> str:
    return _hashed(f"{name}\0{what}\0{_type(value)}\0{_plain(value)}")


def _plain(value: Any) -> str:
    """A scalar such that equal ones are equal: 1 and 1.0."""
    whole = isinstance(value, float) and value.is_integer()
    return repr(int(value) if whole else value)


def _type(value: Any) -> str:
    if value is None or isinstance(value, bool):
        return repr(value)
    return {str: "text", int: "number", float: "number"}.get(type(value), "other")


def _hashed(text: str) -> str:
    return hashlib.blake2b(text.encode(), digest_size=9).hexdigest()


def narrowed(asked: Asked) -> tuple[Condition, bool]:
    """A filter as a store is asked for it.

    Returns:
        What the store is asked for; and whether that is all of the filter. Where it is not, the
        store gives chunks that may match, and which of them do is still to be seen.
    """
    match asked:
        case All(parts):
            inner = [narrowed(part) for part in parts]
            return And(tuple(c for c, _ in inner)), all(exact for _, exact in inner)
        case Some(parts):
            inner = [narrowed(part) for part in parts]
            return Or(tuple(c for c, _ in inner)), all(exact for _, exact in inner)
        case Not(part):
            condition, exact = narrowed(part)
            return (Negated(condition), True) if exact else (EVERYTHING, False)
        case Ids(ids):
            return HasId(ids), True
        case FieldTest(name, operator, operand):
            return _tested(name, operator, operand)


def _tested(name: str, operator: str, operand: Any) -> tuple[Condition, bool]:
    there, is_text = Tokens((_token(name, "?"),)), _token(name, "type", "text")
    match operator:
        case "$eq":
            return Tokens((_token(name, "=", operand),)), True
        case "$in":
            return Tokens(tuple(_token(name, "=", value) for value in operand)), True
        case "$size":
            return Tokens((_token(name, "#", operand),)), True
        case "$exists":
            return (there if operand else Negated(there)), True
        case "$contains" if not isinstance(operand, str):
            return Tokens((_token(name, "@", operand),)), True
        case "$contains" if OURS.get(name) == "text":
            return Part(name.removeprefix("$"), operand), True
        case "$contains":
            return Tokens((_token(name, "@", operand), is_text)), False
        case "$icontains":
            return there, False
        case _ if isinstance(operand, str):  # which comes first is not every store's business
            return Tokens((is_text,)), False
        case _:
            is_number = Tokens((_token(name, "type", "number"),))
            return And((is_number, Number(number_key(name), operator, float(operand)))), True
