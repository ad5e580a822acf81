"""Constrained decoding: a JSON schema or tool signatures decide which tokens may come next.

The grammar work is llguidance's. What is added here: an answer that comes near its token limit is
closed (strings, lists and objects end as soon as the schema allows, and in time the shortest way to
the end is taken), so that what a small model writes parses even when it would never have stopped by
itself.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import cached_property, lru_cache
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from gem_rag.engine.closing import Shortest, is_in_string
from gem_rag.engine.enforce import json_rule, tell
from gem_rag.engine.options import Schema
from gem_rag.engine.sampling import LogitsHook
from gem_rag.errors import GemError
from gem_rag.text.codec import TextCodec
from gem_rag.text.tools import CALL_END, CALL_START, Tool

if TYPE_CHECKING:
    from llguidance import LLMatcher, LLTokenizer

CLOSERS = ("}", "]", ",")  # best first
CLOSING_TOKENS = 128  # at most this much of the end of an answer is kept for closing it
SPARE_TOKENS = 8  # what one token may add to the shortest way to the end, half a character, say


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
        self._shortest = lru_cache(64)(self._shortest_of)

    def schema(self, schema: Schema, max_new_tokens: int) -> LogitsHook:
        """Answers that fit a JSON schema, as far as decoding can be held to it.

        Raises:
            GemError: The schema is malformed, or nothing fits it.
        """
        return self._hook(f"start: {json_rule(schema)}", max_new_tokens)

    def tools(
        self,
        tools: Sequence[Tool],
        choice: str,
        max_new_tokens: int,
        schema: Schema | None = None,
    ) -> LogitsHook:
        """Answers that call one of the tools with arguments that fit its parameters.

        Args:
            tools: What can be called.
            choice: "any", a tool's name, or "auto", which leaves the choice between a call and
                text to the model.
            max_new_tokens: The answer's limit.
            schema: What text must fit, where it is chosen.

        Raises:
            GemError: An unknown tool, or a malformed schema.
        """
        names = [tool.name for tool in tools]
        if choice not in ("auto", "any", *names):
            raise GemError(f"tool_choice is {choice!r}; expected 'auto', 'any' or one of {names}")
        usable = [tool for tool in tools if choice in ("auto", "any", tool.name)]
        answer = f" | {json_rule(schema)}" if schema is not None and choice == "auto" else ""
        rules = [f"start: called{answer}"]
        rules += [f"called: {json.dumps(CALL_START)} call {json.dumps(CALL_END)}"]
        rules += [f"call: {' | '.join(f'call{i}' for i in range(len(usable)))}"]
        for i, tool in enumerate(usable):
            opening = json.dumps(f'{{"name": {json.dumps(tool.name)}, "arguments": ')
            rules.append(f'call{i}: {opening} {self._arguments(tool)} "}}"')
        hook = self._hook("\n".join(rules), max_new_tokens)
        return hook if choice != "auto" or answer else _IfCalled(self._codec, hook)

    def _arguments(self, tool: Tool) -> str:
        """A tool's parameters; a server's tool with a schema nobody can follow is called too."""
        try:
            return json_rule(tool.parameters)
        except GemError:
            tell((f"parameters of the tool {tool.name!r}",), json.dumps(tool.parameters))
            return json_rule({"type": "object"})

    def _hook(self, rules: str, max_new_tokens: int) -> _Followed:
        from llguidance import LLMatcher

        grammar = LLMatcher.grammar_from_lark(rules)
        matcher = LLMatcher(self.tokenizer, grammar, log_level=0)
        if matcher.is_error():
            reason = matcher.get_error().partition("\n")[0]
            raise GemError(f"this JSON schema cannot be enforced: {reason}")
        return _Followed(self, matcher, *self._shortest(grammar), max_new_tokens)

    def _shortest_of(self, grammar: str) -> tuple[Shortest, int]:
        """The search for endings, and how many tokens the shortest whole answer takes."""
        shortest = Shortest(grammar)
        whole = shortest.ending(b"") or b""
        return shortest, len(self.tokens(whole) or ())

    def allowed(self, matcher: LLMatcher) -> np.ndarray:
        """bool ``[vocab]``: which tokens the grammar allows next.

        Raises:
            GemError: The grammar became too much to follow.
        """
        if matcher.is_error():
            reason = matcher.get_error().partition("\n")[0]
            raise GemError(f"this JSON schema is too much to follow: {reason}; simplify it")
        if matcher.is_stopped():
            return self.only(self._end_ids)
        bits = np.frombuffer(matcher.compute_bitmask(), dtype=np.uint8)
        return np.unpackbits(bits, bitorder="little")[: self._vocabulary].astype(bool)

    def only(self, ids: Sequence[int]) -> np.ndarray:
        """bool ``[vocab]``: these tokens alone."""
        mask = np.zeros(self._vocabulary, dtype=bool)
        mask[list(ids)] = True
        return mask

    @cached_property
    def closers(self) -> list[np.ndarray]:
        """bool ``[vocab]``: tokens that end something outside a string, best first."""
        return [self.only(ids) for ids in (self._end_ids, *map(self._id_of, CLOSERS))]

    @cached_property
    def quote(self) -> np.ndarray:
        """bool ``[vocab]``: the token that ends a string."""
        return self.only(self._id_of('"'))

    def _id_of(self, character: str) -> list[int]:
        found = self._codec.backend.token_to_id(character)
        return [] if found is None else [found]

    @cached_property
    def openers(self) -> np.ndarray:
        """bool ``[vocab]``: tokens that begin a list or an object."""
        return self.only([i for text, i in self._ids.items() if b"{" in text or b"[" in text])

    def tokens(self, text: bytes) -> list[int] | None:
        """Token ids of a text that may begin inside a character; None where there are none."""
        ids: list[int] = []
        while text:
            begins = (text[:length] for length in range(self._longest, 0, -1))
            piece = next((begin for begin in begins if begin in self._ids), None)
            if piece is None:
                return None
            ids.append(self._ids[piece])
            text = text[len(piece) :]
        return ids

    @cached_property
    def _longest(self) -> int:
        return min(32, max(map(len, self._ids)))

    @cached_property
    def _ids(self) -> dict[bytes, int]:
        ids = (i for i in range(self._vocabulary) if not self.tokenizer.is_special_token(i))
        return {self.tokenizer.decode_bytes([i]): i for i in ids}

    @cached_property
    def tokenizer(self) -> LLTokenizer:
        """The model's tokenizer as llguidance has it."""
        from llguidance import LLTokenizer

        return LLTokenizer(
            self._codec.serialized(), n_vocab=self._vocabulary, eos_token=self._end_ids
        )


