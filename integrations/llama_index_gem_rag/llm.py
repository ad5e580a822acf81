"""GemLLM: a GEM model as LlamaIndex's language model."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from llama_index.core.base.llms.types import (
    ChatMessage,
    ChatResponse,
    ChatResponseAsyncGen,
    ChatResponseGen,
    CompletionResponse,
    CompletionResponseAsyncGen,
    CompletionResponseGen,
    LLMMetadata,
    ToolCallBlock,
)
from llama_index.core.bridge.pydantic import Field, PrivateAttr
from llama_index.core.llms.callbacks import llm_chat_callback, llm_completion_callback
from llama_index.core.llms.llm import ToolSelection, default_completion_to_prompt

from gem_rag.arguments import renamed, require_known
from gem_rag.engine.options import ALIASES, FIELD_ALIASES, GenerationOptions
from gem_rag.engine.streams import AsyncStream
from gem_rag.errors import OptionError
from gem_rag.model import LOADING, GemModel, Model, as_model, name_of
from llama_index_gem_rag.messages import (
    arguments_of,
    to_messages,
    to_raw,
    to_response,
    tool_choice_of,
    why_no_call,
)
from llama_index_gem_rag.pickling import PickledWhole
from llama_index_gem_rag.schemas import as_tool
from llama_index_gem_rag.structured import StructuredGenerator

if TYPE_CHECKING:
    from llama_index.core.tools.types import BaseTool

    from gem_rag.engine.request import Request
    from gem_rag.engine.results import Generation
    from gem_rag.engine.streams import Stream


class GemLLM(PickledWhole, StructuredGenerator):
    """Answers, streams, calls tools and fills classes with a GEM model's base.

    Every call takes the fields below and any other option of `GemModel.generate` by name
    (``stop``, ``truncate``, ``schema``, ``logits_hook``, ...; ``max_new_tokens`` is the same as
    ``max_tokens``, here and there); what it is not given is as set here. Responses hold model name,
    finish reason and token counts in ``raw``; when streaming, all do, and the last one's are the
    whole's.
    Async calls that wait at the same time are generated together.

    Args:
        model: A bundled name, folder or hub id, or a loaded `GemModel`; None is the default.
        **options: The fields below, those of LlamaIndex's `LLM` (``system_prompt``,
            ``callback_manager``, ...) and options of `GemModel.from_pretrained` (``device``,
            ``dtype``, ``revision``).
    """

    model_name: str = Field(default="", description="What the model is called.")
    max_tokens: int = Field(default=256, description="Longest answer, in tokens.", gt=0)
    temperature: float = Field(default=0.0, description="0 is greedy.", ge=0)
    top_p: float = Field(default=1.0, description="Nucleus sampling.", gt=0, le=1)
    top_k: int = Field(default=0, description="Sample from so many tokens; 0 is all.", ge=0)
    seed: int | None = Field(default=None, description="Makes sampling repeatable.")
    stop: list[str] | None = Field(default=None, description="Strings that end an answer.")
    skill: str | None = Field(default=None, description="A skill that answers, by name.")
    timeout: float | None = Field(default=None, description="Seconds for an answer.", gt=0)
    context_window: int | None = Field(
        default=None, description="Tokens to tell LlamaIndex of; None is the model's.", gt=0
    )
    _model: GemModel = PrivateAttr()

    def __init__(self, model: Model = None, **options: Any) -> None:
        options = renamed(options, FIELD_ALIASES)
        loading = {name: options.pop(name) for name in LOADING if name in options}
        options.pop("class_name", None)
        known = {*type(self).model_fields, *LOADING}
        require_known(options, known, self.class_name(), FIELD_ALIASES)
        if model is None:
            model = options.get("model_name")
        loaded = as_model(model, **loading)
        options.setdefault("model_name", name_of(loaded, given=model))
        super().__init__(**options)
        self._model = loaded
        if self.skill is not None:
            loaded.parts.skill(self.skill)  # an unknown name is said now
        if (self.context_window or 0) > loaded.max_context:
            raise OptionError(
                f"context_window is {self.context_window}, but the model has "
                f"{loaded.max_context} tokens; expected at most as many"
            )

    @classmethod
    def class_name(cls) -> str:
        """The name in serialised form."""
        return "GemLLM"

    @property
    def gem(self) -> GemModel:
        """The loaded model that answers."""
        return self._model

    @property
    def model(self) -> str:
        """Its name."""
        return self.model_name

    @property
    def metadata(self) -> LLMMetadata:
        """Context window and longest answer in tokens, and what the model can do."""
        return LLMMetadata(
            context_window=self.context_window or self._model.max_context,
            num_output=self.max_tokens,
            is_chat_model=self._model.codec.has_template,
            is_function_calling_model=True,
            model_name=self.model_name,
        )

    # Chat

    @llm_chat_callback()
    def chat(self, messages: Sequence[ChatMessage], **kwargs: Any) -> ChatResponse:
        """Answer a conversation."""
        generation = self._model.generate(to_messages(messages), **self._options(kwargs))
        return to_response(generation, self.model_name)

    @llm_chat_callback()
    def stream_chat(self, messages: Sequence[ChatMessage], **kwargs: Any) -> ChatResponseGen:
        """Answer a conversation piece by piece; the last response has the tool calls."""
        stream = self._model.stream(to_messages(messages), **self._options(kwargs))
        return self._chat_pieces(stream)

    def _chat_pieces(self, stream: Stream) -> ChatResponseGen:
        with stream:
            for piece in stream:
                yield to_response(stream.generation, self.model_name, piece)
            yield to_response(stream.generation, self.model_name, "")

    @llm_chat_callback()
    async def achat(self, messages: Sequence[ChatMessage], **kwargs: Any) -> ChatResponse:
        """`chat` without blocking the event loop; cancelling stops after the next token."""
        generation = await self._model.agenerate(to_messages(messages), **self._options(kwargs))
        return to_response(generation, self.model_name)

    @llm_chat_callback()
    async def astream_chat(
        self, messages: Sequence[ChatMessage], **kwargs: Any
    ) -> ChatResponseAsyncGen:
        """`stream_chat` without blocking the event loop."""
        stream = await self._astream(to_messages(messages), kwargs)

        async def pieces() -> ChatResponseAsyncGen:
            async for piece in stream:
                yield to_response(stream.generation, self.model_name, piece)
            yield to_response(stream.generation, self.model_name, "")

        return pieces()

    # Completion

    @llm_completion_callback()
    def complete(self, prompt: str, formatted: bool = False, **kwargs: Any) -> CompletionResponse:
        """Answer a prompt: one user message, or as it stands if it is `formatted` already."""
        text, raw = self._prompt(prompt, formatted)
        generation = self._model.generate(text, **self._options({"raw": raw, **kwargs}))
        return self._completion(generation)

    @llm_completion_callback()
    def stream_complete(
        self, prompt: str, formatted: bool = False, **kwargs: Any
    ) -> CompletionResponseGen:
        """`complete` piece by piece."""
        text, raw = self._prompt(prompt, formatted)
        return self._completion_pieces(
            self._model.stream(text, **self._options({"raw": raw, **kwargs}))
        )

    def _completion_pieces(self, stream: Stream) -> CompletionResponseGen:
        with stream:
            for piece in stream:
                yield self._completion(stream.generation, piece)
            yield self._completion(stream.generation, "")

    @llm_completion_callback()
    async def acomplete(
        self, prompt: str, formatted: bool = False, **kwargs: Any
    ) -> CompletionResponse:
        """`complete` without blocking the event loop; cancelling stops after the next token."""
        text, raw = self._prompt(prompt, formatted)
        options = self._options({"raw": raw, **kwargs})
        return self._completion(await self._model.agenerate(text, **options))

    @llm_completion_callback()
    async def astream_complete(
        self, prompt: str, formatted: bool = False, **kwargs: Any
    ) -> CompletionResponseAsyncGen:
        """`stream_complete` without blocking the event loop."""
        text, raw = self._prompt(prompt, formatted)
        stream = await self._astream(text, {"raw": raw, **kwargs})

        async def pieces() -> CompletionResponseAsyncGen:
            async for piece in stream:
                yield self._completion(stream.generation, piece)
            yield self._completion(stream.generation, "")

        return pieces()

    # Tools

    def _prepare_chat_with_tools(
        self,
        tools: Sequence[BaseTool],
        user_msg: str | ChatMessage | None = None,
        chat_history: list[ChatMessage] | None = None,
        verbose: bool = False,
        allow_parallel_tool_calls: bool = False,
        tool_required: bool = False,
        tool_choice: str | dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> dict[str, Any]:
        if isinstance(user_msg, str):
            user_msg = ChatMessage(content=user_msg)
        messages = [*(chat_history or []), *([user_msg] if user_msg is not None else [])]
        if not tools:
            return {"messages": messages, **kwargs}
        return {
            "messages": messages,
            "tools": [as_tool(tool) for tool in tools],
            "tool_choice": tool_choice_of(tool_choice, required=tool_required),
            **kwargs,
        }

    def _validate_chat_with_tools_response(
        self,
        response: ChatResponse,
        tools: Sequence[BaseTool],
        allow_parallel_tool_calls: bool = False,
        **kwargs: Any,
    ) -> ChatResponse:
        if not allow_parallel_tool_calls:
            blocks = response.message.blocks
            calls = [block for block in blocks if isinstance(block, ToolCallBlock)]
            response.message.blocks = [b for b in blocks if b not in calls[1:]]
        return response

    def get_tool_calls_from_response(
        self, response: ChatResponse, error_on_no_tool_call: bool = True, **kwargs: Any
    ) -> list[ToolSelection]:
        """The calls in a response.

        Raises:
            ValueError: There are none, and that is an error.
        """
        blocks = [b for b in response.message.blocks if isinstance(b, ToolCallBlock)]
        if not blocks and error_on_no_tool_call:
            raise ValueError(why_no_call(response))
        return [
            ToolSelection(
                tool_id=block.tool_call_id or "",
                tool_name=block.tool_name,
                tool_kwargs=arguments_of(block),
            )
            for block in blocks
        ]

    # Calling the core

    def _options(self, kwargs: dict[str, Any]) -> dict[str, Any]:
        """A call's options over this object's."""
        given = {name: value for name, value in kwargs.items() if value is not None}
        own = {n: value for n, value in vars(self).items() if n in GenerationOptions.names()}
        return {**own, "max_new_tokens": self.max_tokens, **renamed(given, ALIASES)}

    def _prompt(self, prompt: str, formatted: bool) -> tuple[str, bool]:
        """The prompt, and whether it is taken as it stands."""
        wrap = self.completion_to_prompt
        if formatted or wrap is None or wrap is default_completion_to_prompt:
            return prompt, formatted
        return wrap(prompt), True

    def _completion(self, generation: Generation, delta: str | None = None) -> CompletionResponse:
        raw = to_raw(generation, self.model_name)
        return CompletionResponse(text=generation.text, delta=delta, raw=raw)

    async def _astream(self, request: Request, kwargs: dict[str, Any]) -> AsyncStream:
        # Tokenising a long prompt and compiling a grammar take time as well.
        options = self._options(kwargs)
        stream = await asyncio.to_thread(self._model.stream, request, **options)
        return AsyncStream(lambda: stream)
