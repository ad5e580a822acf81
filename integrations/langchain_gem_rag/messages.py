"""LangChain messages to the core's and back."""

from __future__ import annotations

import json
import uuid
from collections.abc import Sequence
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
from langchain_core.messages.tool import tool_call, tool_call_chunk

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
# Blocks that say again what `tool_calls` holds, or are no part of the conversation.
SILENT_BLOCKS = {"tool_use", "tool_call", "reasoning", "thinking"}


def to_core(messages: Sequence[BaseMessage]) -> list[Message]:
    """Messages as the dicts `GemModel.generate` takes.

    Raises:
        GemError: A message of a kind this model has no role for.
    """
    return [_to_core(message) for message in messages]


def _to_core(message: BaseMessage) -> Message:
    out: Message = {"role": _role(message), "content": _content(message.content)}
    if isinstance(message, AIMessage) and message.tool_calls:
        calls = [{"name": c["name"], "arguments": c["args"]} for c in message.tool_calls]
        out["tool_calls"] = calls
    if message.name:
        out["name"] = message.name
    return out


def _role(message: BaseMessage) -> str:
    if isinstance(message, ChatMessage):
        return message.role
    for kind, role in ROLES:
        if isinstance(message, kind):
            return role
    raise GemError(f"message of type {message.type!r}; expected human, ai, system or tool")


def _content(content: Any) -> Any:
    if not isinstance(content, list):
        return content
    return [c for c in content if not (isinstance(c, dict) and c.get("type") in SILENT_BLOCKS)]


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
        usage_metadata=usage(generation),
        response_metadata=metadata(generation, model_name),
    )


def last_chunk(generation: Generation, model_name: str) -> AIMessageChunk:
    """The end of a streamed answer: its tool calls, usage and metadata."""
    return AIMessageChunk(
        content="",
        tool_call_chunks=[
            tool_call_chunk(
                name=call.name, args=json.dumps(call.arguments), id=_call_id(), index=index
            )
            for index, call in enumerate(generation.tool_calls)
        ],
        usage_metadata=usage(generation),
        response_metadata=metadata(generation, model_name),
        chunk_position="last",
    )


def _call_id() -> str:
    return f"call_{uuid.uuid4().hex}"
