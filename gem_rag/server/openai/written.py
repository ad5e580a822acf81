"""Answers in OpenAI's shape: whole, or piece by piece."""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import Iterable, Mapping
from typing import Any

from gem_rag.engine.calls import CallPiece
from gem_rag.engine.results import Generation, Usage


class Written:
    """Writes one completion: its id, name and time are the same in all of its parts.

    Args:
        model: As it was asked for.
    """

    def __init__(self, model: str) -> None:
        self._id = f"chatcmpl-{uuid.uuid4().hex}"
        self._model = model
        self._created = int(time.time())

    def whole(
        self, choices: list[dict[str, Any]], usages: Iterable[Usage], **more: Any
    ) -> dict[str, Any]:
        """The completion."""
        return {
            **self._head("chat.completion"),
            "choices": choices,
            "usage": usage_of(usages),
            **more,
        }

    def chunk(
        self,
        index: int,
        delta: Mapping[str, Any],
        reason: str | None = None,
        logprobs: Mapping[str, Any] | None = None,
        **more: Any,
    ) -> dict[str, Any]:
        """A piece of one answer."""
        choice = {"index": index, "delta": delta, "logprobs": logprobs, "finish_reason": reason}
        return {**self._head("chat.completion.chunk"), "choices": [choice], **more}

    def usage_chunk(self, usages: Iterable[Usage]) -> dict[str, Any]:
        """The end of a stream that was asked for its usage."""
        head = self._head("chat.completion.chunk")
        return {**head, "choices": [], "usage": usage_of(usages)}

    def _head(self, kind: str) -> dict[str, Any]:
        return {"id": self._id, "object": kind, "created": self._created, "model": self._model}


def choice_of(
    index: int, generation: Generation, logprobs: Mapping[str, Any] | None, *, one_call: bool
) -> dict[str, Any]:
    """A whole answer.

    Args:
        index: Which.
        generation: What it came to.
        logprobs: Of its tokens, where they are wanted.
        one_call: Leave out all calls but the first.
    """
    calls = [
        call_json(call.name, json.dumps(call.arguments, ensure_ascii=False))
        for call in generation.tool_calls
    ][: 1 if one_call else None]
    message: dict[str, Any] = {
        "role": "assistant",
        "content": generation.text or (None if calls else ""),
        "refusal": None,
    }
    if calls:
        message["tool_calls"] = calls
    return {
        "index": index,
        "message": message,
        "logprobs": logprobs,
        "finish_reason": reason_of(generation),
    }


def reason_of(generation: Generation) -> str:
    """Why an answer ended, in OpenAI's words."""
    if generation.tool_calls and not generation.invalid_tool_calls:
        return "tool_calls"
    return generation.finish_reason


def call_json(name: str, arguments: str) -> dict[str, Any]:
    """A tool call."""
    function = {"name": name, "arguments": arguments}
    return {"id": f"call_{uuid.uuid4().hex}", "type": "function", "function": function}


class Deltas:
    """The pieces of one streamed answer as deltas.

    Args:
        one_call: Leave out all calls but the first.
    """

    def __init__(self, *, one_call: bool) -> None:
        self._one_call = one_call
        self._begun: set[int] = set()

    def of(self, piece: str | CallPiece) -> dict[str, Any] | None:
        """One piece; None where it is left out."""
        if isinstance(piece, str):
            return {"content": piece}
        if self._one_call and piece.index > 0:
            return None
        if piece.index in self._begun:
            call: dict[str, Any] = {"function": {"arguments": piece.arguments}}
        else:
            self._begun.add(piece.index)
            call = call_json(piece.name, piece.arguments)
        return {"tool_calls": [{"index": piece.index, **call}]}


def usage_of(usages: Iterable[Usage]) -> dict[str, Any]:
    """Tokens: the prompt's once, those of all answers together."""
    known = list(usages)
    first = known[0] if known else Usage(0, 0, 0)
    completion = sum(usage.completion_tokens for usage in known)
    accepted = sum(usage.accepted_tokens for usage in known)
    return {
        "prompt_tokens": first.prompt_tokens,
        "completion_tokens": completion,
        "total_tokens": first.prompt_tokens + completion,
        "prompt_tokens_details": {"cached_tokens": first.cached_tokens},
        "completion_tokens_details": {
            "accepted_prediction_tokens": accepted,
            "rejected_prediction_tokens": sum(usage.proposed_tokens for usage in known) - accepted,
        },
    }
