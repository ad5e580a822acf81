"""Conditions in Qdrant's language."""

import uuid
from collections.abc import Sequence
from typing import Any

from qdrant_client import models

from gem_rag.index.backends.store import (
    EVERYTHING,
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

_NAMESPACE = uuid.UUID("2b0f1b0e-7d5c-4a55-8f0e-51c1f1d0f0a7")  # of points' ids


def point_id(*names: str) -> str:
    """What Qdrant calls a row by: it takes UUIDs."""
    return str(uuid.uuid5(_NAMESPACE, "\0".join(names)))


def is_value(key: str, value: Any) -> "models.FieldCondition":
    """A field is this value."""
    return models.FieldCondition(key=key, match=models.MatchValue(value=value))


def filter_or_none(where: Condition) -> Any:
    """A condition as a search takes it."""
    return None if where == EVERYTHING else filter_of(where)


def filter_of(where: Condition) -> "models.Filter":
    """A condition as a deletion takes it."""
    condition = _condition(where)
    if isinstance(condition, models.Filter):
        return condition
    return models.Filter(must=[condition])


def _condition(where: Condition) -> Any:
    """A condition in Qdrant's language."""
    match where:
        case And(parts):
            return models.Filter(must=[_condition(part) for part in parts])
        case Or(parts) if parts:
            return models.Filter(should=[_condition(part) for part in parts])
        case Or():
            return models.HasIdCondition(has_id=[])
        case Negated(part):
            return models.Filter(must_not=[_condition(part)])
        case HasId(ids):
            return models.HasIdCondition(has_id=[point_id(name) for name in ids])
        case Tokens(values):
            return _any_of("tokens", values)
        case Among(column, values):
            return _any_of(column, values)
        case Part(column, text):
            return models.FieldCondition(key=column, match=models.MatchSubstring(substring=text))
        case Number(key, operator, operand):
            bound = models.Range(**{operator.removeprefix("$"): operand})
            return models.FieldCondition(key=f"numbers.{key}", range=bound)


def _any_of(key: str, values: Sequence[str]) -> Any:
    if not values:
        return models.HasIdCondition(has_id=[])
    return models.FieldCondition(key=key, match=models.MatchAny(any=list(values)))
