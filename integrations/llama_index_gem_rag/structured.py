"""Structured prediction: answers held to a class's JSON schema while they are generated."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Generator
from typing import TYPE_CHECKING, Any

from llama_index.core.base.llms.types import ChatMessage, ChatResponse
from llama_index.core.llms.function_calling import FunctionCallingLLM
from llama_index.core.program.utils import FlexibleModel, create_flexible_model
from llama_index.core.types import Model
from pydantic_core import from_json

from llama_index_gem_rag.schemas import schema_of

if TYPE_CHECKING:
    from llama_index.core.prompts import PromptTemplate

Options = dict[str, Any] | None


class StructuredGenerator(FunctionCallingLLM):
    """An LLM whose ``chat`` takes ``schema=``: structured prediction without a detour by tools.

    `as_structured_llm` and everything in LlamaIndex that wants a class as its answer call these.
    Each raises `pydantic.ValidationError` where the answer was cut off by ``max_tokens`` or the
    class checks more than a schema can say.
    """

    def structured_predict(
        self,
        output_cls: type[Model],
        prompt: PromptTemplate,
        llm_kwargs: Options = None,
        **prompt_args: Any,
    ) -> Model:
        """One object of a class, from a prompt and what fills it."""
        messages, options = self._structured(output_cls, prompt, llm_kwargs, prompt_args)
        return _parsed(output_cls, self.chat(messages, **options))

    async def astructured_predict(
        self,
        output_cls: type[Model],
        prompt: PromptTemplate,
        llm_kwargs: Options = None,
        **prompt_args: Any,
    ) -> Model:
        """`structured_predict` without blocking the event loop."""
        messages, options = self._structured(output_cls, prompt, llm_kwargs, prompt_args)
        return _parsed(output_cls, await self.achat(messages, **options))

    def stream_structured_predict(
        self,
        output_cls: type[Model],
        prompt: PromptTemplate,
        llm_kwargs: Options = None,
        **prompt_args: Any,
    ) -> Generator[Model | FlexibleModel, None, None]:
        """The object as it grows, missing fields None; the last one is of the class itself."""
        messages, options = self._structured(output_cls, prompt, llm_kwargs, prompt_args)
        partial = create_flexible_model(output_cls)
        response = None
        for response in self.stream_chat(messages, **options):
            yield partial.model_validate(_so_far(response))
        if response is not None:
            yield _parsed(output_cls, response)

    async def astream_structured_predict(
        self,
        output_cls: type[Model],
        prompt: PromptTemplate,
        llm_kwargs: Options = None,
        **prompt_args: Any,
    ) -> AsyncGenerator[Model | FlexibleModel, None]:
        """`stream_structured_predict` without blocking the event loop."""
        messages, options = self._structured(output_cls, prompt, llm_kwargs, prompt_args)
        partial = create_flexible_model(output_cls)

        async def grow() -> AsyncGenerator[Model | FlexibleModel, None]:
            response = None
            async for response in await self.astream_chat(messages, **options):
                yield partial.model_validate(_so_far(response))
            if response is not None:
                yield _parsed(output_cls, response)

        return grow()

    def _structured(
        self,
        output_cls: type[Model],
        prompt: PromptTemplate,
        options: Options,
        prompt_args: dict[str, Any],
    ) -> tuple[list[ChatMessage], dict[str, Any]]:
        messages = self._extend_messages(prompt.format_messages(llm=self, **prompt_args))
        return messages, {**(options or {}), "schema": schema_of(output_cls)}


def _parsed(output_cls: type[Model], response: ChatResponse) -> Model:
    return output_cls.model_validate_json(response.message.content or "")


def _so_far(response: ChatResponse) -> Any:
    text = response.message.content or ""
    return from_json(text, allow_partial="trailing-strings") if text.strip() else {}
