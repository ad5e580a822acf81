"""Tools: how they are told to a model, and how its calls are read.

Templates that know tools in this format (Qwen, SmolLM3, Hermes) render them themselves; for all
others they are written into ordinary messages before the template sees them.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from gem_rag.errors import GemError

CALL_START, CALL_END = "<tool_call>", "</tool_call>"
_INSTRUCTION = (
    "You can call functions. To call one, answer with its name and arguments as JSON between "
    f"{CALL_START} and {CALL_END}:\n"
    f'{CALL_START}{{"name": ..., "arguments": {{...}}}}{CALL_END}\n'
    "The functions, one per line:\n"
)


@dataclass(frozen=True)
class Tool:
    """A function a model may call; `parameters` is the JSON schema of its arguments."""

    name: str
    description: str = ""
    parameters: Mapping[str, Any] = field(default_factory=lambda: {"type": "object"})

    @classmethod
    def of(cls, tool: Mapping[str, Any]) -> Tool:
        """From an OpenAI-style dict, with or without its ``{"type": "function"}`` wrapping.

        Raises:
            GemError: It has no name.
        """
        function = tool.get("function", tool)
        if not isinstance(function, Mapping) or not function.get("name"):
            raise GemError(
                f"a tool is {tool!r}; expected "
                "{'type': 'function', 'function': {'name', 'description', 'parameters'}}"
            )
        parameters = {"properties": {}, **(function.get("parameters") or {"type": "object"})}
        parameters.setdefault("additionalProperties", False)  # functions take no unknown arguments
        return cls(str(function["name"]), str(function.get("description") or ""), parameters)

    @property
    def signature(self) -> str:
        """Name, description and argument names as one line."""
        arguments = ", ".join(self.parameters.get("properties", {}))
        return f"{self.name}: {self.description} Arguments: {arguments}"

    def to_dict(self) -> dict[str, Any]:
        """The OpenAI-style dict."""
        function = {
            "name": self.name,
            "description": self.description,
            "parameters": dict(self.parameters),
        }
        return {"type": "function", "function": function}


@dataclass(frozen=True)
class ToolCall:
    """A call a model made."""

    name: str
    arguments: dict[str, Any]


def parse_calls(text: str, names: Collection[str] | None = None) -> tuple[ToolCall, ...]:
    """The calls in an answer; one that was cut off before its end is none.

    Args:
        text: The answer.
        names: Tools that can be called; None is any.
    """
    calls = []
    for part in text.split(CALL_START)[1:]:
        body, end, _ = part.partition(CALL_END)
        try:
            call = json.loads(body) if end else None
        except json.JSONDecodeError:
            continue
        if isinstance(call, dict) and isinstance(call.get("arguments"), dict):
            name = str(call.get("name") or "")
            if name in names if names is not None else name:
                calls.append(ToolCall(name, call["arguments"]))
    return tuple(calls)


def before_calls(text: str) -> str:
    """What an answer says before its first call."""
    return text.partition(CALL_START)[0]


def without_calls(pieces: Iterator[str], names: Collection[str]) -> Iterator[str]:
    """An answer's text piece by piece; what may be a call is held back, and a call left out."""
    held = ""
    for piece in pieces:
        held += piece
        at = _call_place(held)
        if at:
            yield held[:at]
            held = held[at:]
    if held and not parse_calls(held, names):
        yield held


def _call_place(text: str) -> int:
    """Where a call begins, or may begin at the end of what is there."""
    at = text.find(CALL_START)
    if at >= 0:
        return at
    ends = (i for i in range(1, len(CALL_START)) if text.endswith(CALL_START[:i]))
    return len(text) - max(ends, default=0)


def with_tools(
    messages: Sequence[Mapping[str, Any]], tools: Sequence[Tool]
) -> list[dict[str, Any]]:
    """Messages in which tools, calls and results are plain text, for templates without them."""
    out = [_plain(message) for message in messages]
    if not tools:
        return out
    words = _INSTRUCTION + "\n".join(json.dumps(t.to_dict()["function"]) for t in tools)
    if out and out[0]["role"] == "system":
        return [{**out[0], "content": f"{out[0]['content']}\n\n{words}"}, *out[1:]]
    return [{"role": "system", "content": words}, *out]


def _plain(message: Mapping[str, Any]) -> dict[str, Any]:
    content = message.get("content") or ""
    if message.get("role") == "tool":
        # In words: a model that was not trained on tools copies tags into its answer.
        said = f"Result of {message.get('name') or 'the function'}: {content}"
        return {"role": "user", "content": f"{said}\nAnswer with this result."}
    calls = [_written(call) for call in message.get("tool_calls") or []]
    return {"role": message.get("role"), "content": "\n".join(filter(None, [content, *calls]))}


def _written(call: Mapping[str, Any]) -> str:
    body = {"name": call["name"], "arguments": call["arguments"]}
    return f"{CALL_START}{json.dumps(body)}{CALL_END}"
