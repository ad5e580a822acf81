"""Tool calls in an answer: read, left out of its text, held back while they are written."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from typing import Any

from gem_rag.text.tools import CALL_END, CALL_START


@dataclass(frozen=True)
class ToolCall:
    """A call a model made."""

    name: str
    arguments: dict[str, Any]


def parse_calls(text: str, names: Collection[str] | None = None) -> tuple[ToolCall, ...]:
    """The calls in an answer; one that was cut off before its end is none.

    Args:
        text: The answer.
        names: Tools that can be called; None is any.
    """
    calls = []
    for part in text.split(CALL_START)[1:]:
        body, end, _ = part.partition(CALL_END)
        try:
            call = json.loads(body) if end else None
        except json.JSONDecodeError:
            continue
        if isinstance(call, dict) and isinstance(call.get("arguments"), dict):
            name = str(call.get("name") or "")
            if name in names if names is not None else name:
                calls.append(ToolCall(name, call["arguments"]))
    return tuple(calls)


def before_calls(text: str) -> str:
    """What an answer says before its first call."""
    return text.partition(CALL_START)[0]


def without_calls(pieces: Iterator[str], names: Collection[str]) -> Iterator[str]:
    """An answer's text piece by piece; what may be a call is held back, and a call left out."""
    held = ""
    for piece in pieces:
        held += piece
        at = _call_place(held)
        if at:
            yield held[:at]
            held = held[at:]
    if held and not parse_calls(held, names):
        yield held


def _call_place(text: str) -> int:
    """Where a call begins, or may begin at the end of what is there."""
    at = text.find(CALL_START)
    if at >= 0:
        return at
    ends = (i for i in range(1, len(CALL_START)) if text.endswith(CALL_START[:i]))
    return len(text) - max(ends, default=0)
