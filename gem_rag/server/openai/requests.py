"""A chat completion as it is asked for: every field honoured, ignored or refused."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from gem_rag.index.search import Mode
from gem_rag.server.answering import Answering
from gem_rag.server.errors import ApiError, require_few
from gem_rag.server.openai.likelihoods import MOST
from gem_rag.server.settings import Limits

MAX_TOKENS = 256
IGNORED = {
    *("user", "metadata", "store", "service_tier", "prediction", "reasoning_effort", "verbosity"),
    *("prompt_cache_key", "prompt_cache_retention", "prompt_cache_options", "safety_identifier"),
}
# What these would change is not done; refused unless they say that nothing is to be changed.
NEUTRAL: dict[str, tuple[Any, ...]] = {
    "logit_bias": (None, {}),
    "frequency_penalty": (None, 0),
    "presence_penalty": (None, 0),
    "modalities": (None, ["text"]),
    "audio": (None,),
    "functions": (None, []),
    "function_call": (None, "none"),
    "web_search_options": (None,),
    "moderation": (None,),
}
# Of answers from the documents.
FINDING = ("where", "k", "mode", "rank", "threshold", "context")


class StreamOptions(BaseModel):
    """What a stream holds beside its text."""

    model_config = ConfigDict(extra="ignore")

    include_usage: bool = False


class FunctionCall(BaseModel):
    """A call that was made: arguments as JSON."""

    name: str
    arguments: str = "{}"


class Call(BaseModel):
    """A tool call of an earlier answer."""

    id: str = ""
    type: Literal["function"] = "function"
    function: FunctionCall


class Part(BaseModel):
    """A part of a message; text alone is understood."""

    model_config = ConfigDict(extra="allow")

    type: str
    text: str | None = None
    refusal: str | None = None


class ChatMessage(BaseModel):
    """A message of the conversation."""

    model_config = ConfigDict(extra="ignore")

    role: Literal["system", "developer", "user", "assistant", "tool"]
    content: str | list[Part] | None = None
    name: str | None = None
    tool_calls: list[Call] | None = None
    tool_call_id: str | None = None


class ChatRequest(BaseModel):
    """What is asked."""

    model_config = ConfigDict(extra="allow")

    model: str = Field(examples=["smollm2-135m-instruct:docs"])
    messages: Annotated[list[ChatMessage], Field(min_length=1, max_length=1000)] = Field(
        examples=[[{"role": "user", "content": "How long is the warranty?"}]]
    )
    stream: bool | None = False
    stream_options: StreamOptions | None = None
    max_tokens: int | None = Field(None, ge=1, le=1 << 20)
    max_completion_tokens: int | None = Field(None, ge=1, le=1 << 20)
    temperature: float | None = Field(None, ge=0, le=2)
    top_p: float | None = Field(None, gt=0, le=1)
    top_k: int | None = Field(None, ge=0, le=1 << 20, description="Ours.")
    seed: int | None = Field(None, ge=-(1 << 63), lt=1 << 63)
    n: int | None = Field(None, ge=1)
    logprobs: bool | None = None
    top_logprobs: int | None = Field(None, ge=0, le=MOST)
    stop: str | Annotated[list[str], Field(max_length=16)] | None = None
    response_format: dict[str, Any] | None = None
    tools: list[dict[str, Any]] | None = None
    tool_choice: str | dict[str, Any] | None = None
    parallel_tool_calls: bool | None = None
    skill: str | None = Field(
        None,
        description="Ours: a skill. Of `:docs` the checkpoint's choice, `none` the plain base.",
    )
    k: int | None = Field(None, ge=1, le=200, description="Ours, with `:docs`.")
    context: int | None = Field(None, ge=1, le=32, description="Ours, with `:docs`.")
    where: dict[str, Any] | None = Field(None, description="Ours, with `:docs`.")
    mode: Mode | None = Field(None, description="Ours, with `:docs`.")
    rank: bool | None = Field(None, description="Ours, with `:docs`.")
    threshold: float | Literal["auto"] | None = Field("auto", description="Ours, with `:docs`.")

    @property
    def answers(self) -> int:
        """How many answers are wanted."""
        return self.n or 1

    @property
    def wants_usage(self) -> bool:
        """Whether a stream ends with the number of tokens."""
        return self.stream_options is not None and self.stream_options.include_usage

    @property
    def finding(self) -> Answering:
        """How an answer from the documents is made."""
        said = {name: value for name, value in self if name in FINDING and value is not None}
        skill = None if self.skill == "none" else self.skill or "auto"
        return Answering(**said, **self._threshold(), skill=skill)

    def _threshold(self) -> dict[str, Any]:
        return {"threshold": None} if self.threshold is None else {}

    def require_honoured(self, limits: Limits) -> None:
        """Refuse what would be left out silently.

        Args:
            limits: Of the server.

        Raises:
            ApiError: A field is refused, or unknown.
        """
        for name, value in (self.model_extra or {}).items():
            if name in IGNORED or (name in NEUTRAL and value in NEUTRAL[name]):
                continue
            why = "is not done here" if name in NEUTRAL else "is not known"
            raise _unsupported(name, f"{name} {why}; leave it out")
        require_few(self.answers, limits.answers, "n")
        for name in ("max_tokens", "max_completion_tokens"):
            require_few(dict(self)[name] or 0, limits.answer_tokens, name)

    def require_free(self) -> None:
        """Refuse likelihoods of an answer that is held to a form: they would be the form's."""
        if self.top_logprobs and not self.logprobs:
            raise ApiError(400, "top_logprobs needs logprobs", param="top_logprobs")
        if self.logprobs and (self.tools or self.schema_wanted is not None):
            raise _unsupported("logprobs", "an answer held to tools or a schema has no logprobs")

    def require_plain(self) -> None:
        """Refuse what an answer from the documents cannot have."""
        for name in ("tools", "response_format", "logprobs"):
            is_text = name == "response_format" and self.schema_wanted is None
            if dict(self)[name] and not is_text:
                raise _unsupported(name, f"answers from the documents have no {name}")
        if self.answers > 1:
            raise _unsupported("n", "there is one answer from the documents; leave n out")

    def require_no_finding(self) -> None:
        """Refuse what only answers from the documents have."""
        for name, value in self:
            if name in FINDING and name in self.model_fields_set and value is not None:
                raise _unsupported(name, f"{name} is for answers from the documents (:docs)")

    @property
    def schema_wanted(self) -> dict[str, Any] | None:
        """The JSON schema that an answer has to fit; None where it is text.

        Raises:
            ApiError: There is no such format, or it has no schema.
        """
        if self.response_format is None:
            return None
        kind = self.response_format.get("type")
        if kind == "text":
            return None
        if kind == "json_object":
            return {"type": "object"}
        described = self.response_format.get("json_schema")
        if kind == "json_schema" and isinstance(described, dict):
            if isinstance(schema := described.get("schema"), dict):
                return schema
            raise ApiError(
                400, "json_schema has no schema", "invalid_schema", param="response_format"
            )
        expected = "expected the type text, json_object or json_schema"
        raise ApiError(
            400, f"response_format is of type {kind!r}; {expected}", param="response_format"
        )

    def options(self, answer: int) -> dict[str, Any]:
        """Of a generation, for `GemModel.stream`.

        Args:
            answer: Which of several; each has a seed of its own.
        """
        tools = self.tools or None
        for tool in tools or ():
            if tool.get("type") != "function":
                raise _unsupported("tools", f"a tool of type {tool.get('type')!r}; function alone")
        given = {
            "max_new_tokens": self.max_completion_tokens or self.max_tokens or MAX_TOKENS,
            "temperature": self.temperature,
            "top_p": self.top_p,
            "top_k": self.top_k,
            "seed": None if self.seed is None else (self.seed + answer) % (1 << 63),
            "stop": self.stop,
            "schema": self.schema_wanted,
            "tools": tools,
            "tool_choice": self.tool_choice if tools else None,
            "skill": self.skill,
        }
        return {name: value for name, value in given.items() if value is not None}


def _unsupported(name: str, message: str) -> ApiError:
    return ApiError(400, message, "unsupported_parameter", param=name)
