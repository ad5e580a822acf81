"""JSON schemas, as classes, tools and servers give them: walked and brought into one shape."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from gem_rag.errors import GemError

Schema = dict[str, Any]

# Keywords whose values are schemas, lists of schemas, or schemas by name. Elsewhere (enum, default,
# examples, x-...) stand values, which may look like schemas and are none.
_ONE = {
    *("additionalItems", "additionalProperties", "contains", "else", "if", "items", "not"),
    *("propertyNames", "then", "unevaluatedItems", "unevaluatedProperties"),
}
_LIST = {"allOf", "anyOf", "items", "oneOf", "prefixItems"}
_NAMED = {"$defs", "definitions", "dependentSchemas", "patternProperties", "properties"}
_UNIONS = {"allOf", "anyOf", "oneOf", "$ref", "if"}


def each(schema: Any, change: Callable[[Schema], Schema]) -> Any:
    """A copy in which every schema is what `change` makes of it, inner ones first."""
    if not isinstance(schema, Mapping):
        return schema
    out = {}
    for keyword, value in schema.items():
        if keyword in _ONE and isinstance(value, Mapping):
            value = each(value, change)
        elif keyword in _LIST and isinstance(value, list):
            value = [each(inner, change) for inner in value]
        elif keyword in _NAMED and isinstance(value, Mapping):
            value = {name: each(inner, change) for name, inner in value.items()}
        out[keyword] = value
    return change(out)


def closed(schema: Any) -> Any:
    """The schema with its objects holding no other properties than those named.

    JSON schema lets everything else in where nothing is said; a Python function does not take it
    and a class drops it.
    """

    def close(part: Schema) -> Schema:
        if part.get("type") == "object" and "properties" in part:
            part.setdefault("additionalProperties", False)
        return part

    return each(schema, close)


def untitled(schema: Any) -> Any:
    """The schema without titles, which only say names again; a model need not read them."""
    return each(schema, lambda part: {k: v for k, v in part.items() if k != "title"})


def at_root(schema: Mapping[str, Any]) -> Schema:
    """The schema with what its root refers to written there, as recursive classes need it."""
    out, seen = dict(schema), set[str]()
    while isinstance(ref := out.get("$ref"), str) and ref not in seen:
        found = referred(schema, ref)
        if not isinstance(found, Mapping):
            break
        seen.add(ref)
        out.pop("$ref")
        out = {**found, **out}
    return out


def referred(root: Any, ref: str) -> Any:
    """What a reference inside a document (``#/$defs/name``) points to; None where nothing is."""
    if not ref.startswith("#"):
        return None
    found = root
    for name in filter(None, ref[1:].split("/")):
        name = name.replace("~1", "/").replace("~0", "~")
        if isinstance(found, Mapping):
            found = found.get(name)
        elif isinstance(found, list) and name.isdigit() and int(name) < len(found):
            found = found[int(name)]
        else:
            return None
    return found


def arguments(schema: Mapping[str, Any] | None) -> Schema:
    """A tool's parameters as the schema of one object without arguments it does not know."""
    out = {**at_root(schema or {}), "type": "object"}
    if not _UNIONS & out.keys():  # these may name properties that stand nowhere else
        out = {"properties": {}, "additionalProperties": False, **out}
    return out


def asked_for(response_format: Any) -> Mapping[str, Any] | None:
    """The JSON schema of an OpenAI-style ``response_format``; None where it asks for text.

    Raises:
        GemError: It is none.
    """
    if response_format is None:
        return None
    if isinstance(response_format, Mapping):
        kind = response_format.get("type")
        if kind == "text":
            return None
        if kind == "json_object":
            return {"type": "object"}
        inner = response_format.get("json_schema", response_format)
        if kind == "json_schema" and isinstance(inner, Mapping):
            schema = inner.get("schema")
            if isinstance(schema, Mapping):
                return schema
    raise GemError(
        f"response_format is {response_format!r}; expected a pydantic class or "
        "{'type': 'json_schema', 'json_schema': {'name': ..., 'schema': {...}}}"
    )
