"""Answers under way: what each row has come to, and who waits for it."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import NamedTuple

from torch import Tensor

from gem_rag.compute.parts import Parts
from gem_rag.compute.reading import Reading
from gem_rag.compute.skill import Skilled
from gem_rag.engine.calls import Said, taken_apart
from gem_rag.engine.committee import Committee
from gem_rag.engine.fit import misfit_of_text
from gem_rag.engine.options import Schema
from gem_rag.engine.results import FinishReason, Generation, Usage
from gem_rag.engine.sampling import Sampler, Sampling
from gem_rag.engine.slots import Slot
from gem_rag.engine.stops import TextAssembler
from gem_rag.errors import GemError, GenerationTimeout

LOOK_AHEAD = 4  # tokens that a stream may be ahead of whoever reads it


@dataclass(frozen=True)
class Seat:
    """One of the places that a request takes in a pass: what goes before its prompt there.

    Attributes:
        after: The reading it goes on from.
        skilled: The skill that acts, and from which position on: what comes before is the base's.
    """

    after: Reading | None = None
    skilled: Skilled | None = None

    @property
    def held(self) -> int:
        """Tokens of the reading."""
        return 0 if self.after is None else len(self.after)


@dataclass(frozen=True)
class Row:
    """One request, ready to be run.

    Attributes:
        prompt: Token ids, without those of the reading.
        seats: Where they are run: one, or a committee's readings and the empty text it may want.
        sampling: How its tokens are chosen.
        stops: Strings that end it.
        limit: Most tokens to generate.
        truncated: Tokens cut from its prompt.
        tools: Names of the tools it may call.
        must_call: Whether it has to call one.
        schema: What its text has to fit.
        committee: Makes one choice of what the seats say; None where there is one.
    """

    prompt: list[int]
    seats: tuple[Seat, ...]
    sampling: Sampling
    stops: Sequence[str]
    limit: int
    truncated: int
    tools: Sequence[str]
    must_call: bool = False
    schema: Schema | None = None
    committee: Committee | None = None

    @property
    def follows_reading(self) -> bool:
        """Whether anything was read before its prompt."""
        return self.seats[0].after is not None

    @property
    def shared(self) -> int:
        """How many tokens at the beginning are read as any other row would read them."""
        skilled = self.seats[0].skilled
        return len(self.prompt) + self.limit if skilled is None else skilled.start

    @property
    def past(self) -> list[int]:
        """Token ids of the reading; of a committee's first."""
        after = self.seats[0].after
        return [] if after is None else after.ids.tolist()

    @property
    def held(self) -> int:
        """Tokens of all readings."""
        return sum(seat.held for seat in self.seats)


class Piece(NamedTuple):
    """What a token added: the text that can be shown, and how far the answer was then."""

    text: str
    tokens: int
    characters: int


