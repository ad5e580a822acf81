"""Messages of OpenAI's shape as the model takes them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from gem_rag.server.errors import ApiError
from gem_rag.server.openai.requests import ChatMessage, Part
from gem_rag.text.template import Message

ROLES = {"developer": "system"}


def to_core(messages: Sequence[ChatMessage]) -> list[Message]:
    """Messages with their words, calls and results.

    Raises:
        ApiError: One holds what this model cannot read.
    """
    names: dict[str, str] = {}  # of the tools called so far, by the call's id
    return [_to_core(message, names) for message in messages]


def _to_core(message: ChatMessage, names: dict[str, str]) -> Message:
    role = ROLES.get(message.role, message.role)
    out: Message = {"role": role, "content": words(message.content)}
    if message.tool_calls:
        names |= {call.id: call.function.name for call in message.tool_calls}
        out["tool_calls"] = [
            {"name": call.function.name, "arguments": _arguments(call.function.arguments)}
            for call in message.tool_calls
        ]
    called = names.get(message.tool_call_id or "") if role == "tool" else None
    if name := message.name or called:
        out["name"] = name
    return out


def words(content: str | list[Part] | None) -> str:
    """What a message says.

    Raises:
        ApiError: It shows something else.
    """
    if content is None or isinstance(content, str):
        return content or ""
    return "".join(_part(part) for part in content)


def _part(part: Part) -> str:
    said = part.text if part.text is not None else part.refusal
    if part.type not in ("text", "refusal") or said is None:
        raise ApiError(
            400, f"a part is of type {part.type!r}; this model reads text", param="messages"
        )
    return said


def _arguments(written: str) -> dict[str, Any]:
    try:
        found = json.loads(written or "{}")
    except ValueError:
        found = None
    if not isinstance(found, dict):
        raise ApiError(400, f"arguments are {written!r}; expected an object", param="messages")
    return found
