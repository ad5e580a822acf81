"""LangChain messages to the core's and back."""

from __future__ import annotations

import json
import uuid
from collections.abc import Mapping, Sequence
from typing import Any

from langchain_core.messages import (
    AIMessage,
    AIMessageChunk,
    BaseMessage,
    ChatMessage,
    FunctionMessage,
    HumanMessage,
    SystemMessage,
    ToolMessage,
)
from langchain_core.messages.tool import invalid_tool_call, tool_call, tool_call_chunk

from gem_rag.engine.calls import CallPiece
from gem_rag.engine.results import Generation
from gem_rag.errors import GemError
from gem_rag.text.template import Message
from langchain_gem_rag.shared import usage

ROLES: tuple[tuple[type[BaseMessage], str], ...] = (
    (HumanMessage, "user"),
    (AIMessage, "assistant"),
    (SystemMessage, "system"),
    (ToolMessage, "tool"),
    (FunctionMessage, "tool"),
)
# As other libraries call them, in messages whose role is given by name.
NAMED_ROLES = {
    "human": "user",
    "ai": "assistant",
    "chatbot": "assistant",
    "model": "assistant",
    "developer": "system",
    "function": "tool",
}
CALLS = {"function_call", "tool_call", "tool_use"}
# What another model thought, or did by itself: no words of the conversation.
THOUGHTS = {
    *CALLS,
    *("invalid_tool_call", "non_standard", "reasoning", "redacted_thinking", "thinking"),
    *("server_tool_call", "server_tool_result", "server_tool_use", "web_search_tool_result"),
}
# Where the words of blocks are that are not plain text.
WORDS = ("text", "refusal")
HOLDERS = {"document", "search_result", "tool_result"}  # of words, or of blocks of them


def to_core(messages: Sequence[BaseMessage]) -> list[Message]:
    """Messages as the dicts `GemModel.generate` takes.

    Of what other models wrote, words and calls are taken over; their thoughts, searches and
    pictures are no part of the conversation here.

    Raises:
        GemError: A message of a kind this model has no role for, or media from a user or a tool.
    """
    names: dict[str, str] = {}  # of the tools called so far, by the call's id
    return [_to_core(message, names) for message in messages]


def _to_core(message: BaseMessage, names: dict[str, str]) -> Message:
    role = _role(message)
    out: Message = {"role": role, "content": _content(message.content, role)}
    if isinstance(message, AIMessage):
        calls = message.tool_calls or _other_calls(message)
        names |= {str(call.get("id")): call["name"] for call in calls}
        if calls:
            out["tool_calls"] = [{"name": c["name"], "arguments": c["args"]} for c in calls]
    called = names.get(message.tool_call_id) if isinstance(message, ToolMessage) else None
    if name := message.name or called:
        out["name"] = name
    return out


def _role(message: BaseMessage) -> str:
    if isinstance(message, ChatMessage):
        return NAMED_ROLES.get(message.role, message.role)
    for kind, role in ROLES:
        if isinstance(message, kind):
            return role
    raise GemError(f"message of type {message.type!r}; expected human, ai, system or tool")


def _content(content: Any, role: str) -> Any:
    """The words of a message; nothing that a user or a tool shows is left out silently."""
    if not isinstance(content, list):
        return content
    return "".join(_words(block, role) for block in content)


def _words(block: Any, role: str) -> str:
    if isinstance(block, str):
        return block
    if isinstance(block, Mapping) and _kind(block) not in THOUGHTS:
        source = block.get("source")
        if isinstance(source, Mapping) and source.get("type") == "text":  # a document
            return str(source.get("data", ""))
        places = WORDS + ("content",) * (_kind(block) in HOLDERS)
        found = next((block[name] for name in places if block.get(name) is not None), None)
        if isinstance(found, str | list):
            return str(_content(found, role))
    if role == "assistant" or _kind(block) in THOUGHTS:
        return ""
    raise GemError(f"message has a block of type {_kind(block)!r}; this model takes text only")


def _kind(block: Any) -> str:
    return str(block.get("type")) if isinstance(block, Mapping) else type(block).__name__


def _other_calls(message: AIMessage) -> list[dict[str, Any]]:
    """Calls that a history from elsewhere holds in its blocks alone; broken ones are left out."""
    blocks = message.content if isinstance(message.content, list) else []
    held = [block for block in blocks if _kind(block) in CALLS]
    if (single := message.additional_kwargs.get("function_call")) is not None:
        held.append(single)
    calls = []
    for call in held:
        if not isinstance(call, Mapping):
            continue
        given = next((call[name] for name in ("args", "input", "arguments") if name in call), None)
        try:
            args = json.loads(given) if isinstance(given, str) else given
        except json.JSONDecodeError:
            continue
        if call.get("name") and isinstance(args, Mapping):
            called = call.get("call_id") or call.get("id")
            calls.append({"name": str(call["name"]), "args": dict(args), "id": called})
    return calls


def metadata(generation: Generation, model_name: str) -> dict[str, Any]:
    """`response_metadata` of an answer."""
    return {"model_name": model_name, "finish_reason": generation.finish_reason}


def to_message(generation: Generation, model_name: str) -> AIMessage:
    """An answer as a message."""
    return AIMessage(
        content=generation.text,
        tool_calls=[
            tool_call(name=call.name, args=call.arguments, id=_call_id())
            for call in generation.tool_calls
        ],
        invalid_tool_calls=[
            invalid_tool_call(
                name=call.name or None, args=call.arguments, id=_call_id(), error=call.error
            )
            for call in generation.invalid_tool_calls
        ],
        usage_metadata=usage(generation),
        response_metadata=metadata(generation, model_name),
    )


class Chunks:
    """The pieces of one streamed answer as chunks."""

    def __init__(self) -> None:
        self._written: dict[int, str] = {}  # arguments of each call so far

    def of(self, piece: str | CallPiece) -> AIMessageChunk:
        """A piece of text or of a tool call."""
        if isinstance(piece, str):
            return AIMessageChunk(content=piece)
        is_first = piece.index not in self._written
        arguments = piece.arguments
        written = self._written.get(piece.index, "") + arguments
        if piece.is_broken:
            arguments += _unreadable(written)
        self._written[piece.index] = written
        chunk = tool_call_chunk(
            name=piece.name or None,
            args=arguments,
            id=_call_id() if is_first else None,
            index=piece.index,
        )
        return AIMessageChunk(content="", tool_call_chunks=[chunk])


def _unreadable(written: str) -> str:
    """What makes a broken call's arguments one: LangChain would close what was cut off."""
    opened, in_string, escaped = [""], False, False
    for character in written:
        if in_string:
            escaped, in_string = character == "\\" and not escaped, character != '"' or escaped
        elif character == '"':
            in_string = True
        elif character in "{[":
            opened.append(character)
        elif character in "}]" and len(opened) > 1:
            opened.pop()
    return '"' * (in_string + escaped) + ("}" if opened[-1] == "[" else "]")


def last_chunk(generation: Generation, model_name: str) -> AIMessageChunk:
    """The end of a streamed answer: its usage and metadata."""
    return AIMessageChunk(
        content="",
        usage_metadata=usage(generation),
        response_metadata=metadata(generation, model_name),
        chunk_position="last",
    )


def _call_id() -> str:
    return f"call_{uuid.uuid4().hex}"
