"""LlamaIndex's messages and tools in the core's form, and answers back in LlamaIndex's."""

from __future__ import annotations

import dataclasses
import json
import uuid
from collections.abc import Sequence
from typing import Any

from llama_index.core.base.llms.types import (
    CachePoint,
    ChatMessage,
    ChatResponse,
    ContentBlock,
    MessageRole,
    TextBlock,
    ThinkingBlock,
    ToolCallBlock,
)

from gem_rag.engine.results import Generation
from gem_rag.errors import GemError
from gem_rag.text.template import Message

_ROLES = {
    MessageRole.DEVELOPER: "system",
    MessageRole.CHATBOT: "assistant",
    MessageRole.MODEL: "assistant",
    MessageRole.FUNCTION: "tool",
}
# Blocks that say nothing to the model: a hint for hosted caches, an earlier train of thought.
_SILENT = (CachePoint, ThinkingBlock)


def to_messages(messages: Sequence[ChatMessage]) -> list[Message]:
    """Chat messages as `GemModel.generate` takes them.

    Raises:
        GemError: A message holds something that is not text.
    """
    names: dict[str, str] = {}  # of the tools called so far, by the call's id
    out = []
    for message in messages:
        calls = [block for block in message.blocks if isinstance(block, ToolCallBlock)]
        names |= {call.tool_call_id: call.tool_name for call in calls if call.tool_call_id}
        out.append(_to_message(message, calls, names))
    return out


def _to_message(
    message: ChatMessage, calls: Sequence[ToolCallBlock], names: dict[str, str]
) -> Message:
    role = _ROLES.get(message.role, message.role.value)
    out: Message = {"role": role, "content": _text(message.blocks)}
    if calls:
        out["tool_calls"] = [
            {"name": call.tool_name, "arguments": arguments_of(call)} for call in calls
        ]
    if role == "tool":
        extra = message.additional_kwargs
        out["name"] = names.get(extra.get("tool_call_id", ""), extra.get("name", ""))
    return out


def _text(blocks: Sequence[ContentBlock]) -> str:
    """What a message says, its text blocks on lines of their own, as `ChatMessage.content`."""
    texts = []
    for block in blocks:
        if isinstance(block, TextBlock):
            texts.append(block.text)
        elif not isinstance(block, (*_SILENT, ToolCallBlock)):
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


def to_raw(generation: Generation, model_name: str) -> dict[str, Any]:
    """Model, finish reason and token counts, named as LlamaIndex's token counter reads them."""
    usage = dataclasses.asdict(generation.usage)
    usage["total_tokens"] = generation.usage.total_tokens
    return {"model": model_name, "finish_reason": generation.finish_reason, "usage": usage}


def tool_choice_of(choice: str | dict[str, Any] | None, *, required: bool) -> str:
    """A choice as LlamaIndex or OpenAI put it, as the core does: auto, any, none or a name."""
    if choice is None:
        return "any" if required else "auto"
    if isinstance(choice, dict):
        return str(choice["function"]["name"])
    return "any" if choice == "required" else choice
