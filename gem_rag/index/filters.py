"""Metadata filters: a small dict language, checked and parsed.

A filter is a dict. Each key names a metadata field, each value says what it must be::

    {"year": 2020}                                  equality
    {"year": {"$gte": 2000, "$lt": 2010}}           $eq $ne $gt $gte $lt $lte
    {"lang": {"$in": ["en", "de"]}}                 $in $nin
    {"title": {"$contains": "kettle"}}              part of a string, or member of a list
    {"title": {"$icontains": "KETTLE"}}             the same for strings, ignoring case
    {"tags": {"$size": 0}}                          a list of so many members
    {"author": {"$exists": False}}
    {"$id": ["chunk-1", "chunk-2"]}                 chunks with these ids (or this one)
    {"$or": [{"year": 2020}, {"$not": {"lang": "en"}}]}
    {"$source": {"$contains": "/manuals/"}}         $source $heading $page: the document's name or
                                                    path, the headings above, the page: ours

Other names are the user's metadata; a plain ``source`` that a chunk's metadata has not is ours.
Several keys in one dict must all hold; `{}` matches everything.

* Operands are what metadata is stored as (`gem_rag.index.values`): dates, UUIDs, numpy numbers,
  enum members and paths stand for their text or number, arrays for lists.
* Types are exact: `1` equals `1.0`, but neither `True` nor `"1"`. Comparisons hold between two
  numbers or two strings (by code point) and are false between anything else.
* `$ne`, `$nin` and `$not` are exact complements: they also match chunks without the field.
* `None` equals a stored null; a field that is absent is `{"$exists": False}`.
* A dotted name such as `"source.page"` reaches nested metadata, unless the chunk has a key that
  is literally `"source.page"`.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from gem_rag.errors import GemIndexError
from gem_rag.index.values import plain

Where = Mapping[str, Any]
Scalar = str | int | float | bool | None

# What the index itself knows of a chunk, with the JSON type it would have.
OURS = {"$source": "text", "$heading": "text", "$page": "integer"}
FALLBACK = "$source"  # also meant by the plain name, where the user's metadata has no such key
# SQLite's parser stack is 100 deep in older builds; every level of nesting takes some of it.
_MAX_DEPTH = 16
COMPARISONS = ("$gt", "$gte", "$lt", "$lte")
# Operators that are the exact complement of another.
COMPLEMENTS = {"$ne": "$eq", "$nin": "$in"}


class FilterError(GemIndexError, ValueError):
    """A metadata filter is malformed."""


@dataclass(frozen=True)
class All:
    """Every part must hold; without parts everything matches."""

    parts: tuple["Condition", ...]


@dataclass(frozen=True)
class Some:
    """One part must hold at least."""

    parts: tuple["Condition", ...]


@dataclass(frozen=True)
class Not:
    """The part must not hold."""

    part: "Condition"


@dataclass(frozen=True)
class Ids:
    """The chunk's id is one of these."""

    ids: tuple[str, ...]


@dataclass(frozen=True)
class FieldTest:
    """What a field must be: ``$eq $gt $gte $lt $lte $in $contains $icontains $size $exists``."""

    field: str
    operator: str
    operand: Any


Condition = All | Some | Not | Ids | FieldTest


def parse(where: Where, depth: int = 0) -> Condition:
    """A filter as a tree of conditions whose operands are sound.

    Raises:
        FilterError: The filter is not a dict, or has an unknown operator or a bad operand.
    """
    _check_depth(depth)
    if not isinstance(where, Mapping):
        raise FilterError(f"a filter is a dict such as {{'year': 2020}}; got {where!r}")
    return All(tuple(_entry(key, value, depth) for key, value in where.items()))


