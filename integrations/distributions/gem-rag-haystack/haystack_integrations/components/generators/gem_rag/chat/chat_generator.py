"""GemChatGenerator: a GEM model as Haystack's chat generator."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Sequence
from functools import partial
from typing import Any

from haystack import component, default_from_dict, default_to_dict
from haystack.dataclasses import (
    ChatMessage,
    ComponentInfo,
    StreamingCallbackT,
    select_streaming_callback,
)
from haystack.tools import (
    ToolsType,
    deserialize_tools_or_toolset_inplace,
    serialize_tools_or_toolset,
)
from haystack.utils import ComponentDevice, deserialize_callable, serialize_callable
from haystack_integrations.common.gem_rag import NamedModel
from haystack_integrations.components.generators.gem_rag.chat.messages import (
    Chunks,
    to_messages,
    to_reply,
    to_tools,
)
from pydantic import BaseModel

from gem_rag.arguments import renamed
from gem_rag.engine.calls import CallPiece
from gem_rag.engine.options import ALIASES, GenerationOptions
from gem_rag.engine.results import Generation
from gem_rag.engine.streams import AwaitedPieces, CallStream
from gem_rag.model import Model
from gem_rag.text.schemas import asked_for, at_root, closed


@component
class GemChatGenerator:
    """Answers conversations with a GEM model, streams, calls tools and fills schemas.

    Arguments of tool calls, and answers with a ``response_format``, always fit their schema.

    Args:
        model: A bundled name, folder or hub id, or a loaded `GemModel`; None is the default.
        device: Where it runs; None chooses.
        dtype: As for `GemModel.from_pretrained`, like ``revision``.
        revision: Of a hub id.
        generation_kwargs: ``max_tokens``, ``temperature``, ``stop``, ``top_p``, ``seed``,
            ``response_format`` and the other options of `GemModel.generate`.
        timeout: Seconds an answer may take; after that it is an error.
        streaming_callback: Called with each chunk of an answer.
        tools: What the model may call.

    Raises:
        OptionError: There is no such option.
    """

    def __init__(
        self,
        model: Model = None,
        *,
        device: ComponentDevice | None = None,
        dtype: str = "auto",
        revision: str | None = None,
        generation_kwargs: dict[str, Any] | None = None,
        timeout: float | None = None,
        streaming_callback: StreamingCallbackT | None = None,
        tools: ToolsType | None = None,
    ) -> None:
        self._named = NamedModel(model, device, dtype, revision)
        self.model = self._named.name
        self.generation_kwargs = generation_kwargs or {}
        self.timeout = timeout
        self.streaming_callback = streaming_callback
        self.tools = tools
        GenerationOptions.of(self._options(None, None))  # an unknown name is said now

    def warm_up(self) -> None:
        """Load the model, unless it is loaded."""
        self._named.load()

    def to_dict(self) -> dict[str, Any]:
        """The component as a dict; a ``response_format`` that is a class is its schema there."""
        callback = self.streaming_callback
        return default_to_dict(
            self,
            **self._named.to_dict(),
            generation_kwargs=_written(self.generation_kwargs),
            timeout=self.timeout,
            streaming_callback=serialize_callable(callback) if callback else None,
            tools=serialize_tools_or_toolset(self.tools),
        )

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> GemChatGenerator:
        """The component of such a dict."""
        given = data["init_parameters"]
        deserialize_tools_or_toolset_inplace(given, key="tools")
        if callback := given.get("streaming_callback"):
            given["streaming_callback"] = deserialize_callable(callback)
        return default_from_dict(cls, data)

    @component.output_types(replies=list[ChatMessage])
    def run(
        self,
        messages: list[ChatMessage] | str,
        streaming_callback: StreamingCallbackT | None = None,
        generation_kwargs: dict[str, Any] | None = None,
        *,
        tools: ToolsType | None = None,
    ) -> dict[str, list[ChatMessage]]:
        """Answer a conversation.

        Args:
            messages: The conversation, or what a user says.
            streaming_callback: Called with each chunk; None is the component's.
            generation_kwargs: Options over the component's.
            tools: What the model may call; None is the component's.

        Returns:
            ``replies``: the answer, with finish reason and token counts in its ``meta``.
        """
        if not messages:
            return {"replies": []}
        callback = select_streaming_callback(
            self.streaming_callback, streaming_callback, requires_async=False
        )
        gem, options = self._named.load(), self._options(generation_kwargs, tools)
        if callback is None:
            return self._result(gem.generate(to_messages(messages), **options))
        chunks = self._chunks()
        with gem.stream(to_messages(messages), **options) as stream:
            for piece in stream.with_calls():
                callback(chunks.of(piece))
            callback(chunks.last(stream.generation))
        return self._result(stream.generation, chunks.call_ids)

    @component.output_types(replies=list[ChatMessage])
    async def run_async(
        self,
        messages: list[ChatMessage] | str,
        streaming_callback: StreamingCallbackT | None = None,
        generation_kwargs: dict[str, Any] | None = None,
        *,
        tools: ToolsType | None = None,
    ) -> dict[str, list[ChatMessage]]:
        """`run` without blocking the event loop; cancelling stops after the next token."""
        if not messages:
            return {"replies": []}
        callback = select_streaming_callback(
            self.streaming_callback, streaming_callback, requires_async=True
        )
        gem = await asyncio.to_thread(self._named.load)
        asked, options = to_messages(messages), self._options(generation_kwargs, tools)
        if callback is None:
            return self._result(await gem.agenerate(asked, **options))
        chunks = self._chunks()
        start = partial(gem.stream, asked, **options)
        pieces = AwaitedPieces[CallStream, str | CallPiece](lambda: CallStream(start()))
        async for piece in pieces:
            await _awaited(callback(chunks.of(piece)))
        await _awaited(callback(chunks.last(pieces.stream.generation)))
        return self._result(pieces.stream.generation, chunks.call_ids)

    def _options(
        self, generation_kwargs: dict[str, Any] | None, tools: ToolsType | None
    ) -> dict[str, Any]:
        """The component's options with those of one call over them, as `GemModel` takes them."""
        own, asked = (
            renamed(o or {}, ALIASES) for o in (self.generation_kwargs, generation_kwargs)
        )
        options = _written({"timeout": self.timeout, **own, **asked})
        if (schema := asked_for(options.pop("response_format", None))) is not None:
            options["schema"] = schema
        if known := to_tools(self.tools if tools is None else tools):
            options["tools"] = known
        return options

    def _chunks(self) -> Chunks:
        return Chunks(self.model, ComponentInfo.from_component(self))

    def _result(
        self, generation: Generation, call_ids: Sequence[str] = ()
    ) -> dict[str, list[ChatMessage]]:
        return {"replies": [to_reply(generation, self.model, call_ids)]}


def _written(options: dict[str, Any]) -> dict[str, Any]:
    """Options as a pipeline's file can hold them."""
    asked = options.get("response_format")
    if not isinstance(asked, type) or not issubclass(asked, BaseModel):
        return dict(options)
    schema = closed(at_root(asked.model_json_schema()))
    described = {"name": asked.__name__, "schema": schema}
    return {**options, "response_format": {"type": "json_schema", "json_schema": described}}


async def _awaited(result: Any) -> None:
    if inspect.isawaitable(result):
        await result
