"""GemChat: a GEM model that `llm` asks: in conversations, piece by piece, with tools."""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import llm
from llm.models import AsyncConversation, AsyncResponse, Conversation, Prompt, Response
from llm.parts import Message, StreamEvent, TextPart, ToolCallPart, ToolResultPart
from pydantic import Field

if TYPE_CHECKING:
    from gem_rag.engine.results import Generation
    from gem_rag.model import GemModel


class Options(llm.Model.Options):
    """What `-o` takes."""

    max_tokens: int | None = Field(default=None, gt=0, description="Longest answer; 256.")
    temperature: float | None = Field(default=None, ge=0, description="0, the default, is greedy.")
    top_p: float | None = Field(default=None, gt=0, le=1, description="Nucleus sampling.")
    top_k: int | None = Field(default=None, ge=0, description="Sample from so many; 0 is all.")
    seed: int | None = Field(default=None, description="Makes sampling repeatable.")
    stop: str | list[str] | None = Field(default=None, description="What ends an answer.")
    timeout: float | None = Field(default=None, gt=0, description="Seconds for an answer.")
    truncate: bool | None = Field(default=None, description="Cut a prompt that does not fit.")
    skill: str | None = Field(default=None, description="A skill of the model that answers.")
    tool_choice: str | None = Field(default=None, description="auto, any, none or a tool's name.")


class _Asks:
    """What both twins share: who is asked, and what."""

    can_stream = True
    supports_schema = True
    supports_tools = True

    def __init__(self, model_id: str, model: str | None = None) -> None:
        self.model_id = model_id
        self._model = model

    def __str__(self) -> str:
        return f"gem-rag: {self.model_id}"

    def load(self) -> GemModel:
        """The model, shared with all who name it."""
        from gem_rag.model import GemModel

        return GemModel.from_pretrained(self._model)


class GemChat(_Asks, llm.Model):
    """A GEM model; what it makes of a prompt comes piece by piece.

    Args:
        model_id: Its name in `llm`.
        model: A bundled name, folder or hub id; None is the default.
    """

    Options = Options

    def execute(
        self,
        prompt: Prompt,
        stream: bool,
        response: Response,
        conversation: Conversation | None = None,  # noqa: ARG002
    ) -> Iterator[str | StreamEvent]:
        """Answer; without ``stream`` in one piece."""
        asked, options = to_messages(prompt.messages), to_options(prompt)
        if stream:
            with self.load().stream(asked, **options) as pieces:
                yield from pieces
                generation = pieces.generation
        else:
            generation = self.load().generate(asked, **options)
            yield generation.text
        record(generation, response)


class AsyncGemChat(_Asks, llm.AsyncModel):
    """`GemChat` without blocking the event loop; arguments as there."""

    Options = Options

    async def execute(
        self,
        prompt: Prompt,
        stream: bool,
        response: AsyncResponse,
        conversation: AsyncConversation | None = None,  # noqa: ARG002
    ) -> AsyncGenerator[str | StreamEvent, None]:
        """Answer; without ``stream`` in one piece."""
        asked, options = to_messages(prompt.messages), to_options(prompt)
        if stream:
            pieces = self.load().astream(asked, **options)
            async for piece in pieces:
                yield piece
            generation = pieces.generation
        else:
            generation = await self.load().agenerate(asked, **options)
            yield generation.text
        record(generation, response)


def to_messages(messages: Sequence[Message]) -> list[dict[str, Any]]:
    """The conversation as `GemModel.generate` takes it; of earlier thoughts nothing is told."""
    return [one for message in messages for one in _to_messages(message)]


def _to_messages(message: Message) -> list[dict[str, Any]]:
    """One message; of tools' results, one for each."""
    results = [part for part in message.parts if isinstance(part, ToolResultPart)]
    if results:
        return [
            {"role": "tool", "name": result.name, "content": result.output} for result in results
        ]
    texts = [part.text for part in message.parts if isinstance(part, TextPart)]
    out: dict[str, Any] = {"role": message.role, "content": "\n".join(texts)}
    calls = [part for part in message.parts if isinstance(part, ToolCallPart)]
    if calls:
        out["tool_calls"] = [{"name": call.name, "arguments": call.arguments} for call in calls]
    return [out]


def to_options(prompt: Prompt) -> dict[str, Any]:
    """What `-o`, a schema and tools ask for, as `GemModel.generate` takes it."""
    options: dict[str, Any] = prompt.options.model_dump(exclude_none=True)
    if prompt.schema:
        options["schema"] = prompt.schema
    tools = [tool for tool in prompt.tools if isinstance(tool, llm.Tool)]
    if tools:
        options["tools"] = [
            {
                "name": tool.name,
                "description": tool.description or "",
                "parameters": tool.input_schema,
            }
            for tool in tools
        ]
    return options


def record(generation: Generation, response: Response | AsyncResponse) -> None:
    """What `llm` logs beside the words: token counts, calls, and why the answer ended."""
    usage = generation.usage
    details = {"cached": usage.cached_tokens} if usage.cached_tokens else None
    response.set_usage(input=usage.prompt_tokens, output=usage.completion_tokens, details=details)
    for call in generation.tool_calls:
        response.add_tool_call(llm.ToolCall(name=call.name, arguments=call.arguments))
    response.response_json = {"finish_reason": generation.finish_reason}
    for broken in generation.invalid_tool_calls:
        text = json.dumps({"name": broken.name, "arguments": broken.arguments})
        raise llm.ModelError(f"a tool call came to nothing: {broken.error}: {text}")
