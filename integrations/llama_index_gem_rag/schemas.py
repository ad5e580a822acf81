"""JSON schemas of Python functions and classes, as an answer is held to them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def closed(schema: Any) -> Any:
    """The schema with its objects holding no other properties than those named.

    JSON schema lets everything else in where nothing is said; a Python function does not take it
    and a class drops it.
    """
    if isinstance(schema, list):
        return [closed(part) for part in schema]
    if not isinstance(schema, Mapping):
        return schema
    out = {key: closed(part) for key, part in schema.items()}
    if out.get("type") == "object" and "properties" in out:
        out.setdefault("additionalProperties", False)
    return out
