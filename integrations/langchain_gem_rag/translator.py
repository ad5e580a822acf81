"""GemTranslator: LangChain's structured queries as filters of a `GemVectorStore`."""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping
from typing import Any

from langchain_core.structured_query import (
    Comparator,
    Comparison,
    Operation,
    Operator,
    StructuredQuery,
    Visitor,
)

from gem_rag.index.filters import Where
from gem_rag.index.values import plain

_SAME_MEANING = {
    Comparator.EQ: "$eq",
    Comparator.NE: "$ne",
    Comparator.GT: "$gt",
    Comparator.GTE: "$gte",
    Comparator.LT: "$lt",
    Comparator.LTE: "$lte",
    Comparator.IN: "$in",
    Comparator.NIN: "$nin",
    Comparator.CONTAIN: "$contains",
}
_WILDCARDS = "%*"


class GemTranslator(Visitor):
    """What ``SelfQueryRetriever(structured_query_translator=...)`` needs for a `GemVectorStore`.

    ``like`` finds a part of a string, ignoring case; wildcards stand around it or nowhere.
    """

    allowed_comparators = tuple(Comparator)
    allowed_operators = tuple(Operator)

    def visit_operation(self, operation: Operation) -> Where:
        """``and``, ``or``, ``not`` (none of its arguments)."""
        parts = [argument.accept(self) for argument in operation.arguments]
        if not parts:  # restricts nothing
            return {}
        if operation.operator is Operator.NOT:
            return {"$not": {"$or": parts}}
        return {f"${operation.operator.value}": parts}

    def visit_comparison(self, comparison: Comparison) -> Where:
        """A test of one field.

        Raises:
            FilterError: When it is searched for: the value does not fit the comparator.
        """
        value = _value(comparison.value)
        if comparison.comparator is Comparator.LIKE:
            return {comparison.attribute: {"$icontains": _part(value)}}
        if comparison.comparator in (Comparator.IN, Comparator.NIN) and not isinstance(value, list):
            value = [value]
        return {comparison.attribute: {_SAME_MEANING[comparison.comparator]: value}}

    def visit_structured_query(
        self, structured_query: StructuredQuery
    ) -> tuple[str, dict[str, Any]]:
        """What to search for, and the keyword arguments of the search."""
        condition = structured_query.filter
        return structured_query.query, (
            {} if condition is None else {"filter": condition.accept(self)}
        )


def _value(value: Any) -> Any:
    """A value as metadata is stored; LangChain's parser wraps dates and times in dicts."""
    if isinstance(value, Mapping):
        told = [value[name] for name in ("date", "datetime") if name in value]
        return _moment(told[0]) if told else value
    return [_value(member) for member in value] if isinstance(value, list | tuple) else plain(value)


def _moment(text: Any) -> Any:
    """A moment with a time zone in UTC, as stored ones are; any other text as it is."""
    if not isinstance(text, str) or len(text) <= len("2024-01-01"):
        return plain(text)
    try:
        return plain(dt.datetime.fromisoformat(text))
    except ValueError:
        return text


def _part(value: Any) -> Any:
    return value.strip(_WILDCARDS) if isinstance(value, str) else value
