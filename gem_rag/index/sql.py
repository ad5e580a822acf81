"""Filters as parametrised SQL over the view `passages`: its columns, and the JSON of metadata."""

import json
import re
from collections.abc import Sequence
from typing import Any, NamedTuple

from gem_rag.index.filters import (
    FALLBACK,
    OURS,
    All,
    Condition,
    FieldTest,
    Ids,
    Not,
    Scalar,
    Some,
    Where,
    parse,
)

# What the connection calls Python's `str.casefold`: SQLite's own lower() knows ASCII only.
CASEFOLD = "gem_casefold"
_SYMBOLS = {"$gt": ">", "$gte": ">=", "$lt": "<", "$lte": "<="}
# Escapes inside quoted JSON path labels mean different things in different SQLite versions.
_PLAIN_KEY = re.compile(r'[^"\\\x00-\x1f]+')


class CompiledFilter(NamedTuple):
    """An SQL condition on the view `passages`, and its named parameters."""

    sql: str
    parameters: dict[str, Any]


def compile_filter(where: Where | None) -> CompiledFilter | None:
    """Compile a filter to SQL that is never NULL and holds no user value in its text.

    Args:
        where: The filter, in the language of `gem_rag.index.filters`.

    Returns:
        The condition, or None if the filter matches everything.

    Raises:
        FilterError: The filter is not a dict, or has an unknown operator or a bad operand.
    """
    if where is None:
        return None
    condition, compiler = parse(where), _Compiler()
    return CompiledFilter(compiler.sql(condition), compiler.parameters) if where else None


class _Field(NamedTuple):
    """SQL expressions for one metadata field: its JSON type (NULL if absent) and its value."""

    type: str
    value: str


class _Compiler:
    def __init__(self) -> None:
        self.parameters: dict[str, Any] = {}

    def sql(self, condition: Condition) -> str:
        match condition:
            case All(parts):
                return _join("AND", [self.sql(part) for part in parts])
            case Some(parts):
                return _join("OR", [self.sql(part) for part in parts])
            case Not(part):
                return f"NOT {self.sql(part)}"
            case Ids(ids):
                return f"(passages.id IN {self._set(ids)})"
            case FieldTest():
                return self._test(self._field(condition.field), condition)

    def _test(self, field: _Field, test: FieldTest) -> str:
        operand = test.operand
        match test.operator:
            case "$eq":
                return self._equal(field, operand)
            case "$in":
                return self._among(field, operand)
            case "$contains":
                return self._contains(field, operand)
            case "$icontains":
                return self._contains_in_any_case(field, operand)
            case "$size":
                return self._size(field, operand)
            case "$exists":
                return f"({field.type} IS {'NOT ' if operand else ''}NULL)"
            case comparison:
                return self._compare(field, _SYMBOLS[comparison], operand)

    def _equal(self, field: _Field, operand: Scalar) -> str:
        match operand:
            case None:
                return _known(f"{field.type} = 'null'")
            case bool():
                return _known(f"{field.type} = '{'true' if operand else 'false'}'")
            case str():
                return _known(f"{field.type} = 'text' AND {field.value} = {self._bind(operand)}")
            case _:
                return _known(f"{_is_number(field)} AND {field.value} = {self._number(operand)}")

    def _compare(self, field: _Field, symbol: str, operand: str | float) -> str:
        if isinstance(operand, str):
            of_type, bound = f"{field.type} = 'text'", self._bind(operand)
        else:
            of_type, bound = _is_number(field), self._number(operand)
        return _known(f"{of_type} AND {field.value} {symbol} {bound}")

    def _among(self, field: _Field, values: Sequence[Scalar]) -> str:
        texts = [value for value in values if isinstance(value, str)]
        numbers = [v for v in values if isinstance(v, int | float) and not isinstance(v, bool)]
        tests = [self._equal(field, v) for v in values if v is None or isinstance(v, bool)]
        if texts:
            tests.append(_known(f"{field.type} = 'text' AND {field.value} IN {self._set(texts)}"))
        if numbers:
            tests.append(_known(f"{_is_number(field)} AND {field.value} IN {self._set(numbers)}"))
        return _join("OR", tests)

    def _contains(self, field: _Field, operand: Scalar) -> str:
        items = f"json_each(CASE WHEN {field.type} = 'array' THEN {field.value} END)"
        member = self._equal(_Field("item.type", "item.value"), operand)
        in_list = f"EXISTS (SELECT 1 FROM {items} AS item WHERE {member})"
        if not isinstance(operand, str):
            return in_list
        part = f"{field.type} = 'text' AND instr({field.value}, {self._bind(operand)}) > 0"
        return _join("OR", [_known(part), in_list])

    def _contains_in_any_case(self, field: _Field, operand: str) -> str:
        folded = self._bind(operand.casefold())
        items = f"json_each(CASE WHEN {field.type} = 'array' THEN {field.value} END)"
        member = f"item.type = 'text' AND {CASEFOLD}(item.value) = {folded}"
        in_list = f"EXISTS (SELECT 1 FROM {items} AS item WHERE {member})"
        # CASE, because the function must not be given what is no string.
        text = f"CASE WHEN {field.type} = 'text' THEN {CASEFOLD}({field.value}) END"
        return _join("OR", [_known(f"instr({text}, {folded}) > 0"), in_list])

    def _size(self, field: _Field, operand: int) -> str:
        length = f"json_array_length(CASE WHEN {field.type} = 'array' THEN {field.value} END)"
        return _known(f"{length} = {self._bind(operand)}")

    def _field(self, name: str) -> _Field:
        if name in OURS:
            return _column(name)
        if f"${name}" == FALLBACK:
            return _either(self._path([name]), _column(FALLBACK))
        literal = self._path([name])
        if "." not in name:
            return literal
        return _either(literal, self._path(name.split(".")))

    def _path(self, keys: list[str]) -> _Field:
        if all(_PLAIN_KEY.fullmatch(key) for key in keys):
            path = self._bind("$" + "".join(f'."{key}"' for key in keys))
            return _Field(
                f"json_type(passages.metadata, {path})", f"json_extract(passages.metadata, {path})"
            )
        document = "passages.metadata"
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


def _column(name: str) -> _Field:
    column = f"passages.{name.removeprefix('$')}"
    return _Field(f"CASE WHEN {column} IS NOT NULL THEN '{OURS[name]}' END", column)


def _either(first: _Field, second: _Field) -> _Field:
    # The type alone decides which of the two is meant: every test checks it first.
    return _Field(
        f"coalesce({first.type}, {second.type})", f"coalesce({first.value}, {second.value})"
    )


def _known(test: str) -> str:
    """Two-valued logic: what SQL calls NULL (an absent field) is false, so NOT complements."""
    return f"ifnull({test}, 0)"


def _is_number(field: _Field) -> str:
    return f"{field.type} IN ('integer', 'real')"


def _join(word: str, tests: list[str]) -> str:
    """Join as a balanced tree: SQLite limits an expression's depth to 1,000."""
    if not tests:
        return "1" if word == "AND" else "0"
    if len(tests) == 1:
        return tests[0]
    middle = len(tests) // 2
    return f"({_join(word, tests[:middle])} {word} {_join(word, tests[middle:])})"
