"""Text to token ids: the user's words, the chat template around them, and the preamble before."""

from __future__ import annotations

import re
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

from jinja2 import TemplateError

from gem_rag.errors import GemError, UnsupportedModelError
from gem_rag.tools import CALL_START, Tool, with_tools

if TYPE_CHECKING:
    from tokenizers import Tokenizer
    from transformers import PreTrainedTokenizerBase

Message = dict[str, Any]
_MARK = "\u2063gem\u2063"  # invisible separators: no template strips or changes it


@dataclass(frozen=True)
class Tokenized:
    """Ids and ``(start, end)`` character offsets of one text, and what was cut off its end."""

    ids: list[int]
    offsets: list[tuple[int, int]]
    cut: int


class TextCodec:
    """The model's tokenizer and chat template, safe to use from several threads.

    Calls go to the Rust tokenizer directly, which is immutable here: transformers' wrapper sets
    padding and truncation on it for each call ("Already borrowed").
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        from tokenizers import Tokenizer

        if not tokenizer.is_fast:
            raise UnsupportedModelError(
                f"{type(tokenizer).__name__} is a slow tokenizer; expected one with a "
                "tokenizer.json"
            )
        self.tokenizer = tokenizer
        serialized = tokenizer.backend_tokenizer.to_str()
        self._template = Tokenizer.from_str(serialized)
        self._words = Tokenizer.from_str(serialized)
        # A document that contains "<|im_end|>" must not end the user's turn.
        self._words.encode_special_tokens = True
        for backend in (self._template, self._words):
            backend.no_padding()
            backend.no_truncation()
        self._mark = f"\u2063{secrets.token_hex(4)}:"  # no text can know it
        self._marked = re.compile(rf"{self._mark}(\d+)\u2064")

    @property
    def backend(self) -> Tokenizer:
        """The Rust tokenizer for plain text, to count tokens with."""
        return self._words

    def serialized(self) -> str:
        """The tokenizer as JSON, for fingerprints."""
        return self._template.to_str()

    def encode_texts(self, texts: Sequence[str], max_tokens: int | None) -> list[Tokenized]:
        """Tokenize the user's words: nothing added, control tokens taken as plain text."""
        out = []
        try:
            encodings = self._words.encode_batch(list(texts), add_special_tokens=False)
        except TypeError:
            _require_unicode(texts)
            raise
        for encoding in encodings:
            ids, offsets = encoding.ids, encoding.offsets
            cut = max(0, len(ids) - max_tokens) if max_tokens is not None else 0
            kept = len(ids) - cut
            out.append(Tokenized(ids[:kept], offsets[:kept], cut))
        return out

    def encode(self, text: str, *, add_special_tokens: bool = False) -> list[int]:
        """Tokenize text whose control tokens mean what they say (templates, prompts)."""
        try:
            encoding = self._template.encode(text, add_special_tokens=add_special_tokens)
        except TypeError:
            _require_unicode([text])
            raise
        return list(encoding.ids)

    def decode(self, ids: Sequence[int]) -> str:
        """Ids to text without control tokens."""
        text: str = self._template.decode(list(ids), skip_special_tokens=True)
        return text

    @property
    def has_template(self) -> bool:
        """Whether the tokenizer carries a chat template."""
        return bool(self.tokenizer.chat_template)

    def preamble(self) -> tuple[str, list[int]]:
        """What stands before the user's words, as text and ids (design: "Readings")."""
        if self.has_template:
            text = self._render([{"role": "user", "content": _MARK}]).split(_MARK)[0]
            if ids := self.encode(text):
                return text, ids
        bos = self.tokenizer.bos_token_id
        if bos is not None:
            return str(self.tokenizer.bos_token), [int(bos)]
        return "\n", self.encode("\n")[:1]

    @property
    def end_ids(self) -> list[int]:
        """The tokenizer's own end-of-sequence id, if it has one."""
        eos = self.tokenizer.eos_token_id
        return [] if eos is None else [int(eos)]

    def prompt_ids(
        self,
        request: str | Sequence[Message],
        *,
        raw: bool = False,
        continued: bool = False,
        tools: Sequence[Tool] = (),
    ) -> list[int]:
        """A request as ids: whole, or as what follows a reading (`continued`)."""
        if continued:
            if tools:
                raise GemError("tools cannot be used after a reading: they stand before its text")
            return self._encode_guarded(self._continuation(request, raw=raw))
        text = self._prompt(request, raw=raw, tools=tools)
        # A template writes its own control tokens; plain text gets the tokenizer's (BOS).
        plain = isinstance(request, str) and (raw or not self.has_template)
        return self._encode_guarded(text, add_special_tokens=plain)

    def prompt(
        self, request: str | Sequence[Message], *, raw: bool = False, tools: Sequence[Tool] = ()
    ) -> str:
        """A request as the text the model continues.

        Args:
            request: Chat messages, or a string, which is one user message.
            raw: Take a string as it stands, without the chat template.
            tools: Functions to tell the model of.
        """
        return self._unguarded(self._prompt(request, raw=raw, tools=tools))

    def _prompt(
        self, request: str | Sequence[Message], *, raw: bool, tools: Sequence[Tool] = ()
    ) -> str:
        asked = self._text_or_messages(request, raw)
        return asked if isinstance(asked, str) else self._render(asked, tools)

    def _text_or_messages(
        self, request: str | Sequence[Message], raw: bool
    ) -> str | Sequence[Message]:
        """A string is one user message, but for raw text and for a base without a template."""
        if not isinstance(request, str) and not request:
            raise ValueError("the prompt is empty; expected text or messages")
        if not isinstance(request, str) or raw:
            return request
        if not self.has_template:
            return self._guarded(request)
        return [{"role": "user", "content": request}]

    def continuation(self, request: str | Sequence[Message], *, raw: bool = False) -> str:
        """A request as what follows a reading: its first user message goes on after the text.

        Raises:
            GemError: The messages do not begin with the user (a reading has its own preamble).
        """
        return self._unguarded(self._continuation(request, raw=raw))

    def _continuation(self, request: str | Sequence[Message], *, raw: bool) -> str:
        asked = self._text_or_messages(request, raw)
        if isinstance(asked, str):
            return asked
        if asked[0].get("role") != "user":
            found = asked[0].get("role")
            raise GemError(
                f"after=reading needs messages that begin with the user's, found {found!r}: the "
                "text was read after the model's own preamble"
            )
        first = {**asked[0], "content": _MARK + as_text(asked[0].get("content"))}
        return self._render([first, *asked[1:]]).split(_MARK, 1)[1]

    def _render(self, messages: Sequence[Message], tools: Sequence[Tool] = ()) -> str:
        texts = [{**m, "content": as_text(m.get("content"))} for m in messages]
        if self.has_template and self.renders_tools:
            known = [self._guarded_all(tool.to_dict()) for tool in tools]
            return self._apply([self._guarded_all(m) for m in texts], known or None)
        plain = [self._guarded_all(m) for m in with_tools(texts, tools)]
        if not self.has_template:
            lines = [f"{m['role']}: {m['content']}" for m in plain]
            return "\n".join([*lines, "assistant:"])
        try:
            return self._apply(plain)
        except TemplateError:  # some templates refuse a system message
            if plain[0]["role"] != "system" or len(plain) < 2:
                raise
            words = f"{plain[0]['content']}\n\n{plain[1]['content']}"
            return self._apply([{**plain[1], "content": words}, *plain[2:]])

    # What a message says is words, whatever stands in it (a passage with "<|im_end|>" must not end
    # the user's turn): control tokens in it are put behind marks until the text is tokenized.

    @cached_property
    def _control_tokens(self) -> list[str]:
        added = self._template.get_added_tokens_decoder().values()
        return sorted((t.content for t in added if t.special), key=len, reverse=True)

    @cached_property
    def _control_pattern(self) -> re.Pattern[str]:
        return re.compile("|".join(map(re.escape, self._control_tokens)) or r"(?!)")

    def _guarded(self, text: str) -> str:
        known = self._control_tokens
        return self._control_pattern.sub(lambda m: f"{self._mark}{known.index(m[0])}\u2064", text)

    def _guarded_all(self, value: Any) -> Any:
        """All strings in a message or a tool, its arguments and descriptions too."""
        if isinstance(value, str):
            return self._guarded(value)
        if isinstance(value, Mapping):
            return {name: self._guarded_all(inner) for name, inner in value.items()}
        if isinstance(value, list | tuple):
            return [self._guarded_all(inner) for inner in value]
        return value

    def _unguarded(self, text: str) -> str:
        return self._marked.sub(lambda m: self._control_tokens[int(m[1])], text)

    def _encode_guarded(self, text: str, *, add_special_tokens: bool = False) -> list[int]:
        pieces = self._marked.split(text)  # template, number of a token, template, ...
        ids = self.encode(pieces[0], add_special_tokens=add_special_tokens)
        for number, after in zip(pieces[1::2], pieces[2::2], strict=True):
            words = self._control_tokens[int(number)]
            ids += self._words.encode(words, add_special_tokens=False).ids
            ids += self.encode(after)
        return ids

    @property
    def renders_tools(self) -> bool:
        """Whether the template itself writes tools and calls in the format of `gem_rag.tools`."""
        template = self.tokenizer.chat_template
        return isinstance(template, str) and CALL_START in template and "tools" in template

    def _apply(self, messages: list[Message], tools: list[Any] | None = None) -> str:
        rendered = self.tokenizer.apply_chat_template(
            messages, tools=tools, tokenize=False, add_generation_prompt=True
        )
        assert isinstance(rendered, str)
        return rendered


def _require_unicode(texts: Sequence[str]) -> None:
    for i, text in enumerate(texts):
        if not isinstance(text, str):
            raise GemError(f"text {i} is {type(text).__name__}; expected str")
        try:
            text.encode()
        except UnicodeEncodeError as error:
            raise GemError(
                f"text {i} is no valid Unicode ({error}); decode it with errors='replace'"
            ) from None


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