def _entry(key: Any, value: Any, depth: int) -> Condition:
    if not isinstance(key, str):
        raise FilterError(f"a filter's keys are strings; got {key!r}")
    if key in ("$and", "$or"):
        parts = tuple(parse(w, depth + 1) for w in _list(key, value))
        return All(parts) if key == "$and" else Some(parts)
    if key == "$not":
        return Not(parse(value, depth + 1))
    if key == "$id":
        return _ids(value)
    if key.startswith("$") and key not in OURS:
        raise FilterError(
            f"unknown operator {key!r} where a field's name, '$and', '$or', '$not', '$id' or "
            f"{', '.join(map(repr, OURS))} belongs"
        )
    return _tests(key, value, depth)


def _ids(value: Any) -> Ids:
    value = plain(value)
    ids = [value] if isinstance(value, str) else _list("$id", value, empty=True)
    if not all(isinstance(name, str) for name in ids):
        raise FilterError(f"$id takes an id or a list of ids, which are strings; got {value!r}")
    return Ids(tuple(ids))


def _tests(field: str, tests: Any, depth: int) -> Condition:
    _check_depth(depth)
    if not isinstance(tests, Mapping):
        return _test(field, "$eq", tests, depth)
    if not tests:
        raise FilterError("a field's filter is empty: give it a value or an operator")
    return All(tuple(_test(field, operator, x, depth) for operator, x in tests.items()))


def _test(field: str, operator: Any, operand: Any, depth: int) -> Condition:
    if operator != "$not":
        operand = plain(operand)
    if operator == "$not":
        return Not(_tests(field, operand, depth + 1))
    if operator in COMPLEMENTS:
        return Not(_test(field, COMPLEMENTS[operator], operand, depth))
    if operator in COMPARISONS:
        return FieldTest(field, operator, _comparable(operator, operand))
    checks = {
        "$eq": _scalar,
        "$in": _scalars,
        "$contains": _scalar,
        "$icontains": _string,
        "$size": _whole_number,
        "$exists": _truth,
    }
    if operator not in checks:
        known = ", ".join([*checks, *COMPLEMENTS, *COMPARISONS, "$not"])
        raise FilterError(
            f"unknown operator {operator!r}; known are {known} "
            "(a nested field is reached by a dotted name: 'source.page')"
        )
    return FieldTest(field, operator, checks[operator](operator, operand))


def _scalar(operator: str, value: Any) -> Scalar:
    if isinstance(value, float) and not math.isfinite(value):
        raise FilterError(f"{operator} takes finite numbers; got {value!r}")
    if value is not None and not isinstance(value, str | int | float):
        raise FilterError(
            f"{operator} takes a string, number, boolean or None; got {value!r} "
            "(for members of a list use $contains)"
        )
    return value


def _scalars(operator: str, values: Any) -> tuple[Scalar, ...]:
    return tuple(_scalar(operator, value) for value in _list(operator, values, empty=True))


def _comparable(operator: str, value: Any) -> str | float:
    scalar = _scalar(operator, value)
    if scalar is None or isinstance(scalar, bool):
        raise FilterError(f"{operator} compares numbers or strings; got {value!r}")
    return scalar


def _string(operator: str, value: Any) -> str:
    if not isinstance(value, str):
        raise FilterError(f"{operator} takes a string; got {value!r}")
    return value


def _whole_number(operator: str, value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        raise FilterError(f"{operator} takes a whole number, 0 or more; got {value!r}")
    return value


def _truth(operator: str, value: Any) -> bool:
    if not isinstance(value, bool):
        raise FilterError(f"{operator} takes True or False; got {value!r}")
    return value


def _list(operator: str, value: Any, *, empty: bool = False) -> Sequence[Any]:
    if not isinstance(value, list | tuple) or not (value or empty):
        kind = "a list" if empty else "a non-empty list"
        raise FilterError(f"{operator} takes {kind}; got {value!r}")
    return value


def _check_depth(depth: int) -> None:
    if depth > _MAX_DEPTH:
        raise FilterError(f"the filter is nested deeper than {_MAX_DEPTH} levels")