@dataclass(eq=False)
class Answer:
    """A row that is run, and what it has come to.

    Attributes:
        row: What was asked.
        parts: The model's parts: they decode, and know the ids that end an answer.
        is_streamed: Somebody reads its pieces; it is never far ahead of them.
        asked: Asked after each token whether to stop.
        unwanted: Whether nobody waits for it any more.
        read_on: Called when a stream that was waited with is read on.
        future: Its end.
        slots: Where its keys and values are, seat by seat, while it is run.
        to_run: Tokens that are not in the slots yet: the same for all seats.
        ids: Generated.
        sources: Of each, the reading of a committee that it came from.
    """

    row: Row
    parts: Parts
    is_streamed: bool = False
    asked: Callable[[], bool] | None = None
    unwanted: Callable[[], bool] = lambda: False
    read_on: Callable[[], None] | None = None
    future: Future[Generation] = field(default_factory=Future)
    slots: list[Slot] = field(default_factory=list)
    to_run: list[int] = field(default_factory=list)
    ids: list[int] = field(default_factory=list)
    sources: list[int] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.to_run = list(self.row.prompt)
        self._reason: FinishReason = "cancelled"
        self._choose = Sampler(self.row.sampling)
        self._text = TextAssembler(self.parts.codec, self.row.stops)
        self._ends = self.parts.end_ids
        self._pieces: deque[Piece] = deque()
        self._timer: threading.Timer | None = None
        self._changed = threading.Condition()
        self._is_stopped = self._is_over = False

    # What the scheduler asks

    @property
    def is_prompted(self) -> bool:
        """Whether its prompt has been run."""
        return bool(self.ids)

    @property
    def is_wanted(self) -> bool:
        """Whether anybody waits for its next token."""
        ahead = self.is_streamed and len(self._pieces) >= LOOK_AHEAD
        return not ahead or self.future.cancelled()  # which is found out when it would go on

    @property
    def width(self) -> int:
        """How many rows of a pass it takes."""
        return len(self.row.seats)

    @property
    def kv_bytes(self) -> int:
        """What it may come to hold."""
        tokens = self.row.held + self.width * (len(self.row.prompt) + self.row.limit)
        return tokens * self.parts.base.kv_bytes_per_token

    # What the worker does

    def take(self, logits: Sequence[Tensor]) -> None:
        """Choose the next token by each seat's logits ``[vocab]``."""
        token = self._chosen(logits)
        self.ids.append(token)
        self.to_run = [token]
        text = self._added(token)
        self._is_stopped = self.asked is not None and self.asked()
        with self._changed:
            self._pieces.append(Piece(text, len(self.ids), len(self._text.text)))
            self._changed.notify_all()

    def _chosen(self, logits: Sequence[Tensor]) -> int:
        if self.row.committee is None:
            return self._choose(self.ids, logits[0])
        scores = self.row.committee.scores(logits)  # (k, vocab)
        token = self._choose(self.ids, scores.amax(0))
        self.sources.append(int(scores[:, token].argmax()))
        return token

    def _added(self, token: int) -> str:
        if token in self._ends:
            self._reason = "stop"
            return self._text.flush()
        piece = self._text.push(token)
        if self._text.stopped:
            self._reason = "stop"
        elif len(self.ids) >= self.row.limit:
            piece += self._text.flush()
            self._reason = "stop" if self._text.stopped else "length"
        return piece

    @property
    def is_done(self) -> bool:
        """Whether its end was reached, or nobody wants it any more."""
        ended = self._reason != "cancelled" or self._is_stopped
        return ended or self._is_over or self.future.cancelled() or self.unwanted()

    def end(self, error: BaseException | None = None) -> None:
        """Tell those who wait: it is over."""
        with self._changed:
            if self._is_over:
                return
            self._is_over = True
            self._changed.notify_all()
        if self._timer is not None:
            self._timer.cancel()
        if not self.future.set_running_or_notify_cancel():
            return
        if error is None:
            self.future.set_result(self.result())
        else:
            self.future.set_exception(error)

    def end_after(self, seconds: float, leave: Callable[[], None]) -> None:
        """Fail when so much time has passed from now on.

        Args:
            seconds: The time.
            leave: Called then: puts the answer out of the worker's way.
        """

        def fail() -> None:
            self.end(
                GenerationTimeout(
                    f"the answer had {len(self.ids)} tokens after {seconds:g} s, its timeout; give "
                    "it more time, or a smaller max_new_tokens"
                )
            )
            leave()

        with self._changed:
            if self._is_over:
                return
            self._timer = threading.Timer(seconds, fail)
            self._timer.daemon = True
            self._timer.start()

    def end_in_child(self) -> None:
        """Fail in a forked process: what computed this stayed in the parent."""
        self._changed = threading.Condition()  # which a thread of the parent may have held
        self.end(
            GemError("the process forked while this was generated; the child has to ask again")
        )

    # What those who wait see

    def next_piece(self) -> Piece | None:
        """The next token's text, awaited; None at the end.

        Raises:
            Exception: What went wrong.
        """
        with self._changed:
            self._changed.wait_for(lambda: self._pieces or self._is_over)
            waited = len(self._pieces) >= LOOK_AHEAD
            piece = self._pieces.popleft() if self._pieces else None
        if piece is not None:
            if waited and self.read_on is not None:
                self.read_on()
            return piece
        if not self.future.cancelled() and (error := self.future.exception()) is not None:
            raise error
        return None

    def result(self, upto: Piece | None = None) -> Generation:
        """Its state as it is now, or was when a piece was read; ``cancelled`` until its end."""
        count = len(self.ids) if upto is None else upto.tokens
        text = self._text.text if upto is None else self._text.text[: upto.characters]
        is_whole = count == len(self.ids)
        said = taken_apart(text, self.row.tools, must_call=self.row.must_call)
        held = self.row.held
        return Generation(
            text=said.text,
            finish_reason=self._reason if is_whole else "cancelled",
            usage=Usage(
                prompt_tokens=held + self.width * len(self.row.prompt),
                cached_tokens=held,
                completion_tokens=count,
                truncated_tokens=self.row.truncated,
            ),
            tool_calls=said.calls,
            invalid_tool_calls=said.broken if is_whole else (),
            misfit=self._misfit(said) if is_whole else None,
            ids=tuple(self.ids[:count]),
            prompt_ids=(*self.row.past, *self.row.prompt),
            sources=tuple(self.sources[:count]),
        )

    def _misfit(self, said: Said) -> str | None:
        """Why a finished answer does not fit its schema; None where it does or calls a tool."""
        if self.row.schema is None or said.found or self._reason == "cancelled":
            return None
        return misfit_of_text(said.text, self.row.schema)
