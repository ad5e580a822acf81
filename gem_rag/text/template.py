"""Chat messages as the text the model goes on from, by the tokenizer's own template."""

from __future__ import annotations

import re
import secrets
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any

from jinja2 import TemplateError

from gem_rag.errors import GemError
from gem_rag.text.kept import KeptTokenizer
from gem_rag.text.tools import CALL_START, Tool, with_tools

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Message = dict[str, Any]
TEXT_MARK = "\u2063gem\u2063"  # invisible separators: no template strips or changes it


class ControlMarks:
    """What a message says is words, whatever stands in it.

    A passage with ``<|im_end|>`` must not end the user's turn: control tokens in what people say
    are put behind marks until the text is tokenized.

    Args:
        control_tokens: The tokenizer's, which mean something where a template writes them.
    """

    def __init__(self, control_tokens: Sequence[str]) -> None:
        self._tokens = sorted(control_tokens, key=len, reverse=True)
        self._pattern = re.compile("|".join(map(re.escape, self._tokens)) or r"(?!)")
        self._mark = f"\u2063{secrets.token_hex(4)}:"  # no text can know it
        self._marked = re.compile(rf"{self._mark}(\d+)\u2064")

    def put(self, value: Any) -> Any:
        """Marks in all strings of a message or a tool, its arguments and descriptions too."""
        if isinstance(value, str):
            return self._pattern.sub(
                lambda m: f"{self._mark}{self._tokens.index(m[0])}\u2064", value
            )
        if isinstance(value, Mapping):
            return {name: self.put(inner) for name, inner in value.items()}
        if isinstance(value, list | tuple):
            return [self.put(inner) for inner in value]
        return value

    def remove(self, text: str) -> str:
        """The text with the words that the marks stand for."""
        return self._marked.sub(lambda m: self._tokens[int(m[1])], text)

    def pieces(self, text: str) -> tuple[str, list[tuple[str, str]]]:
        """What stands before the first mark, and for each mark its words and what follows."""
        first, *rest = self._marked.split(text)  # template, number of a token, template, ...
        words = (self._tokens[int(number)] for number in rest[::2])
        return first, list(zip(words, rest[1::2], strict=True))


class ChatTemplate:
    """Renders messages; without a template of the tokenizer's own, as ``role: words`` lines.

    Args:
        tokenizer: Carries the template.
        marks: Put around control tokens in what messages say.
    """

    def __init__(
        self, tokenizer: PreTrainedTokenizerBase | KeptTokenizer, marks: ControlMarks
    ) -> None:
        self._tokenizer = tokenizer
        self._marks = marks

    @property
    def exists(self) -> bool:
        """Whether the tokenizer carries a chat template."""
        return bool(self._tokenizer.chat_template)

    @property
    def renders_tools(self) -> bool:
        """Whether the template itself writes tools and calls as `gem_rag.text.tools` does."""
        template = self._tokenizer.chat_template
        return isinstance(template, str) and CALL_START in template and "tools" in template

    @property
    def before_words(self) -> str:
        """What stands before the user's words; empty without a template."""
        if not self.exists:
            return ""
        return self._around_words[0]

    @property
    def after_words(self) -> str:
        """What stands after the user's words, before the answer; empty without a template."""
        return self._around_words[1] if self.exists else ""

    @cached_property
    def _around_words(self) -> tuple[str, str]:
        rendered = self._render([{"role": "user", "content": TEXT_MARK}])
        before, _, after = rendered.partition(TEXT_MARK)
        return before, after

    def prompt(
        self, request: str | Sequence[Message], *, raw: bool, tools: Sequence[Tool] = ()
    ) -> str:
        """A request, marked, as the text the model goes on from."""
        asked = self._text_or_messages(request, raw)
        return asked if isinstance(asked, str) else self._render(asked, tools)

    def continuation(self, request: str | Sequence[Message], *, raw: bool) -> str:
        """A request, marked, as what follows a reading's text.

        Raises:
            GemError: The messages do not begin with the user (a reading has its own preamble).
        """
        asked = self._text_or_messages(request, raw)
        if isinstance(asked, str):
            return asked
        if asked[0].get("role") != "user":
            found = asked[0].get("role")
            raise GemError(
                f"after=reading needs messages that begin with the user's, found {found!r}: the "
                "text was read after the model's own preamble"
            )
        first = {**asked[0], "content": TEXT_MARK + as_text(asked[0].get("content"))}
        return self._render([first, *asked[1:]]).split(TEXT_MARK, 1)[1]

    def _text_or_messages(
        self, request: str | Sequence[Message], raw: bool
    ) -> str | Sequence[Message]:
        """A string is one user message, but for raw text and for a base without a template."""
        if not isinstance(request, str) and not request:
            raise ValueError("the prompt is empty; expected text or messages")
        if not isinstance(request, str) or raw:
            return request
        if not self.exists:
            marked: str = self._marks.put(request)
            return marked
        return [{"role": "user", "content": request}]

    def _render(self, messages: Sequence[Message], tools: Sequence[Tool] = ()) -> str:
        texts = [{**m, "content": as_text(m.get("content"))} for m in messages]
        if self.exists and self.renders_tools:
            known = [self._marks.put(tool.to_dict()) for tool in tools]
            return self._apply([self._marks.put(m) for m in texts], known or None)
        plain = [self._marks.put(m) for m in with_tools(texts, tools)]
        if not self.exists:
            lines = [f"{m['role']}: {m['content']}" for m in plain]
            return "\n".join([*lines, "assistant:"])
        try:
            return self._apply(plain)
        except TemplateError:  # some templates refuse a system message
            if plain[0]["role"] != "system" or len(plain) < 2:
                raise
            words = f"{plain[0]['content']}\n\n{plain[1]['content']}"
            return self._apply([{**plain[1], "content": words}, *plain[2:]])

    def _apply(self, messages: list[Message], tools: list[Any] | None = None) -> str:
        rendered = self._tokenizer.apply_chat_template(
            messages, tools=tools, tokenize=False, add_generation_prompt=True
        )
        assert isinstance(rendered, str)
        return rendered


def as_text(content: Any) -> str:
    """Message content as text: templates of small models take neither lists nor None."""
    if content is None:
        return ""
    if isinstance(content, str):
        return content
    if isinstance(content, Sequence):
        return "".join(_part_text(part) for part in content)
    raise GemError(f"message content is {type(content).__name__}; expected text or text parts")


def _part_text(part: Any) -> str:
    if isinstance(part, str):
        return part
    if isinstance(part, dict) and isinstance(part.get("text"), str):
        return str(part["text"])
    kind = part.get("type") if isinstance(part, dict) else type(part).__name__
    raise GemError(f"message has a part of type {kind!r}; this model takes text only")
