"""Whether a chunk matches a filter, decided here: what no store could be asked for."""

from collections.abc import Callable, Mapping
from typing import Any

from gem_rag.index.backends.tokens import fields_of
from gem_rag.index.database import StoredChunk
from gem_rag.index.filters import All, Condition, FieldTest, Ids, Not, Some

_COMPARED: dict[str, Callable[[Any, Any], bool]] = {
    "$gt": lambda value, operand: value > operand,
    "$gte": lambda value, operand: value >= operand,
    "$lt": lambda value, operand: value < operand,
    "$lte": lambda value, operand: value <= operand,
}


def matches(condition: Condition, chunk: StoredChunk) -> bool:
    """Whether a chunk matches."""
    return _holds(condition, chunk.id, fields_of(chunk))


def _holds(condition: Condition, name: str, fields: Mapping[str, Any]) -> bool:
    match condition:
        case All(parts):
            return all(_holds(part, name, fields) for part in parts)
        case Some(parts):
            return any(_holds(part, name, fields) for part in parts)
        case Not(part):
            return not _holds(part, name, fields)
        case Ids(ids):
            return name in ids
        case FieldTest(field, operator, operand):
            if operator == "$exists":
                return bool((field in fields) == operand)
            return field in fields and _test(fields[field], operator, operand)


def _test(value: Any, operator: str, operand: Any) -> bool:
    if operator == "$eq":
        return _equal(value, operand)
    if operator == "$in":
        return any(_equal(value, one) for one in operand)
    if operator == "$size":
        return isinstance(value, list) and len(value) == operand
    if operator in _COMPARED:
        return _is_alike(value, operand) and bool(_COMPARED[operator](value, operand))
    if operator == "$icontains":
        value, operand = _folded(value), operand.casefold()
    if isinstance(value, str):
        return isinstance(operand, str) and operand in value
    return isinstance(value, list) and any(_equal(member, operand) for member in value)


def _equal(value: Any, operand: Any) -> bool:
    """Types are exact: 1 equals 1.0, but neither True nor "1"."""
    return _is_alike(value, operand) and bool(value == operand)


def _is_alike(value: Any, operand: Any) -> bool:
    if _is_number(value) and _is_number(operand):
        return True
    return type(value) is type(operand)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _folded(value: Any) -> Any:
    if isinstance(value, list):
        return [_folded(member) for member in value]
    return value.casefold() if isinstance(value, str) else value
