"""ChatGem: a GEM model as LangChain's chat model."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

from langchain_core.callbacks import AsyncCallbackManagerForLLMRun, CallbackManagerForLLMRun
from langchain_core.language_models.base import LangSmithParams, LanguageModelInput
from langchain_core.language_models.chat_models import BaseChatModel
from langchain_core.messages import AIMessage, BaseMessage
from langchain_core.outputs import ChatGeneration, ChatGenerationChunk, ChatResult
from langchain_core.runnables import Runnable
from langchain_core.tools import BaseTool
from langchain_core.utils.pydantic import is_basemodel_subclass
from pydantic import BaseModel

from gem_rag.engine.calls import CallPiece
from gem_rag.engine.results import Generation
from gem_rag.engine.streams import AwaitedPieces, CallStream
from gem_rag.engine.work import finished
from gem_rag.model import GemModel
from gem_rag.text.tools import choice_of
from langchain_gem_rag.failures import fails_as_langchain
from langchain_gem_rag.messages import Chunks, last_chunk, to_core, to_message
from langchain_gem_rag.profile import profile_of, prompt_tokens
from langchain_gem_rag.schemas import as_tool, asked_schema, schema_of, traceable
from langchain_gem_rag.shared import GeneratesWithGem
from langchain_gem_rag.structured import StructuredOutput, is_object, with_parser


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
        skill: A skill of the checkpoint that answers from what the prompt holds, such as "answer".
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
        known = [as_tool(tool) for tool in tools or []]
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
        asked = _with_schema(kwargs)
        gem, options = self.gem_for(asked), self.options(stop, asked)
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
        asked = _with_schema(kwargs)
        options = self.options(stop, asked)
        return self._result(await self.gem_for(asked).agenerate(to_core(messages), **options))

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
        asked, chunks = _with_schema(kwargs), Chunks()
        options = self.options(stop, asked)
        with self.gem_for(asked).stream(to_core(messages), **options) as stream:
            for piece in stream.with_calls():
                chunk = ChatGenerationChunk(message=chunks.of(piece))
                if run_manager is not None:
                    run_manager.on_llm_new_token(chunk.text, chunk=chunk)
                yield chunk
            yield ChatGenerationChunk(message=last_chunk(stream.generation, self.model_name))

    @fails_as_langchain
    async def _astream(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: AsyncCallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> AsyncIterator[ChatGenerationChunk]:
        asked, chunks = _with_schema(kwargs), Chunks()
        options = self.options(stop, asked)
        # In a thread: tokenizing and compiling a schema take a moment.
        pieces = AwaitedPieces[CallStream, str | CallPiece](
            lambda: CallStream(self.gem_for(asked).stream(to_core(messages), **options))
        )
        async for piece in pieces:
            chunk = ChatGenerationChunk(message=chunks.of(piece))
            if run_manager is not None:
                await run_manager.on_llm_new_token(chunk.text, chunk=chunk)
            yield chunk
        yield ChatGenerationChunk(message=last_chunk(pieces.stream.generation, self.model_name))

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
                makes it call one; a tool's name that one; "none" or False none. Dicts of other
                providers (``{"type": "any"}``) say the same.
            **kwargs: Bound as well. With ``response_format`` an answer that calls no tool is JSON
                of that schema. ``strict`` and ``parallel_tool_calls`` change nothing: arguments
                always fit, and an answer holds one call.
        """
        known = [as_tool(tool) for tool in tools]
        return self.bind(tools=known, tool_choice=choice_of(tool_choice), **kwargs)

    def with_structured_output(
        self,
        schema: dict[str, Any] | type,
        *,
        include_raw: bool = False,
        method: Literal["function_calling", "json_schema", "json_mode"] = "function_calling",
        strict: bool | None = None,  # noqa: ARG002
        **kwargs: Any,
    ) -> Runnable[LanguageModelInput, dict[str, Any] | BaseModel]:
        """Answers as objects of a class, or as dicts that fit a schema; they grow when streamed.

        Args:
            schema: A pydantic class, a `TypedDict`, a JSON schema or an OpenAI-style function.
            include_raw: Give a dict of ``raw``, ``parsed`` and ``parsing_error``; without it what
                cannot be parsed is raised.
            method: "function_calling" has the answer in a tool call; the others in the text.
            strict: Changes nothing: answers always fit.
            **kwargs: None are known.

        Raises:
            ValueError: Unknown arguments.
        """
        if kwargs:
            raise ValueError(f"with_structured_output got {sorted(kwargs)}; it knows none of them")
        tool = as_tool(schema)
        function = tool["function"]
        is_class = isinstance(schema, type) and is_basemodel_subclass(schema)
        fitted = schema_of(schema) if is_class else function.get("parameters") or {}
        traced = {"kwargs": {"method": method}, "schema": traceable(schema, tool)}
        if method == "function_calling" and is_object(fitted):
            llm = self.bind_tools([schema], tool_choice="any", ls_structured_output_format=traced)
        else:
            described = {"name": function["name"], "schema": fitted}
            llm = self.bind(
                response_format={"type": "json_schema", "json_schema": described},
                ls_structured_output_format=traced,
            )
        parser = (
            StructuredOutput(output_class=schema)
            if is_class
            else StructuredOutput(fitted_schema=dict(fitted))
        )
        return with_parser(llm, parser, include_raw)


def _with_schema(calls: dict[str, Any]) -> dict[str, Any]:
    """What one call asks for, its ``response_format`` as a schema."""
    asked = {name: value for name, value in calls.items() if name != "response_format"}
    if (schema := asked_schema(calls.get("response_format"))) is not None:
        asked["schema"] = schema
    return asked
