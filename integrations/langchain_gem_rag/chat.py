"""ChatGem: a GEM model as LangChain's chat model."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from langchain_core.callbacks import AsyncCallbackManagerForLLMRun, CallbackManagerForLLMRun
from langchain_core.language_models.base import LangSmithParams, LanguageModelInput
from langchain_core.language_models.chat_models import BaseChatModel
from langchain_core.messages import AIMessage, AIMessageChunk, BaseMessage
from langchain_core.outputs import ChatGeneration, ChatGenerationChunk, ChatResult
from langchain_core.runnables import Runnable
from langchain_core.tools import BaseTool
from langchain_core.utils.function_calling import convert_to_openai_tool

from gem_rag.engine.results import Generation
from gem_rag.engine.work import finished
from gem_rag.model import GemModel
from langchain_gem_rag.failures import fails_as_langchain
from langchain_gem_rag.messages import last_chunk, to_core, to_message
from langchain_gem_rag.profile import profile_of, prompt_tokens
from langchain_gem_rag.shared import GeneratesWithGem


class ChatGem(GeneratesWithGem, BaseChatModel):
    """Chats with a GEM model; the weights are shared with `GemEmbeddings` and all the others.

    Calls that wait at the same time (``batch``, ``abatch``, many users) are generated together.
    Tools and structured output are held to their schema by constrained decoding.

    Args:
        model: A bundled name, folder or hub id, or a loaded `GemModel`; None is the default.
        max_tokens: Longest answer.
        temperature: 0 is greedy.
        top_p: Nucleus sampling.
        top_k: Sample from this many best tokens; 0 is all.
        seed: Makes sampling repeatable.
        stop: Strings that end an answer.
        truncate: Cut the start of a prompt that does not fit, instead of an error.
        timeout: Seconds an answer may take; after that it is an error.
        streaming: Generate piece by piece even where the whole is asked for.
        device: As for `GemModel.from_pretrained`, like ``dtype`` and ``revision``.
        max_retries: Accepted as everywhere in LangChain, like ``api_key``, and without effect.
    """

    streaming: bool = False

    def __init__(self, model: str | Path | GemModel | None = None, **fields: Any) -> None:
        super().__init__(model, **fields)
        if self.profile is None:
            self.profile = profile_of(self.gem, self.model_name, self.max_tokens)

    def get_num_tokens_from_messages(
        self, messages: list[BaseMessage], tools: Sequence[Any] | None = None
    ) -> int:
        """Tokens of the prompt these messages become, tools and template included.

        Args:
            messages: A conversation, or part of one; of none it is 0.
            tools: As for `bind_tools`.
        """
        if self.custom_get_token_ids is not None:
            return super().get_num_tokens_from_messages(messages, tools)
        known = [convert_to_openai_tool(tool) for tool in tools or []]
        return prompt_tokens(self.gem.codec, to_core(messages), known)

    def _get_ls_params(self, stop: list[str] | None = None, **kwargs: Any) -> LangSmithParams:
        return self.langsmith(super()._get_ls_params(stop=stop, **kwargs), kwargs)

    @fails_as_langchain
    def _generate(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,  # noqa: ARG002
        **kwargs: Any,
    ) -> ChatResult:
        gem, options = self.gem_for(kwargs), self.options(stop, kwargs)
        (answer,) = finished([gem.submit(to_core(messages), **options)])
        return self._result(answer)

    @fails_as_langchain
    async def _agenerate(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: AsyncCallbackManagerForLLMRun | None = None,  # noqa: ARG002
        **kwargs: Any,
    ) -> ChatResult:
        options = self.options(stop, kwargs)
        return self._result(await self.gem_for(kwargs).agenerate(to_core(messages), **options))

    def _result(self, generation: Generation) -> ChatResult:
        message = to_message(generation, self.model_name)
        info = {"finish_reason": generation.finish_reason}
        output = {"model_name": self.model_name, "token_usage": dict(message.usage_metadata or {})}
        return ChatResult(
            generations=[ChatGeneration(message=message, generation_info=info)], llm_output=output
        )

    @fails_as_langchain
    def _stream(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> Iterator[ChatGenerationChunk]:
        with self.gem_for(kwargs).stream(to_core(messages), **self.options(stop, kwargs)) as pieces:
            for piece in pieces:
                chunk = ChatGenerationChunk(message=AIMessageChunk(content=piece))
                if run_manager is not None:
                    run_manager.on_llm_new_token(piece, chunk=chunk)
                yield chunk
            yield ChatGenerationChunk(message=last_chunk(pieces.generation, self.model_name))

    @fails_as_langchain
    async def _astream(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: AsyncCallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> AsyncIterator[ChatGenerationChunk]:
        options = self.options(stop, kwargs)
        # Tokenizing and compiling a schema take a moment, so they leave the event loop as well.
        pieces = await asyncio.to_thread(self.gem_for(kwargs).astream, to_core(messages), **options)
        async for piece in pieces:
            chunk = ChatGenerationChunk(message=AIMessageChunk(content=piece))
            if run_manager is not None:
                await run_manager.on_llm_new_token(piece, chunk=chunk)
            yield chunk
        yield ChatGenerationChunk(message=last_chunk(pieces.generation, self.model_name))

    def bind_tools(
        self,
        tools: Sequence[dict[str, Any] | type | Callable[..., Any] | BaseTool],
        *,
        tool_choice: str | dict[str, Any] | bool | None = None,
        **kwargs: Any,
    ) -> Runnable[LanguageModelInput, AIMessage]:
        """Let the model call tools; its arguments always fit their schema.

        Args:
            tools: Functions, classes, `BaseTool` objects or OpenAI-style dicts.
            tool_choice: "auto" or None leaves the choice to the model; "any", "required" or True
                makes it call one; a tool's name that one; "none" or False none.
            **kwargs: Bound as well. ``strict`` and ``parallel_tool_calls`` change nothing:
                arguments always fit, and an answer holds one call.
        """
        known = [convert_to_openai_tool(tool) for tool in tools]
        return self.bind(tools=known, tool_choice=_choice(tool_choice), **kwargs)


def _choice(tool_choice: str | dict[str, Any] | bool | None) -> str:
    if isinstance(tool_choice, dict):
        return str(tool_choice.get("function", tool_choice)["name"])
    if tool_choice is None:
        return "auto"
    if isinstance(tool_choice, bool):
        return "any" if tool_choice else "none"
    return "any" if tool_choice == "required" else tool_choice
