"""Speculation: what an answer may write next is guessed, and checked with the token before it.

Answers copy from what they were asked about, so the last few tokens are looked up in what the row
has read and written, and what followed there is guessed (prompt lookup; no second model). One pass
says what the model itself writes after each of the guessed tokens: those that it agrees with stand,
and the first it does not agree with is replaced by its own, so that a text is what it would be
without. Several tokens of a row cost about what one does, as long as few rows run.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Protocol

MOST = 7  # tokens guessed at once: 8 with the one before them
WIDTHS = (2, 4, 8)  # tokens of a row in one step that are thought of, beside 1
# How likely what followed so many tokens follows again, before a row knows better. These and what
# follows were chosen on answers to questions about BoolQ's passages.
PRIOR = {4: 0.8, 3: 0.7, 2: 0.5, 1: 0.3}
WEIGHT = 4.0  # tokens that this counts for
KEPT = 0.9  # of what a row knows, from one guess to the next
FIXED = 20.0  # what a step costs whatever is run in it, in tokens; until it is measured
PAYS = 1.1  # times as many tokens a second as without guessing
TRIALS = 3  # first runs of a shape are slow: what a library prepares for it
SLOWLY = 0.1  # how far a step that took longer than known is believed
FADING = 0.995  # of what is known of a width, from one step of another to the next


class Guesser:
    """Guesses how a sequence goes on, and keeps account of how often that came true.

    Args:
        ids: What was read so far.
    """

    def __init__(self, ids: Iterable[int]) -> None:
        self._ids: list[int] = []
        self._after: dict[tuple[int, ...], int] = {}  # where what followed an n-gram last stands
        self._size = min(PRIOR)  # of the n-gram that the last guess is by
        self._right = dict.fromkeys(PRIOR, 0.0)  # guessed tokens, by the size of the n-gram
        self._wrong = dict.fromkeys(PRIOR, 0.0)
        self.extend(ids)

    def extend(self, ids: Iterable[int]) -> None:
        """Take over what was read or written."""
        own, after = self._ids, self._after
        for token in ids:
            count = len(own)
            for size in PRIOR:
                if size <= count:
                    after[tuple(own[-size:])] = count
            own.append(token)

    def __len__(self) -> int:
        return len(self._ids)

    def guess(self, most: int) -> list[int]:
        """What followed the longest of the last n-grams when it stood there last; maybe nothing."""
        own = self._ids
        for size in PRIOR:
            at = self._after.get(tuple(own[-size:]))
            if at is not None:
                self._size = size
                out: list[int] = []
                for place in range(at, at + most):  # beyond the end it repeats itself
                    out.append(own[place] if place < len(own) else out[place - len(own)])
                return out
        return []

    @property
    def trust(self) -> float:
        """How likely each token of the last guess is right, by those before."""
        right, wrong = self._right[self._size], self._wrong[self._size]
        return (WEIGHT * PRIOR[self._size] + right) / (WEIGHT + right + wrong)

    def judge(self, right: int = 0, wrong: int = 0) -> None:
        """Take note of what became of the last guess, also where it was not worth running.

        Args:
            right: Its tokens that were right, up to the first that was not.
            wrong: 1 where there was such a one.
        """
        self._right[self._size] = KEPT * self._right[self._size] + right
        self._wrong[self._size] = KEPT * self._wrong[self._size] + wrong


class Pace:
    """How much longer wide steps take than narrow ones; measured while they are run."""

    def __init__(self) -> None:
        self._seconds: dict[tuple[int, int], float] = {}  # by rows and width
        self._runs: Counter[tuple[int, int]] = Counter()

    def note(self, rows: int, width: int, seconds: float) -> None:
        """Take note of a step: a fast one is believed, a slow one may have been disturbed."""
        known = self._seconds.get((rows, width), seconds)
        for other in WIDTHS:  # what is not run any more may have become faster
            if (rows, other) in self._seconds:
                self._seconds[rows, other] *= FADING
        self._seconds[rows, width] = min(seconds, known + SLOWLY * (seconds - known))
        self._runs[rows, width] += 1

    def ratio(self, rows: int, width: int) -> float:
        """How many times longer a step of this width takes than one of one token a row."""
        expected = (FIXED + rows * width) / (FIXED + rows)
        wide, narrow = self._seconds.get((rows, width)), self._seconds.get((rows, 1))
        if wide is None or narrow is None:
            return expected
        found = wide / narrow
        return found if self._runs[rows, width] >= TRIALS else min(found, expected)


class Guessing(Protocol):
    """What is asked of a row that may guess."""

    @property
    def width(self) -> int:
        """How many rows of a pass it takes."""

    @property
    def speculates(self) -> bool | None:
        """Whether it guesses: always, never, or (None) where that is faster."""

    @property
    def guesser(self) -> Guesser:
        """Knows what it has read and written."""

    @property
    def most_guessed(self) -> int:
        """Tokens it could take beside the next one."""


def guesses(rows: Sequence[Guessing], pace: Pace) -> list[list[int]]:
    """What each row of a step guesses, such that most tokens are written in a second.

    All rows of a step are as wide as the widest, so that it is decided for all of them together.

    Args:
        rows: Those of the step.
        pace: What steps take.
    """
    found = [_guess(row) for row in rows]
    guessing = [(row, guess) for row, guess in zip(rows, found, strict=True) if guess]
    if not guessing:
        return found
    count = sum(row.width for row in rows)

    def worth(width: int) -> float:
        """Tokens in the time of a step without guesses."""
        right = (_right(row.guesser.trust, len(guess[: width - 1])) for row, guess in guessing)
        return (len(rows) + sum(right)) / pace.ratio(count, width)

    best = max(WIDTHS, key=worth)
    if worth(best) < PAYS * len(rows):
        best = 1
    best = max(best, *(1 + len(guess) for row, guess in guessing if row.speculates), 1)
    if best == 1:
        for row, _ in guessing:
            row.guesser.judge()
    return [guess[: best - 1] for guess in found]


def _guess(row: Guessing) -> list[int]:
    if row.speculates is False or row.most_guessed < 1:
        return []
    return row.guesser.guess(min(MOST, row.most_guessed))


def _right(trust: float, count: int) -> float:
    """How many tokens of a guess will be right: each only where those before it are."""
    return sum(trust**place for place in range(1, count + 1))
