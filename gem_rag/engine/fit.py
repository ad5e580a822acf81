"""Whether a value fits a JSON schema: for what decoding cannot be held to."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from gem_rag.text.schemas import referred

_TYPES: dict[str, Callable[[Any], bool]] = {
    "null": lambda v: v is None,
    "boolean": lambda v: isinstance(v, bool),
    "integer": lambda v: _is_number(v) and (isinstance(v, int) or v.is_integer()),
    "number": lambda v: _is_number(v),
    "string": lambda v: isinstance(v, str),
    "array": lambda v: isinstance(v, list),
    "object": lambda v: isinstance(v, dict),
}
_DEPTH = 200  # a schema that refers to itself without an end is not followed further


def misfit(value: Any, schema: Any) -> str | None:
    """Where and why a JSON value does not fit; None where it does.

    Formats and what a schema refers to elsewhere are not checked.
    """
    try:
        return _Check(schema).problem(value, schema, "$")
    except (AttributeError, TypeError, ValueError):  # what is malformed says nothing
        return None


def misfit_of_text(text: str, schema: Any) -> str | None:
    """Why a text is no JSON that fits; None where it is."""
    try:
        return misfit(json.loads(text), schema)
    except ValueError as error:  # numbers of thousands of digits among them
        return f"the text is no JSON: {error}"


class _Check:
    def __init__(self, root: Any) -> None:
        self._root = root

    def problem(self, value: Any, schema: Any, at: str, depth: int = 0) -> str | None:
        if isinstance(schema, bool):
            return None if schema else f"{at} must not be there"
        if not isinstance(schema, Mapping) or depth > _DEPTH:
            return None
        for keyword, asked in schema.items():
            test = _TESTS.get(keyword)
            if test is not None and not test(value, asked):
                return f"{at} is {_short(value)}; expected {keyword} {_short(asked)}"
        for keyword in _COMBINED & schema.keys():
            if not self._holds(keyword, value, schema, at, depth + 1):
                asked = _short(schema[keyword])
                return f"{at} is {_short(value)}, which does not fit {keyword} {asked}"
        for place, inner, part in self._parts(value, schema, at):
            if found := self.problem(inner, part, place, depth + 1):
                return found
        return None

    def _fits(self, value: Any, schema: Any, at: str, depth: int) -> bool:
        return self.problem(value, schema, at, depth) is None

    def _holds(self, keyword: str, value: Any, schema: Any, at: str, depth: int) -> bool:
        """Whether the keywords hold that combine other schemas."""
        asked = schema[keyword]
        if keyword == "$ref":
            return self._fits(value, referred(self._root, str(asked)), at, depth)
        if keyword == "not":
            return not self._fits(value, asked, at, depth)
        if keyword == "if":
            branch = "then" if self._fits(value, asked, at, depth) else "else"
            return self._fits(value, schema.get(branch, True), at, depth)
        if keyword == "propertyNames":
            names = value if isinstance(value, dict) else ()
            return all(self._fits(name, asked, at, depth) for name in names)
        if keyword == "contains":
            if not isinstance(value, list):
                return True
            found = sum(self._fits(item, asked, at, depth) for item in value)
            return bool(schema.get("minContains", 1) <= found <= schema.get("maxContains", found))
        fitting = sum(self._fits(value, part, at, depth) for part in asked)
        return {"allOf": fitting == len(asked), "anyOf": fitting > 0, "oneOf": fitting == 1}[
            keyword
        ]

    def _parts(self, value: Any, schema: Any, at: str) -> Iterator[tuple[str, Any, Any]]:
        """Inner values with the schemas they have to fit."""
        if isinstance(value, list):
            items = schema.get("items")
            first = schema.get("prefixItems") or (items if isinstance(items, list) else [])
            rest = schema.get("additionalItems") if isinstance(items, list) else items
            for i, inner in enumerate(value):
                yield f"{at}[{i}]", inner, first[i] if i < len(first) else rest
        if isinstance(value, dict):
            patterns = schema.get("patternProperties") or {}
            for name, inner in value.items():
                parts = [part for pattern, part in patterns.items() if _matches(name, pattern)]
                if name in (schema.get("properties") or {}):
                    parts.append(schema["properties"][name])
                for part in parts or [schema.get("additionalProperties")]:
                    yield f"{at}.{name}", inner, part
            for name, part in (schema.get("dependentSchemas") or {}).items():
                if name in value:
                    yield at, value, part


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _same(one: Any, other: Any) -> bool:
    return _key(one) == _key(other)


def _key(value: Any) -> str:
    """The same text for what is the same value in JSON."""
    plain = int(value) if isinstance(value, float) and value.is_integer() else value
    if isinstance(plain, list):
        return f"[{','.join(map(_key, plain))}]"
    if isinstance(plain, dict):
        return f"{{{','.join(sorted(f'{json.dumps(k)}:{_key(v)}' for k, v in plain.items()))}}}"
    return json.dumps(plain)


def _matches(text: str, pattern: str) -> bool:
    try:
        return re.search(pattern, text) is not None
    except re.error:  # another dialect
        return True


def _is_multiple(value: float, of: float) -> bool:
    try:
        return abs(value / of - round(value / of)) < 1e-9
    except (OverflowError, ZeroDivisionError):
        return True


def _short(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False, default=str)
    return text if len(text) <= 80 else f"{text[:77]}..."


def _of(kind: type | Callable[[Any], bool], test: Callable[[Any, Any], bool]) -> Any:
    """A test that says nothing about values of another kind."""
    known = kind if not isinstance(kind, type) else lambda value: isinstance(value, kind)
    return lambda value, asked: not known(value) or test(value, asked)


_COMBINED = {"$ref", "allOf", "anyOf", "contains", "if", "not", "oneOf", "propertyNames"}
_TESTS: dict[str, Callable[[Any, Any], bool]] = {
    "type": lambda v, a: any(
        _TYPES[kind](v) for kind in ([a] if isinstance(a, str) else a) if kind in _TYPES
    ),
    "enum": lambda v, a: any(_same(v, one) for one in a),
    "const": _same,
    "minimum": _of(_is_number, lambda v, a: v >= a),
    "maximum": _of(_is_number, lambda v, a: v <= a),
    "exclusiveMinimum": _of(_is_number, lambda v, a: isinstance(a, bool) or v > a),
    "exclusiveMaximum": _of(_is_number, lambda v, a: isinstance(a, bool) or v < a),
    "multipleOf": _of(_is_number, _is_multiple),
    "minLength": _of(str, lambda v, a: len(v) >= a),
    "maxLength": _of(str, lambda v, a: len(v) <= a),
    "pattern": _of(str, _matches),
    "minItems": _of(list, lambda v, a: len(v) >= a),
    "maxItems": _of(list, lambda v, a: len(v) <= a),
    "uniqueItems": _of(list, lambda v, a: not a or len(set(map(_key, v))) == len(v)),
    "minProperties": _of(dict, lambda v, a: len(v) >= a),
    "maxProperties": _of(dict, lambda v, a: len(v) <= a),
    "required": _of(dict, lambda v, a: set(a) <= v.keys()),
    "dependentRequired": _of(
        dict, lambda v, a: all(set(names) <= v.keys() for name, names in a.items() if name in v)
    ),
}
