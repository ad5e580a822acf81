"""Metadata filters: a small dict language compiled to parametrised SQL over SQLite's JSON.

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

Several keys in one dict must all hold; `{}` matches everything.

* Types are exact: `1` equals `1.0`, but neither `True` nor `"1"`. Comparisons hold between two
  numbers or two strings (by code point) and are false between anything else.
* `$ne`, `$nin` and `$not` are exact complements: they also match chunks without the field.
* `None` equals a stored null; a field that is absent is `{"$exists": False}`.
* A dotted name such as `"source.page"` reaches nested metadata, unless the chunk has a key that
  is literally `"source.page"`.
"""

import json
import math
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from gem_rag.errors import GemIndexError

Where = Mapping[str, Any]
Scalar = str | int | float | bool | None

# SQLite's parser stack is 100 deep in older builds; every level of nesting takes some of it.
_MAX_DEPTH = 16
# What the connection calls Python's `str.casefold`: SQLite's own lower() knows ASCII only.
CASEFOLD = "gem_casefold"
_COMPARISONS = {"$gt": ">", "$gte": ">=", "$lt": "<", "$lte": "<="}
# Escapes inside quoted JSON path labels mean different things in different SQLite versions.
_PLAIN_KEY = re.compile(r'[^"\\\x00-\x1f]+')


class FilterError(GemIndexError, ValueError):
    """A metadata filter is malformed."""


class CompiledFilter(NamedTuple):
    """An SQL condition on the column `chunks.metadata`, and its named parameters."""

    sql: str
    parameters: dict[str, Any]


def compile_filter(where: Where | None) -> CompiledFilter | None:
    """Compile a filter to SQL that is never NULL and holds no user value in its text.

    Args:
        where: The filter, in the language described above.

    Returns:
        The condition, or None if the filter matches everything.

    Raises:
        FilterError: The filter is not a dict, or has an unknown operator or a bad operand.
    """
    if where is None:
        return None
    compiler = _Compiler()
    sql = compiler.condition(where, depth=0)
    return CompiledFilter(sql, compiler.parameters) if where else None


class _Field(NamedTuple):
    """SQL expressions for one metadata field: its JSON type (NULL if absent) and its value."""

    type: str
    value: str


