"""What is run next: one step of the running rows, a row's prompt, or a unit of other work.

Nothing here computes, and nothing here knows torch: the worker asks, runs what it is told, and says
how long that took.
"""

from __future__ import annotations

from bisect import insort
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass
from operator import itemgetter
from typing import Generic, Protocol, TypeVar

# Other work may take as much time as the steps of running rows took, and borrow this much at once.
SHARE, BORROWED_SECONDS = 1.0, 0.25
PROMPT_TOKENS = 1024  # of several prompts in one pass, where nobody else waits


@dataclass(frozen=True)
class Limits:
    """Bounds of what runs at once.

    Attributes:
        rows: Answers that are generated side by side; streams that nobody reads on are not counted,
            a committee counts each of its readings and a search its beams. One that is wider runs
            alone.
        kv_bytes: Keys and values they may come to hold together, by their prompts and longest
            answers (room for rows to come is not counted); one row alone may hold more.
        queued: Waiting requests and units above which ``wait=False`` is refused.
        chunk_tokens: Tokens of a prompt, or of a batch of texts, that are run between two steps of
            others.
    """

    rows: int = 16
    kv_bytes: int = 4 << 30
    queued: int = 256
    chunk_tokens: int = 256


class Row(Protocol):
    """What the scheduler asks of a row; rows are told apart by identity."""

    def __hash__(self) -> int: ...

    @property
    def is_prompted(self) -> bool:
        """Whether its prompt has been run, so that it takes part in steps."""

    @property
    def is_wanted(self) -> bool:
        """Whether anybody waits for its next token."""

    @property
    def width(self) -> int:
        """How many rows of a pass it takes: a committee has several."""

    @property
    def kv_bytes(self) -> int:
        """What it may come to hold."""


R = TypeVar("R", bound=Row)
U = TypeVar("U")


@dataclass(frozen=True)
class Step(Generic[R]):
    """One more token for each of these rows."""

    rows: tuple[R, ...]


@dataclass(frozen=True)
class Prompt(Generic[R]):
    """The next tokens of these rows' prompts.

    Attributes:
        rows: In the order they came.
        tokens: Most of each to run now; None is all: nobody else would wait.
    """

    rows: tuple[R, ...]
    tokens: int | None


@dataclass(frozen=True)
class Unit(Generic[U]):
    """A batch of other work: reading, embedding, ranking."""

    work: U


class Scheduler(Generic[R, U]):
    """Queues of rows and units, and whose turn it is.

    What has waited longest comes first. While rows run, other work gets a bounded share of the time
    between their steps, so that neither starves.

    Args:
        limits: May be exchanged while nothing runs or anything does.
    """

    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        self.running: dict[R, int] = {}  # and when each arrived
        self._waiting: deque[tuple[int, R]] = deque()
        self._units: deque[tuple[int, U]] = deque()
        self._arrived = 0
        self._credit = 0.0  # seconds of other work that the steps so far allow

    def add_rows(self, rows: Iterable[R]) -> None:
        """Queue rows; they are admitted one after another, in this order."""
        for row in rows:
            self._waiting.append((self._arrival(), row))

    def add_unit(self, unit: U, arrival: int | None = None) -> int:
        """Queue other work; when it arrived.

        Args:
            unit: The work.
            arrival: When the first of the request that it belongs to did, if that is not now.
        """
        arrival = self._arrival() if arrival is None else arrival
        insort(self._units, (arrival, unit), key=itemgetter(0))
        return arrival

    def _arrival(self) -> int:
        self._arrived += 1
        return self._arrived

    @property
    def queued(self) -> int:
        """Rows and units that have not begun."""
        return len(self._waiting) + len(self._units)

    @property
    def rows(self) -> list[R]:
        """All rows, running and waiting."""
        return [*self.running, *(row for _, row in self._waiting)]

    def remove(self, row: R) -> None:
        """Forget a row, running or waiting."""
        if self.running.pop(row, None) is None:
            self._waiting = deque(one for one in self._waiting if one[1] is not row)

    def next(self) -> Step[R] | Prompt[R] | Unit[U] | None:
        """What to run now; None where there is nothing, or nobody who wants it."""
        self._admit()
        if not any(row.is_prompted for row in self.running):
            self._credit = 0.0
        steps = self._side_by_side(row for row in self.running if row.is_prompted and row.is_wanted)
        prompts = tuple(row for row in self.running if not row.is_prompted and row.is_wanted)
        if steps and (self._credit < 0 or not (prompts or self._units)):
            return Step(steps)
        if self._units and not (prompts and self.running[prompts[0]] < self._units[0][0]):
            return Unit(self._units.popleft()[1])
        if prompts:
            return Prompt(prompts, self._prompt_tokens(prompts))
        return None

    def _side_by_side(self, rows: Iterable[R]) -> tuple[R, ...]:
        """The first of these rows, as many as the limit allows; one in any case."""
        taken: list[R] = []
        width = 0
        for row in rows:
            width += row.width
            if taken and width > self.limits.rows:
                break
            taken.append(row)
        return tuple(taken)

    def _prompt_tokens(self, prompts: tuple[R, ...]) -> int | None:
        """How much of prompts is run in one pass: all of one that is alone."""
        if self._units or len(self.running) > len(prompts):
            return self.limits.chunk_tokens
        return None if len(prompts) == 1 else PROMPT_TOKENS

    def _admit(self) -> None:
        """Take waiting rows in, as far as the limits allow; one is taken in any case."""
        while self._waiting:
            arrival, row = self._waiting[0]
            # Rows that wait to be read on do not keep others out: their reader may be behind these.
            wanted = [other for other in self.running if other.is_wanted]
            held = sum(other.kv_bytes for other in wanted)
            full = sum(other.width for other in wanted) + row.width > self.limits.rows
            if wanted and (full or held + row.kv_bytes > self.limits.kv_bytes):
                return
            self._waiting.popleft()
            self.running[row] = arrival

    def spent(self, done: Step[R] | Prompt[R] | Unit[U], seconds: float) -> None:
        """Take note of how long something took."""
        if isinstance(done, Step):
            self._credit = min(BORROWED_SECONDS, self._credit + SHARE * seconds)
            return
        prompts = done.rows if isinstance(done, Prompt) else ()
        if any(row.is_prompted and row not in prompts for row in self.running):
            self._credit = max(-BORROWED_SECONDS, self._credit - seconds)
