"""Text to token ids: the user's words as words, a request as the prompt it becomes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

from gem_rag.errors import GemError, UnsupportedModelError
from gem_rag.text.kept import KeptTokenizer
from gem_rag.text.template import ChatTemplate, ControlMarks, Message
from gem_rag.text.tools import Tool

if TYPE_CHECKING:
    from tokenizers import Tokenizer
    from transformers import PreTrainedTokenizerBase


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

    def __init__(self, tokenizer: PreTrainedTokenizerBase | KeptTokenizer) -> None:
        from tokenizers import Tokenizer

        self._tokenizer = tokenizer
        if isinstance(tokenizer, KeptTokenizer):
            serialized = tokenizer.serialized
        elif tokenizer.is_fast:
            serialized = tokenizer.backend_tokenizer.to_str()
        else:
            raise UnsupportedModelError(
                f"{type(tokenizer).__name__} is a slow tokenizer; expected one with a "
                "tokenizer.json"
            )
        self._template = Tokenizer.from_str(serialized)
        self._words = Tokenizer.from_str(serialized)
        # A document that contains "<|im_end|>" must not end the user's turn.
        self._words.encode_special_tokens = True
        for backend in (self._template, self._words):
            backend.no_padding()
            backend.no_truncation()
        added = self._template.get_added_tokens_decoder().values()
        self._marks = ControlMarks([token.content for token in added if token.special])
        self.template = ChatTemplate(tokenizer, self._marks)

    @cached_property
    def tokenizer(self) -> PreTrainedTokenizerBase:
        """transformers' own; where it was not loaded yet, it is now."""
        own = self._tokenizer
        return own.load() if isinstance(own, KeptTokenizer) else own

    @property
    def backend(self) -> Tokenizer:
        """The Rust tokenizer for plain text, to count tokens with."""
        return self._words

    def serialized(self) -> str:
        """The tokenizer as JSON, for fingerprints."""
        own = self._tokenizer  # one that was kept is what this gave
        return own.serialized if isinstance(own, KeptTokenizer) else self._template.to_str()

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
        return self.template.exists

    @property
    def renders_tools(self) -> bool:
        """Whether the template itself writes tools and calls as `gem_rag.text.tools` does."""
        return self.template.renders_tools

    def preamble(self) -> tuple[str, list[int]]:
        """What stands before the user's words, as text and ids (design: "Readings")."""
        text = self.template.before_words
        if ids := self.encode(text):
            return text, ids
        bos = self._tokenizer.bos_token_id
        if bos is not None:
            return str(self._tokenizer.bos_token), [int(bos)]
        return "\n", self.encode("\n")[:1]

    @cached_property
    def after_words(self) -> list[int]:
        """Ids of what the template puts after the user's last words, before the answer."""
        return self.encode(self.template.after_words)

    @property
    def end_ids(self) -> list[int]:
        """The tokenizer's own end-of-sequence id, if it has one."""
        eos = self._tokenizer.eos_token_id
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
            return self._encode_marked(self.template.continuation(request, raw=raw))
        text = self.template.prompt(request, raw=raw, tools=tools)
        # A template writes its own control tokens; plain text gets the tokenizer's (BOS).
        plain = isinstance(request, str) and (raw or not self.has_template)
        return self._encode_marked(text, add_special_tokens=plain)

    def prompt(
        self, request: str | Sequence[Message], *, raw: bool = False, tools: Sequence[Tool] = ()
    ) -> str:
        """A request as the text the model continues.

        Args:
            request: Chat messages, or a string, which is one user message.
            raw: Take a string as it stands, without the chat template.
            tools: Functions to tell the model of.
        """
        return self._marks.remove(self.template.prompt(request, raw=raw, tools=tools))

    def continuation(self, request: str | Sequence[Message], *, raw: bool = False) -> str:
        """A request as what follows a reading: its first user message goes on after the text.

        Raises:
            GemError: The messages do not begin with the user (a reading has its own preamble).
        """
        return self._marks.remove(self.template.continuation(request, raw=raw))

    def _encode_marked(self, text: str, *, add_special_tokens: bool = False) -> list[int]:
        first, rest = self._marks.pieces(text)
        ids = self.encode(first, add_special_tokens=add_special_tokens)
        for words, after in rest:
            ids += self._words.encode(words, add_special_tokens=False).ids
            ids += self.encode(after)
        return ids


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
