"""How an answer that is held to a grammar can still come to its end."""

from __future__ import annotations

import heapq
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cache, cached_property
from itertools import count
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from llguidance import LLMatcher, LLTokenizer

QUOTE, ESCAPE = ord('"'), ord("\\")
OPENING, CLOSING = b"{[", b"}]"
ENDS = b"}],"  # outside a string: what is closed need not be filled, what is next must be there
EFFORT = 1000  # steps of a search before it is given up
LONGEST = 300  # bytes of a string, likewise
LONGER = 12  # how much longer than the shortest a string may be: another key may be worth it,
FEW = 8  # where the choice is between so many
# Of ways that look alike the first is kept. What separates leads on; ones, since in dates and
# numbers a zero is often refused.
_FIRST = b"@.:/-1aA"
_ORDER = bytes([*_FIRST, *(byte for byte in range(256) if byte not in _FIRST)])
_KINDS = (
    b"1234567890",
    b"abcdefghijklmnopqrstuvwxyz",
    b"ABCDEFGHIJKLMNOPQRSTUVWXYZ",
    b" !#$%&'()*+,;<=>?[]^_`{|}~",
)
_PROBES = b'"@.:/-1aA, '  # what comes after them tells ways apart


class Shortest:
    """Finds the shortest text that ends an answer.

    The grammar is followed byte by byte here, whatever the model's tokens are: a step takes
    microseconds, so that whole ways to the end can be tried.

    Args:
        grammar: As for llguidance.
    """

    def __init__(self, grammar: str) -> None:
        from llguidance import LLMatcher

        self._start = _State(LLMatcher(_bytes_tokenizer(), grammar, log_level=0), b"", _Place())

    def ending(self, begun: bytes) -> bytes | None:
        """What ends the answer; None where no end was found.

        Args:
            begun: The answer so far.
        """
        first = self._start.after(begun)
        if first is None:
            return None
        found = _search(_State(first.matcher, b"", first.place))
        return None if found is None else found.text


def is_in_string(text: bytes) -> bool:
    """Whether JSON text ends inside a string."""
    return _Place().after(text).in_string


@dataclass(frozen=True)
class _Place:
    """Where in its JSON a text is."""

    depth: int = 0
    in_string: bool = False
    escaped: bool = False

    def after(self, text: bytes) -> _Place:
        depth, in_string, escaped = self.depth, self.in_string, self.escaped
        for byte in text:
            if in_string:
                escaped, in_string = byte == ESCAPE and not escaped, byte != QUOTE or escaped
            elif byte == QUOTE:
                in_string = True
            else:
                depth += (byte in OPENING) - (byte in CLOSING)
        return _Place(depth, in_string, escaped)


@dataclass(frozen=True)
class _State:
    """A way: the text that was added, and where that leads."""

    matcher: LLMatcher = field(compare=False)
    text: bytes
    place: _Place

    def after(self, more: bytes) -> _State | None:
        matcher = self.matcher.deep_copy()
        if not matcher.consume_tokens(list(more)):
            return None
        return _State(matcher, self.text + more, self.place.after(more))

    @property
    def cost(self) -> int:
        """Its length and the brackets and quotes that it still has to close, at least."""
        return len(self.text) + self.place.depth + self.place.in_string

    @cached_property
    def allowed(self) -> bytes:
        """What may come next."""
        mask = self.matcher.compute_bitmask()
        return bytes(byte for byte in _ORDER if mask[byte // 8] >> byte % 8 & 1)

    @property
    def telling(self) -> bytes:
        """What may come next, with one for all where every letter or every digit may.

        Characters of several bytes and escapes are no shorter than others.
        """
        out = bytes(byte for byte in self.allowed if byte < 128 and byte != ESCAPE) or self.allowed
        for kind in _KINDS:
            if all(byte in out for byte in kind):
                out = bytes(byte for byte in out if byte not in kind[1:])
        return out

    def forced(self) -> _State:
        """Where this leads without a choice."""
        return self.after(self.matcher.compute_ff_bytes()) or self

    @cached_property
    def likeness(self) -> tuple[object, ...]:
        """The same for states that go on the same way, as far as two bytes show it."""
        probed = (self.after(bytes([byte])) for byte in _PROBES if byte in self.allowed)
        shown = (state.allowed for state in probed if state is not None)
        return self.place, self.allowed, self.matcher.compute_ff_bytes(), *shown

    def next_states(self) -> Iterator[_State]:
        """Ways that go on from here: a string is one step, and so is what has no alternative."""
        if self.matcher.compute_ff_bytes():
            yield self.forced()
        elif self.place.in_string:
            yield from self._strings()
        else:
            ends = (bytes([end]) for end in ENDS if end in self.allowed)
            steps = next(ends, self.allowed)
            yield from filter(None, (self.after(bytes([byte])) for byte in steps))

    def _strings(self) -> Iterator[_State]:
        """Ways to the string's end: the shortest, and others that are not much longer."""
        level, left, ends = [self], LONGEST, set[object]()
        while level and left:
            left -= 1
            longer: dict[tuple[object, ...], _State] = {}
            for state in level:
                if QUOTE in state.allowed and not state.place.escaped:
                    end = (state.after(b'"') or state).forced()
                    if end.likeness not in ends:
                        ends.add(end.likeness)
                        yield end
                    left = min(left, LONGER) if len(level) <= FEW else 0
                    continue
                for byte in state.telling:
                    if (following := state.after(bytes([byte]))) is not None:
                        longer.setdefault(following.likeness, following)
            level = list(longer.values())


def _search(first: _State) -> _State | None:
    """The way with the least cost to a text that the grammar accepts."""
    order = count()
    waiting = [(first.cost, next(order), first)]
    seen = set()
    for _ in range(EFFORT):
        if not waiting:
            return None
        state = heapq.heappop(waiting)[2]
        if state.matcher.is_accepting():
            return state
        for following in state.next_states():
            key = (following.likeness, len(following.text))
            if key not in seen:
                seen.add(key)
                heapq.heappush(waiting, (following.cost, next(order), following))
    return None


class _Bytes:
    """A tokenizer whose tokens are the bytes, and one for the end."""

    eos_token_id = 256
    bos_token_id = None
    tokens = [bytes([byte]) for byte in range(256)] + [b"<|end|>"]
    special_token_ids = [256]  # noqa: RUF012

    def __call__(self, text: bytes) -> list[int]:
        return list(text)


@cache
def _bytes_tokenizer() -> LLTokenizer:
    from llguidance import LLTokenizer, TokenizerWrapper

    return LLTokenizer(TokenizerWrapper(_Bytes()), slices=[])
