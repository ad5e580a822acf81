"""Tools: how they, their calls and their results are told to a model.

Templates that know tools in this format (Qwen, SmolLM3, Hermes) render them themselves; for all
others they are written into ordinary messages before the template sees them.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from gem_rag.errors import GemError
from gem_rag.text.prompts import CALL_TOOLS, TOOL_RESULT
from gem_rag.text.schemas import arguments

CALL_START, CALL_END = "<tool_call>", "</tool_call>"


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
        return cls(
            str(function["name"]),
            str(function.get("description") or ""),
            arguments(function.get("parameters")),
        )

    @property
    def signature(self) -> str:
        """Name, description and argument names as one line."""
        names = ", ".join(self.parameters.get("properties", {}))
        return f"{self.name}: {self.description} Arguments: {names}"

    def to_dict(self) -> dict[str, Any]:
        """The OpenAI-style dict."""
        function = {
            "name": self.name,
            "description": self.description,
            "parameters": dict(self.parameters),
        }
        return {"type": "function", "function": function}


def choice_of(choice: Any) -> str:
    """A tool choice, in the words of any provider, as "auto", "any", "none" or a tool's name.

    Raises:
        GemError: It names no tool.
    """
    if choice is None:
        return "auto"
    if isinstance(choice, bool):
        return "any" if choice else "none"
    if isinstance(choice, str):
        return "any" if choice == "required" else choice
    if isinstance(choice, Mapping):
        named = choice.get("function", choice.get("tool", choice))
        name = named.get("name") if isinstance(named, Mapping) else named
        if name:
            return str(name)
        for kind in (choice.get("type"), choice.get("mode")):
            if kind in ("auto", "any", "none", "required"):
                return choice_of(kind)
    raise GemError(
        f"tool_choice is {choice!r}; expected 'auto', 'any', 'none', a tool's name, or a dict that "
        "holds one of them as type or name"
    )


def with_tools(
    messages: Sequence[Mapping[str, Any]], tools: Sequence[Tool]
) -> list[dict[str, Any]]:
    """Messages in which tools, calls and results are plain text, for templates without them."""
    out = [_plain(message) for message in messages]
    if not tools:
        return out
    asked = CALL_TOOLS.format(start=CALL_START, end=CALL_END)
    words = asked + "\n".join(json.dumps(t.to_dict()["function"]) for t in tools)
    if out and out[0]["role"] == "system":
        return [{**out[0], "content": f"{out[0]['content']}\n\n{words}"}, *out[1:]]
    return [{"role": "system", "content": words}, *out]


def _plain(message: Mapping[str, Any]) -> dict[str, Any]:
    content = message.get("content") or ""
    if message.get("role") == "tool":
        # In words: a model that was not trained on tools copies tags into its answer.
        name = message.get("name") or "the function"
        return {"role": "user", "content": TOOL_RESULT.format(name=name, content=content)}
    calls = [_written(call) for call in message.get("tool_calls") or []]
    return {"role": message.get("role"), "content": "\n".join(filter(None, [content, *calls]))}


def _written(call: Mapping[str, Any]) -> str:
    body = {"name": call["name"], "arguments": call["arguments"]}
    return f"{CALL_START}{json.dumps(body)}{CALL_END}"