class _Compiler:
    def __init__(self) -> None:
        self.parameters: dict[str, Any] = {}

    def condition(self, where: Any, depth: int) -> str:
        _check_depth(depth)
        if not isinstance(where, Mapping):
            raise FilterError(f"a filter is a dict such as {{'year': 2020}}; got {where!r}")
        return _join("AND", [self._entry(key, value, depth) for key, value in where.items()])

    def _entry(self, key: Any, value: Any, depth: int) -> str:
        if not isinstance(key, str):
            raise FilterError(f"a filter's keys are strings; got {key!r}")
        if key in ("$and", "$or"):
            return _join(key[1:].upper(), [self.condition(w, depth + 1) for w in _list(key, value)])
        if key == "$not":
            return f"NOT {self.condition(value, depth + 1)}"
        if key == "$id":
            return self._ids(value)
        if key.startswith("$"):
            raise FilterError(
                f"unknown operator {key!r} where a field's name, '$and', '$or', '$not' or '$id' "
                "belongs"
            )
        return self._tests(self._field(key), value, depth)

    def _ids(self, value: Any) -> str:
        ids = [value] if isinstance(value, str) else _list("$id", value, empty=True)
        if not all(isinstance(name, str) for name in ids):
            raise FilterError(f"$id takes an id or a list of ids, which are strings; got {value!r}")
        return f"(chunks.id IN {self._set(ids)})"

    def _tests(self, field: _Field, tests: Any, depth: int) -> str:
        _check_depth(depth)
        if not isinstance(tests, Mapping):
            return self._equal(field, tests)
        if not tests:
            raise FilterError("a field's filter is empty: give it a value or an operator")
        return _join("AND", [self._test(field, op, x, depth) for op, x in tests.items()])

    def _test(self, field: _Field, operator: Any, operand: Any, depth: int) -> str:
        if operator == "$not":
            return f"NOT {self._tests(field, operand, depth + 1)}"
        if operator in _COMPARISONS:
            return self._compare(field, operator, operand)
        operators: dict[Any, Callable[[_Field, Any], str]] = {
            "$eq": self._equal,
            "$ne": lambda f, x: f"NOT {self._equal(f, x)}",
            "$in": self._among,
            "$nin": lambda f, x: f"NOT {self._among(f, x)}",
            "$contains": self._contains,
            "$icontains": self._contains_in_any_case,
            "$size": self._size,
            "$exists": _exists,
        }
        if operator not in operators:
            known = ", ".join([*operators, *_COMPARISONS, "$not"])
            raise FilterError(
                f"unknown operator {operator!r}; known are {known} "
                "(a nested field is reached by a dotted name: 'source.page')"
            )
        return operators[operator](field, operand)

    def _equal(self, field: _Field, operand: Any) -> str:
        match _scalar("$eq", operand):
            case None:
                return _known(f"{field.type} = 'null'")
            case bool():
                return _known(f"{field.type} = '{'true' if operand else 'false'}'")
            case str():
                return _known(f"{field.type} = 'text' AND {field.value} = {self._bind(operand)}")
            case _:
                return _known(f"{_is_number(field)} AND {field.value} = {self._number(operand)}")

    def _compare(self, field: _Field, operator: str, operand: Any) -> str:
        symbol = _COMPARISONS[operator]
        match _scalar(operator, operand):
            case str():
                of_type, bound = f"{field.type} = 'text'", self._bind(operand)
            case None | bool():
                raise FilterError(f"{operator} compares numbers or strings; got {operand!r}")
            case _:
                of_type, bound = _is_number(field), self._number(operand)
        return _known(f"{of_type} AND {field.value} {symbol} {bound}")

    def _among(self, field: _Field, operands: Any) -> str:
        values = [_scalar("$in", operand) for operand in _list("$in", operands, empty=True)]
        texts = [value for value in values if isinstance(value, str)]
        numbers = [v for v in values if isinstance(v, int | float) and not isinstance(v, bool)]
        tests = [self._equal(field, v) for v in values if v is None or isinstance(v, bool)]
        if texts:
            tests.append(_known(f"{field.type} = 'text' AND {field.value} IN {self._set(texts)}"))
        if numbers:
            tests.append(_known(f"{_is_number(field)} AND {field.value} IN {self._set(numbers)}"))
        return _join("OR", tests)

    def _contains(self, field: _Field, operand: Any) -> str:
        items = f"json_each(CASE WHEN {field.type} = 'array' THEN {field.value} END)"
        member = self._equal(_Field("item.type", "item.value"), _scalar("$contains", operand))
        in_list = f"EXISTS (SELECT 1 FROM {items} AS item WHERE {member})"
        if not isinstance(operand, str):
            return in_list
        part = f"{field.type} = 'text' AND instr({field.value}, {self._bind(operand)}) > 0"
        return _join("OR", [_known(part), in_list])

    def _contains_in_any_case(self, field: _Field, operand: Any) -> str:
        if not isinstance(operand, str):
            raise FilterError(f"$icontains takes a string; got {operand!r}")
        folded = self._bind(operand.casefold())
        items = f"json_each(CASE WHEN {field.type} = 'array' THEN {field.value} END)"
        member = f"item.type = 'text' AND {CASEFOLD}(item.value) = {folded}"
        in_list = f"EXISTS (SELECT 1 FROM {items} AS item WHERE {member})"
        # CASE, because the function must not be given what is no string.
        text = f"CASE WHEN {field.type} = 'text' THEN {CASEFOLD}({field.value}) END"
        return _join("OR", [_known(f"instr({text}, {folded}) > 0"), in_list])

    def _size(self, field: _Field, operand: Any) -> str:
        if isinstance(operand, bool) or not isinstance(operand, int) or operand < 0:
            raise FilterError(f"$size takes a whole number, 0 or more; got {operand!r}")
        length = f"json_array_length(CASE WHEN {field.type} = 'array' THEN {field.value} END)"
        return _known(f"{length} = {self._bind(operand)}")

    def _field(self, name: str) -> _Field:
        literal = self._path([name])
        if "." not in name:
            return literal
        nested = self._path(name.split("."))
        # The type alone decides which of the two is meant: every test checks it first.
        return _Field(
            f"coalesce({literal.type}, {nested.type})", f"coalesce({literal.value}, {nested.value})"
        )

    def _path(self, keys: list[str]) -> _Field:
        if all(_PLAIN_KEY.fullmatch(key) for key in keys):
            path = self._bind("$" + "".join(f'."{key}"' for key in keys))
            return _Field(
                f"json_type(chunks.metadata, {path})", f"json_extract(chunks.metadata, {path})"
            )
        document = "chunks.metadata"
        for key in keys[:-1]:
            document = (
                f"(SELECT value FROM json_each({document}) "
                f"WHERE key = {self._bind(key)} AND type = 'object')"
            )
        last = f"FROM json_each({document}) WHERE key = {self._bind(keys[-1])}"
        return _Field(f"(SELECT type {last})", f"(SELECT value {last})")

    def _bind(self, value: Any) -> str:
        name = f"w{len(self.parameters)}"
        self.parameters[name] = value
        return f":{name}"

    def _number(self, value: float) -> str:
        # Stored numbers are parsed from JSON by SQLite, whose rounding may differ from Python's
        # in the last bit: let it parse the operand as well.
        return f"json_extract({self._bind(json.dumps([value]))}, '$[0]')"

    def _set(self, values: Sequence[Scalar]) -> str:
        return f"(SELECT value FROM json_each({self._bind(json.dumps(values))}))"


def _known(test: str) -> str:
    """Two-valued logic: what SQL calls NULL (an absent field) is false, so NOT complements."""
    return f"ifnull({test}, 0)"


def _is_number(field: _Field) -> str:
    return f"{field.type} IN ('integer', 'real')"


def _exists(field: _Field, operand: Any) -> str:
    if not isinstance(operand, bool):
        raise FilterError(f"$exists takes True or False; got {operand!r}")
    return f"({field.type} IS {'NOT ' if operand else ''}NULL)"


def _join(word: str, tests: list[str]) -> str:
    """Join as a balanced tree: SQLite limits an expression's depth to 1,000."""
    if not tests:
        return "1" if word == "AND" else "0"
    if len(tests) == 1:
        return tests[0]
    middle = len(tests) // 2
    return f"({_join(word, tests[:middle])} {word} {_join(word, tests[middle:])})"


def _scalar(operator: str, value: Any) -> Scalar:
    if isinstance(value, float) and not math.isfinite(value):
        raise FilterError(f"{operator} takes finite numbers; got {value!r}")
    if value is not None and not isinstance(value, str | int | float):
        raise FilterError(
            f"{operator} takes a string, number, boolean or None; got {value!r} "
            "(for members of a list use $contains)"
        )
    return value


def _list(operator: str, value: Any, *, empty: bool = False) -> Sequence[Any]:
    if not isinstance(value, list | tuple) or not (value or empty):
        kind = "a list" if empty else "a non-empty list"
        raise FilterError(f"{operator} takes {kind}; got {value!r}")
    return value


def _check_depth(depth: int) -> None:
    if depth > _MAX_DEPTH:
        raise FilterError(f"the filter is nested deeper than {_MAX_DEPTH} levels")
