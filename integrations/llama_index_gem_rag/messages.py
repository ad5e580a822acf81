"""LlamaIndex's messages and tools in the core's form, and answers back in LlamaIndex's."""

from __future__ import annotations

import dataclasses
import json
import uuid
from collections.abc import Mapping, Sequence
from typing import Any

from llama_index.core.base.llms.types import (
    CachePoint,
    ChatMessage,
    ChatResponse,
    CitableBlock,
    CitationBlock,
    ContentBlock,
    MessageRole,
    TextBlock,
    ThinkingBlock,
    ToolCallBlock,
)
from llama_index.core.bridge.pydantic import BaseModel

from gem_rag.engine.results import Generation
from gem_rag.errors import GemError
from gem_rag.text.template import Message
from gem_rag.text.tools import choice_of

_ROLES = {
    MessageRole.DEVELOPER: "system",
    MessageRole.CHATBOT: "assistant",
    MessageRole.MODEL: "assistant",
    MessageRole.FUNCTION: "tool",
}
# Blocks that say nothing to the model: a hint for hosted caches, an earlier train of thought.
_SILENT = (CachePoint, ThinkingBlock, ToolCallBlock)


def to_messages(messages: Sequence[ChatMessage]) -> list[Message]:
    """Chat messages as `GemModel.generate` takes them.

    Raises:
        GemError: A message holds something that is not text.
    """
    names: dict[str, str] = {}  # of the tools called so far, by the call's id
    out = []
    for message in messages:
        calls = _calls(message)
        names |= {call.tool_call_id: call.tool_name for call in calls if call.tool_call_id}
        out.append(_to_message(message, calls, names))
    return out


def _to_message(
    message: ChatMessage, calls: Sequence[ToolCallBlock], names: dict[str, str]
) -> Message:
    role = _ROLES.get(message.role, message.role.value)
    out: Message = {"role": role, "content": _text(message.blocks, role)}
    if calls:
        out["tool_calls"] = [
            {"name": call.tool_name, "arguments": arguments_of(call)} for call in calls
        ]
    if role == "tool":
        extra = message.additional_kwargs
        out["name"] = names.get(extra.get("tool_call_id", ""), extra.get("name", ""))
    return out


def _calls(message: ChatMessage) -> list[ToolCallBlock]:
    """A message's calls, those in other libraries' places too; broken ones are left out."""
    calls = [block for block in message.blocks if isinstance(block, ToolCallBlock)]
    held = message.additional_kwargs.get("tool_calls") or []
    if not calls and message.role == MessageRole.ASSISTANT and isinstance(held, list):
        calls = [call for other in held if (call := _other_call(other)) is not None]
    return [call for call in calls if _is_readable(call)]


def _other_call(call: Any) -> ToolCallBlock | None:
    """An OpenAI-style call, a dict or a client's object, as a block."""
    held = call.model_dump() if isinstance(call, BaseModel) else call
    function = held.get("function") if isinstance(held, Mapping) else None
    if not isinstance(function, Mapping) or not function.get("name"):
        return None
    arguments = function.get("arguments") or "{}"
    return ToolCallBlock(
        tool_call_id=held.get("id"), tool_name=function["name"], tool_kwargs=arguments
    )


def _is_readable(call: ToolCallBlock) -> bool:
    try:
        return isinstance(arguments_of(call), dict)
    except json.JSONDecodeError:
        return False


def _text(blocks: Sequence[ContentBlock], role: str) -> str:
    """What a message says, its text blocks on lines of their own, as `ChatMessage.content`.

    What another model showed beside its words is left out; what a user or a tool shows is not.
    """
    texts = []
    for block in blocks:
        if isinstance(block, TextBlock):
            texts.append(block.text)
        elif isinstance(block, CitationBlock):
            texts.append(_text([block.cited_content], role))
        elif isinstance(block, CitableBlock):
            texts.append(_text(block.content, role))
        elif not isinstance(block, _SILENT) and role != "assistant":
            raise GemError(
                f"message has a block of type {block.block_type!r}; this model takes text only"
            )
    return "\n".join(texts)


def arguments_of(call: ToolCallBlock) -> dict[str, Any]:
    """A call's arguments; other models' calls may hold them as JSON."""
    held = call.tool_kwargs
    arguments: dict[str, Any] = json.loads(held) if isinstance(held, str) else held
    return arguments


def to_response(generation: Generation, model_name: str, delta: str | None = None) -> ChatResponse:
    """A generation as a chat response: text and tool calls, and `to_raw` in ``raw``."""
    calls = [
        ToolCallBlock(
            tool_call_id=f"call_{uuid.uuid4().hex}",
            tool_name=call.name,
            tool_kwargs=call.arguments,
        )
        for call in generation.tool_calls
    ]
    text = [TextBlock(text=generation.text)] if generation.text or not calls else []
    return ChatResponse(
        message=ChatMessage(role=MessageRole.ASSISTANT, blocks=[*text, *calls]),
        delta=delta,
        raw=to_raw(generation, model_name),
    )


def why_no_call(response: ChatResponse) -> str:
    """What is said where a response should have called a tool and did not."""
    raw = response.raw if isinstance(response.raw, Mapping) else {}
    if broken := raw.get("invalid_tool_calls"):
        return f"expected a tool call, found one that was cut off: {broken[0]}; raise max_tokens"
    return (
        f"expected a tool call, found the text {response.message.content!r}; pass "
        "tool_required=True to make the model call one"
    )


def to_raw(generation: Generation, model_name: str) -> dict[str, Any]:
    """Model, finish reason and token counts, named as LlamaIndex's token counter reads them.

    Calls that came to nothing and why an answer does not fit its schema, where that is so.
    """
    usage = dataclasses.asdict(generation.usage)
    del usage["proposed_tokens"], usage["accepted_tokens"]  # which what ran beside it decides
    usage["total_tokens"] = generation.usage.total_tokens
    raw: dict[str, Any] = {
        "model": model_name,
        "finish_reason": generation.finish_reason,
        "usage": usage,
    }
    if generation.invalid_tool_calls:
        raw["invalid_tool_calls"] = [dataclasses.asdict(c) for c in generation.invalid_tool_calls]
    if generation.misfit:
        raw["misfit"] = generation.misfit
    return raw


def tool_choice_of(choice: Any, *, required: bool) -> str:
    """A choice as LlamaIndex or any provider put it, as the core does: see `choice_of`."""
    return "any" if choice is None and required else choice_of(choice)
