"""LlamaIndex's metadata filters in `GemIndex`'s language."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from llama_index.core.vector_stores.types import (
    FilterCondition,
    FilterOperator,
    MetadataFilter,
    MetadataFilters,
)

from gem_rag.index.filters import FilterError

Where = dict[str, Any]

_SAME_MEANING = {
    FilterOperator.EQ: "$eq",
    FilterOperator.NE: "$ne",
    FilterOperator.GT: "$gt",
    FilterOperator.GTE: "$gte",
    FilterOperator.LT: "$lt",
    FilterOperator.LTE: "$lte",
    FilterOperator.IN: "$in",
    FilterOperator.NIN: "$nin",
    FilterOperator.CONTAINS: "$contains",
}
_NOTHING: Where = {"$not": {}}


def to_where(
    filters: MetadataFilters | None = None,
    *,
    node_ids: Sequence[str] | None = None,
    doc_ids: Sequence[str] | None = None,
) -> Where:
    """One filter for all of these, each of which must hold; None restricts nothing.

    Args:
        filters: Nested as deeply as wanted.
        node_ids: Nodes of these ids only.
        doc_ids: Nodes whose ``ref_doc_id`` is one of these only.

    Raises:
        FilterError: An operator is given a value it has no use for.
    """
    parts = [] if filters is None else [_group(filters)]
    if node_ids is not None:
        parts.append({"$id": list(node_ids)})
    if doc_ids is not None:
        parts.append({"ref_doc_id": {"$in": list(doc_ids)}})
    return {"$and": parts} if parts else {}


def _group(group: MetadataFilters) -> Where:
    parts = [
        _group(part) if isinstance(part, MetadataFilters) else _single(part)
        for part in group.filters
    ]
    if not parts:  # as in LlamaIndex's own store, under any condition
        return {}
    match group.condition:
        case FilterCondition.OR:
            return {"$or": parts}
        case FilterCondition.NOT:  # none of them
            return {"$not": {"$or": parts}}
        case _:
            return {"$and": parts}


def _single(one: MetadataFilter) -> Where:
    key, value = one.key, one.value
    match one.operator:
        case FilterOperator.ANY:
            parts = _each(one)
            return {"$or": parts} if parts else _NOTHING
        case FilterOperator.ALL:
            return {"$and": [{key: {"$exists": True}}, *_each(one)]}
        case FilterOperator.TEXT_MATCH:
            return _in_text(one, "$contains")
        case FilterOperator.TEXT_MATCH_INSENSITIVE:
            return _in_text(one, "$icontains")
        case FilterOperator.IS_EMPTY:
            empty = [{"$exists": False}, {"$eq": None}, {"$eq": ""}, {"$size": 0}]
            return {"$or": [{key: test} for test in empty]}
        case operator:
            return {key: {_SAME_MEANING[operator]: value}}


def _each(one: MetadataFilter) -> list[Where]:
    return [{one.key: {"$contains": member}} for member in _members(one)]


def _members(one: MetadataFilter) -> Sequence[Any]:
    if not isinstance(one.value, list):
        raise FilterError(f"{one.operator.value!r} takes a list of values; got {one.value!r}")
    return one.value


def _in_text(one: MetadataFilter, operator: str) -> Where:
    if not isinstance(one.value, str):
        raise FilterError(f"{one.operator.value!r} takes a string; got {one.value!r}")
    # Every string is >= "" and nothing else is: a list that has the text as a member is no match.
    return {one.key: {operator: one.value, "$gte": ""}}
