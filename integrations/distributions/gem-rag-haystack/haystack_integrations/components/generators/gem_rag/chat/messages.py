"""Haystack's messages and tools in the core's form, and answers back in Haystack's."""

from __future__ import annotations

import dataclasses
import uuid
from collections.abc import Sequence
from typing import Any

from haystack.dataclasses import (
    ChatMessage,
    ChatRole,
    ComponentInfo,
    FinishReason,
    StreamingChunk,
    TextContent,
    ToolCall,
    ToolCallDelta,
    ToolCallResult,
)
from haystack.tools import ToolsType, flatten_tools_or_toolsets

from gem_rag.engine.calls import CallPiece
from gem_rag.engine.results import Generation
from gem_rag.errors import GemError
from gem_rag.text.template import Message


def to_messages(messages: Sequence[ChatMessage] | str) -> list[Message]:
    """Chat messages, or what a user says, as `GemModel.generate` takes them.

    Raises:
        GemError: A user or a tool shows something that is not text.
    """
    if isinstance(messages, str):
        return [{"role": "user", "content": messages}]
    return [one for message in messages for one in _to_messages(message)]


def _to_messages(message: ChatMessage) -> list[Message]:
    """One message; of a tool's, one for each result in it."""
    if results := message.tool_call_results:
        return [
            {"role": "tool", "name": result.origin.tool_name, "content": _words(result)}
            for result in results
        ]
    if (message.images or message.files) and not message.is_from(ChatRole.ASSISTANT):
        raise GemError("a message holds an image or a file; this model takes text only")
    out: Message = {"role": message.role.value, "content": "\n".join(message.texts)}
    if message.name is not None:
        out["name"] = message.name
    if calls := message.tool_calls:
        out["tool_calls"] = [{"name": c.tool_name, "arguments": c.arguments} for c in calls]
    return [out]


def _words(result: ToolCallResult) -> str:
    if isinstance(result.result, str):
        return result.result
    texts = [part.text for part in result.result if isinstance(part, TextContent)]
    if len(texts) < len(result.result):
        raise GemError(
            f"the result of {result.origin.tool_name!r} holds more than text; this model takes "
            "text only"
        )
    return "\n".join(texts)


def to_tools(tools: ToolsType | None) -> list[dict[str, Any]]:
    """Tools and toolsets as OpenAI-style dicts."""
    return [
        {"type": "function", "function": dict(tool.tool_spec)}
        for tool in flatten_tools_or_toolsets(tools)
    ]


def to_reply(generation: Generation, model: str, call_ids: Sequence[str] = ()) -> ChatMessage:
    """An answer as the assistant's message: text, tool calls, and `meta_of` it.

    Args:
        generation: The answer.
        model: Its model's name.
        call_ids: By which its calls were told of already.
    """
    ids = [*call_ids, *(_call_id() for _ in generation.tool_calls)]
    calls = [
        ToolCall(tool_name=call.name, arguments=call.arguments, id=call_id)
        for call, call_id in zip(generation.tool_calls, ids, strict=False)
    ]
    return ChatMessage.from_assistant(
        text=generation.text or None,
        tool_calls=calls,
        meta={"index": 0, "finish_reason": reason_of(generation), **meta_of(generation, model)},
    )


def meta_of(generation: Generation, model: str) -> dict[str, Any]:
    """Model and token counts, named as Haystack's tracers read them, and what came to nothing."""
    usage = dataclasses.asdict(generation.usage)
    usage["total_tokens"] = generation.usage.total_tokens
    meta: dict[str, Any] = {"model": model, "usage": usage}
    if generation.invalid_tool_calls:
        meta["invalid_tool_calls"] = [dataclasses.asdict(c) for c in generation.invalid_tool_calls]
    if generation.misfit:
        meta["misfit"] = generation.misfit
    return meta


def reason_of(generation: Generation) -> FinishReason | None:
    """Why an answer ended, in Haystack's words; None where it was cancelled."""
    if generation.tool_calls:
        return "tool_calls"
    return None if generation.finish_reason == "cancelled" else generation.finish_reason


class Chunks:
    """The pieces of one streamed answer as chunks; its text is block 0, its calls those after.

    Args:
        model: Its name.
        info: Of the component.
    """

    def __init__(self, model: str, info: ComponentInfo) -> None:
        self._model = model
        self._info = info
        self._begun = False  # its text
        self._ids: dict[int, str] = {}  # of calls that are not broken, by their place

    @property
    def call_ids(self) -> list[str]:
        """Of the calls so far, in their order."""
        return list(self._ids.values())

    def of(self, piece: str | CallPiece) -> StreamingChunk:
        """A piece of text or of a tool call."""
        return self._text(piece) if isinstance(piece, str) else self._call(piece)

    def _text(self, piece: str) -> StreamingChunk:
        is_first, self._begun = not self._begun, True
        return StreamingChunk(
            content=piece,
            meta={"model": self._model},
            component_info=self._info,
            index=0,
            start=is_first,
        )

    def _call(self, piece: CallPiece) -> StreamingChunk:
        is_first = piece.index not in self._ids
        call_id = self._ids.setdefault(piece.index, _call_id())
        if piece.is_broken:
            del self._ids[piece.index]
        delta = ToolCallDelta(
            index=piece.index,
            tool_name=piece.name or None,
            arguments=piece.arguments,
            id=call_id if is_first else None,
        )
        return StreamingChunk(
            content="",
            meta={"model": self._model},
            component_info=self._info,
            index=1 + piece.index,
            start=is_first,
            tool_calls=[delta],
        )

    def last(self, generation: Generation) -> StreamingChunk:
        """The end of the answer: why it ended, and its token counts."""
        return StreamingChunk(
            content="",
            meta=meta_of(generation, self._model),
            component_info=self._info,
            finish_reason=reason_of(generation),
        )


def _call_id() -> str:
    return f"call_{uuid.uuid4().hex}"
