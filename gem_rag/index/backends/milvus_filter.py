"""Conditions in Milvus's language."""

import json
from collections.abc import Callable, Sequence

from gem_rag.index.backends.store import (
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

ALL = ""
_NONE = 'key == ""'
_SYMBOLS = {"$gt": ">", "$gte": ">=", "$lt": "<", "$lte": "<="}


def expression(where: Condition, key: Callable[[str], str]) -> str:
    """A condition in Milvus's language.

    Args:
        where: The condition.
        key: From a chunk's id, what it is called by in Milvus.

    Returns:
        `ALL` where it matches everything.
    """
    match where:
        case And(parts):
            tests = [test for part in parts if (test := expression(part, key)) != ALL]
            return _joined("and", tests)
        case Or(parts):
            tests = [expression(part, key) for part in parts]
            return ALL if ALL in tests else _joined("or", tests) or _NONE
        case Negated(part):
            test = expression(part, key)
            return _NONE if test == ALL else f"(not {test})"
        case HasId(ids):
            return _among("key", [key(name) for name in ids])
        case Tokens(tokens):
            return f"array_contains_any(tokens, {_list(tokens)})" if tokens else _NONE
        case Among(column, values):
            # Whether "not in" holds where there is no value, versions of Milvus see differently.
            test = _among(column, values)
            return f"({column} is not null and {test})" if column in _NULLABLE else test
        case Part(column, text):
            pattern = text.replace("\\", "\\\\").replace("%", "\\%").replace("_", "\\_")
            return f"({column} is not null and {column} like {_text(f'%{pattern}%')})"
        case Number(name, operator, operand):
            return f'(numbers["{name}"] {_SYMBOLS[operator]} {operand!r})'


_NULLABLE = ("source", "heading")


def _joined(word: str, tests: Sequence[str]) -> str:
    return f"({f' {word} '.join(tests)})" if tests else ALL


def _among(column: str, values: Sequence[str]) -> str:
    return f"({column} in {_list(values)})" if values else _NONE


def _list(values: Sequence[str]) -> str:
    return f"[{', '.join(map(_text, values))}]"


def _text(value: str) -> str:
    return json.dumps(value, ensure_ascii=False)