class _Followed:
    """A hook that holds one answer to its grammar, and closes it in time.

    Near the limit what is open is closed; where no more than the shortest way to the end is left,
    that is taken.

    Args:
        grammars: The tokenizer's masks.
        matcher: Follows the tokens.
        shortest: Finds ways to the end.
        whole: Tokens of the shortest whole answer.
        limit: Most tokens of this one.
    """

    def __init__(
        self, grammars: Grammars, matcher: LLMatcher, shortest: Shortest, whole: int, limit: int
    ) -> None:
        self._grammars, self._matcher, self._shortest = grammars, matcher, shortest
        self._limit = limit
        self._consumed = 0
        self._ending: list[int] = []  # the tokens of the way that is taken
        reserve = min(limit // 2, CLOSING_TOKENS)
        self._close_at = max(reserve, whole + reserve // 2)  # tokens left from here on
        self._look_at = max(self._close_at, 2 * whole + reserve // 2)

    def __call__(self, seen: list[int], logits: Tensor, count: int | None = None) -> Tensor:
        """The logits, with all tokens ruled out that may not come next.

        Args:
            seen: Ids that the grammar sees.
            logits: The next logits ``[vocab]``.
            count: Tokens generated, where that is another number.
        """
        followed = self._matcher.consume_tokens(seen[self._consumed :])
        if not followed and count is not None:
            return logits  # text that only began as a call does
        self._consumed = len(seen)
        allowed = self._grammars.allowed(self._matcher)
        left = self._limit - (len(seen) if count is None else count)
        if not self._matcher.is_stopped():
            allowed = self._in_time(allowed, seen, left)
        mask = torch.from_numpy(allowed).to(logits.device)
        return logits.masked_fill(~mask, -torch.inf)

    def _in_time(self, allowed: np.ndarray, seen: Sequence[int], left: int) -> np.ndarray:
        """The allowed tokens after which the answer can still come to its end."""
        if not self._ending and left <= self._look_at:
            self._look(self._text(seen), left)
        if self._ending:
            return self._grammars.only([self._ending.pop(0)])
        return allowed if left > self._close_at else self._closing(allowed, seen, left)

    def _look(self, text: bytes, left: int) -> None:
        """Find the way to the end; take it, or say when to look again."""
        ending = self._tokens_to_end(text)
        if ending is None:
            self._look_at = left // 2
            return
        spare = left - len(ending) - SPARE_TOKENS
        if spare <= 0:
            self._ending = ending
        self._look_at = left - max(1, spare // 2)

    def _tokens_to_end(self, text: bytes) -> list[int] | None:
        ending = self._shortest.ending(text)
        return None if ending is None else self._grammars.tokens(ending)

    def _closing(self, allowed: np.ndarray, seen: Sequence[int], left: int) -> np.ndarray:
        """The allowed tokens that end something, if there are any; else what can end in time."""
        text = self._text(seen)
        in_string = is_in_string(text)
        for closers in [self._grammars.quote] if in_string else self._grammars.closers:
            ending = allowed & closers
            if ending.any():
                return np.asarray(ending)
        if in_string:
            return allowed
        in_time = allowed.copy()
        for opener in np.flatnonzero(allowed & self._grammars.openers):
            way = self._tokens_to_end(self._text([*seen, int(opener)]))
            in_time[opener] = way is not None and len(way) + SPARE_TOKENS < left
        return in_time if in_time.any() else allowed

    def _text(self, ids: Sequence[int]) -> bytes:
        return self._grammars.tokenizer.decode_bytes(list(ids))


class _IfCalled:
    """A hook for the grammar from where a call begins; free text before it, or without one.

    Args:
        codec: Decodes what was generated.
        hook: Holds a call to its grammar.
    """

    def __init__(self, codec: TextCodec, hook: _Followed) -> None:
        self._codec = codec
        self._hook = hook
        self._opening: list[int] = []  # the call as far as it was there when it was seen
        self._before = 0  # tokens generated until then

    def __call__(self, generated: list[int], logits: Tensor) -> Tensor:
        """The logits, held to the grammar inside a call."""
        if not self._opening:
            text = self._codec.decode(generated)
            begins = len(text) > 1 and CALL_START.startswith(text)
            at = 0 if begins else text.find(CALL_START)
            if at < 0:
                return logits
            self._before = len(generated)
            # Elsewhere than at the start a token may hold the end of the text before it too.
            self._opening = (
                self._codec.encode_texts([text[at:]], None)[0].ids if at else generated[:]
            )
        return self._hook(self._opening + generated[self._before :], logits, len(generated))
