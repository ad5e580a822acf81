"""Structured output: answers as the objects they were asked to be, whole or as they grow."""

from __future__ import annotations

import json
from collections.abc import Mapping
from operator import itemgetter
from typing import Any

from langchain_core.exceptions import OutputParserException
from langchain_core.language_models.base import LanguageModelInput
from langchain_core.messages import AIMessage, AIMessageChunk, BaseMessage
from langchain_core.output_parsers import BaseCumulativeTransformOutputParser
from langchain_core.outputs import ChatGeneration, Generation
from langchain_core.runnables import Runnable, RunnableMap, RunnablePassthrough
from langchain_core.utils.json import parse_partial_json
from pydantic import BaseModel

from gem_rag.engine.fit import misfit


class StructuredOutput(BaseCumulativeTransformOutputParser[Any]):
    """Parses a tool call's arguments, or the text where there is none.

    While an answer is streamed each state is given out that differs from the one before: dicts
    grow, objects come as soon as they are valid. What the end is not, is an error.
    """

    output_class: Any = None
    """A pydantic class; None gives dicts."""
    fitted_schema: dict[str, Any] | None = None
    """What a dict is checked by in the end."""

    def parse_result(self, result: list[Generation], *, partial: bool = False) -> Any:
        """The object an answer holds.

        Raises:
            OutputParserException: The answer holds none, since it was cut off, say, or the dict
                does not fit its schema.
            pydantic.ValidationError: The class does not take it.
        """
        generation = result[0]
        if not isinstance(generation, ChatGeneration):
            return self.parse(generation.text)
        message = generation.message
        is_end = not partial or (
            isinstance(message, AIMessageChunk) and message.chunk_position == "last"
        )
        value = _value(message) if is_end else _value_so_far(message)
        if value is None and not is_end:
            return None
        return self._checked(value) if is_end else self._so_far(value)

    def parse(self, text: str) -> Any:
        """The object a text holds."""
        return self._checked(_value(AIMessage(text)))

    def _checked(self, value: Any) -> Any:
        if self.output_class is not None:
            return _validated(self.output_class, value)
        if self.fitted_schema and (reason := misfit(value, self.fitted_schema)):
            raise OutputParserException(
                f"the answer does not fit its schema: {reason}", llm_output=json.dumps(value)
            )
        return value

    def _so_far(self, value: Any) -> Any:
        if self.output_class is None:
            return value
        try:
            return _validated(self.output_class, value)
        except ValueError:  # pydantic's errors are such
            return None


def with_parser(
    llm: Runnable[LanguageModelInput, AIMessage], parser: StructuredOutput, include_raw: bool
) -> Runnable[LanguageModelInput, Any]:
    """A model and its parser, as `with_structured_output` gives them."""
    if not include_raw:
        return llm | parser
    parsed = RunnablePassthrough.assign(
        parsed=itemgetter("raw") | parser, parsing_error=lambda _: None
    )
    failed = RunnablePassthrough.assign(parsed=lambda _: None)
    return RunnableMap(raw=llm) | parsed.with_fallbacks([failed], exception_key="parsing_error")


def _validated(cls: Any, value: Any) -> Any:
    """An object of a class; from JSON, since a strict class takes dates and sets from it alone."""
    text = json.dumps(value)
    return cls.model_validate_json(text) if issubclass(cls, BaseModel) else cls.parse_raw(text)


def _value(message: BaseMessage) -> Any:
    """What a whole answer holds.

    Raises:
        OutputParserException: Nothing that could be parsed.
    """
    if isinstance(message, AIMessage) and message.tool_calls:
        return message.tool_calls[0]["args"]
    text = message.text
    try:
        return json.loads(text)
    except ValueError as error:
        cut = message.response_metadata.get("finish_reason") == "length"
        reason = "was cut off before it was whole; raise max_tokens, or shorten the prompt"
        raise OutputParserException(
            f"the answer {reason if cut else f'is no JSON ({error})'}", llm_output=_written(message)
        ) from error


def _value_so_far(message: BaseMessage) -> Any:
    """What an answer holds that is still being written; None where that is nothing."""
    if isinstance(message, AIMessage) and message.tool_calls:
        return message.tool_calls[0]["args"]
    text = message.text
    try:
        return parse_partial_json(text) if text.strip() else None
    except ValueError:
        return None


def _written(message: BaseMessage) -> str:
    broken = message.invalid_tool_calls if isinstance(message, AIMessage) else []
    return str((broken[0]["args"] if broken else None) or message.text)


def is_object(schema: Mapping[str, Any]) -> bool:
    """Whether a schema is one of objects, as a tool's arguments are."""
    return schema.get("type") == "object" or "properties" in schema
