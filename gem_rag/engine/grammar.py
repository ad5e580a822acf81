"""Constrained decoding: a JSON schema or tool signatures decide which tokens may come next.

The grammar work is llguidance's. What is added here: an answer that comes near its token limit is
closed (strings, lists and objects end as soon as the schema allows), so that what a small model
writes parses even when it would never have stopped by itself.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from gem_rag.engine.options import Schema
from gem_rag.engine.sampling import LogitsHook
from gem_rag.errors import GemError
from gem_rag.text.codec import TextCodec
from gem_rag.text.tools import CALL_END, CALL_START, Tool

if TYPE_CHECKING:
    from llguidance import LLMatcher, LLTokenizer

Follow = Callable[..., Tensor]  # ids that the grammar sees, logits, number of tokens generated
CLOSERS = ("}", "]", '"', ",")  # best first
IN_STRING = "Q"  # allowed beside a bracket only inside a string
CLOSING_TOKENS = 128  # at most this much of the end of an answer is kept for closing it
_JSON = {"whitespace_flexible": False, "item_separator": ", ", "key_separator": ": "}


class Grammars:
    """Makes hooks for one tokenizer; each follows one request, token by token.

    Args:
        codec: The model's tokenizer.
        vocabulary: Number of logits.
        end_ids: Ids that end an answer.
    """

    def __init__(self, codec: TextCodec, vocabulary: int, end_ids: Sequence[int]) -> None:
        self._codec = codec
        self._vocabulary = vocabulary
        self._end_ids = sorted(end_ids)

    def schema(self, schema: Schema, max_new_tokens: int) -> LogitsHook:
        """Answers that fit a JSON schema.

        Raises:
            GemError: The schema is malformed or uses keywords that cannot be enforced.
        """
        grammar = json.dumps({**schema, "x-guidance": _JSON})
        return self._hook(f"start: %json {grammar}", max_new_tokens)

    def tools(self, tools: Sequence[Tool], choice: str, max_new_tokens: int) -> LogitsHook:
        """Answers that call one of the tools with arguments that fit its parameters.

        Args:
            tools: What can be called.
            choice: "any", a tool's name, or "auto", which leaves the choice between a call and
                text to the model.
            max_new_tokens: The answer's limit.

        Raises:
            GemError: An unknown tool, or parameters that cannot be enforced.
        """
        names = [tool.name for tool in tools]
        if choice not in ("auto", "any", *names):
            raise GemError(f"tool_choice is {choice!r}; expected 'auto', 'any' or one of {names}")
        usable = [tool for tool in tools if choice in ("auto", "any", tool.name)]
        rules = [f"start: {json.dumps(CALL_START)} call {json.dumps(CALL_END)}"]
        rules += [f"call: {' | '.join(f'call{i}' for i in range(len(usable)))}"]
        for i, tool in enumerate(usable):
            call = {
                "type": "object",
                "properties": {"name": {"const": tool.name}, "arguments": tool.parameters},
                "required": ["name", "arguments"],
                "additionalProperties": False,
                # references in the parameters start at the root
                **{k: tool.parameters[k] for k in ("$defs", "definitions") if k in tool.parameters},
                "x-guidance": _JSON,
            }
            rules.append(f"call{i}: %json {json.dumps(call)}")
        hook = self._hook("\n".join(rules), max_new_tokens)
        return hook if choice != "auto" else self._if_called(hook)

    def _if_called(self, hook: Follow) -> LogitsHook:
        """The grammar from where a call begins; free text before it, or without one."""
        opening: list[int] = []  # the call as far as it was there when it was seen
        before = 0  # tokens generated until then

        def choose(generated: list[int], logits: Tensor) -> Tensor:
            nonlocal opening, before
            if not opening:
                text = self._codec.decode(generated)
                begins = len(text) > 1 and CALL_START.startswith(text)
                at = 0 if begins else text.find(CALL_START)
                if at < 0:
                    return logits
                before = len(generated)
                # Elsewhere than at the start a token may hold the end of the text before it too.
                opening = self._codec.encode_texts([text[at:]], None)[0].ids if at else generated[:]
            return hook(opening + generated[before:], logits, len(generated))

        return choose

    def _hook(self, grammar: str, max_new_tokens: int) -> Follow:
        from llguidance import LLMatcher

        matcher = LLMatcher(self._tokenizer, LLMatcher.grammar_from_lark(grammar), log_level=0)
        if matcher.is_error():
            reason = matcher.get_error().partition("\n")[0]
            raise GemError(f"this JSON schema cannot be enforced: {reason}")
        closing = max_new_tokens - min(max_new_tokens // 2, CLOSING_TOKENS)

        consumed = 0

        def allow(generated: list[int], logits: Tensor, count: int | None = None) -> Tensor:
            nonlocal consumed
            if not matcher.consume_tokens(generated[consumed:]):
                return logits  # text that only began as a call does
            consumed = len(generated)
            allowed = self._allowed(matcher)
            if (len(generated) if count is None else count) >= closing:
                allowed = self._closed(allowed)
            mask = torch.from_numpy(allowed).to(logits.device)
            return logits.masked_fill(~mask, -torch.inf)

        return allow

    def _allowed(self, matcher: LLMatcher) -> np.ndarray:
        """bool ``[vocab]``: which tokens the grammar allows next."""
        if matcher.is_stopped():
            ends = np.zeros(self._vocabulary, dtype=bool)
            ends[self._end_ids] = True
            return ends
        bits = np.frombuffer(matcher.compute_bitmask(), dtype=np.uint8)
        return np.unpackbits(bits, bitorder="little")[: self._vocabulary].astype(bool)

    def _closed(self, allowed: np.ndarray) -> np.ndarray:
        """The allowed tokens that end something, if there are any."""
        closers = [self._end_ids, *map(self._id_of, CLOSERS)]
        if allowed[self._id_of(IN_STRING)].any():
            closers = [self._id_of('"')]
        for ids in closers:
            if allowed[ids].any():
                only = np.zeros_like(allowed)
                only[ids] = allowed[ids]
                return only
        return allowed

    def _id_of(self, character: str) -> list[int]:
        found = self._codec.backend.token_to_id(character)
        return [] if found is None else [found]

    @cached_property
    def _tokenizer(self) -> LLTokenizer:
        from llguidance import LLTokenizer

        return LLTokenizer(
            self._codec.serialized(), n_vocab=self._vocabulary, eos_token=self._end_ids
        )
