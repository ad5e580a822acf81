"""Answers under way: what each row has come to, and who waits for it."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator, Sequence, Sized
from concurrent.futures import Future
from dataclasses import dataclass, field
from functools import cached_property
from typing import NamedTuple

from gem_rag.compute.parts import Parts
from gem_rag.engine.beams import Beams
from gem_rag.engine.calls import Said, taken_apart
from gem_rag.engine.fit import misfit_of_text
from gem_rag.engine.results import Candidate, FinishReason, Generation, Usage
from gem_rag.engine.rows import Row
from gem_rag.engine.sampling import Sampler
from gem_rag.engine.slots import Logits, Slot
from gem_rag.engine.speculation import Guesser
from gem_rag.engine.stops import TextAssembler
from gem_rag.errors import GemError, GenerationTimeout

# Tokens that a stream may be ahead of whoever reads it and be run further; guessed ones beyond.
LOOK_AHEAD, MOST_AHEAD = 4, 8


class Piece(NamedTuple):
    """What a token added: the text that can be shown, and how many tokens there were then."""

    text: str
    tokens: int


class Whole(Future[Generation]):
    """An answer's end. Its text is put together by whoever asks for it, not by what computes."""

    def __init__(self) -> None:
        super().__init__()
        self._asking = threading.Lock()
        self._make: Callable[[], Generation] | None = None
        self._made: Generation | None = None

    def set_maker(self, make: Callable[[], Generation] | None) -> None:
        """It is over, and this makes the result; None where nobody will ask for it."""
        self._make = make
        self.set_result(None)  # type: ignore[arg-type]

    def result(self, timeout: float | None = None) -> Generation:
        """As any future's."""
        super().result(timeout)
        with self._asking:
            if self._make is not None:  # which knows this future: let go of it
                self._made, self._make = self._make(), None
        assert self._made is not None
        return self._made


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
        slots: Where its keys and values are while it is run: seat by seat, or of each beginning
            that a search keeps.
        to_run: Tokens that are not in the slots yet: the same for all seats; where it searches, one
            for each of `beams`.
        beams: What its search has come to; None where it takes one token after another.
        ids: Generated.
        sources: Of each, the reading of a committee that it came from.
        proposed: Tokens that were guessed.
        accepted: Those that were right.
    """

    row: Row
    parts: Parts
    is_streamed: bool = False
    asked: Callable[[], bool] | None = None
    unwanted: Callable[[], bool] = lambda: False
    read_on: Callable[[], None] | None = None
    future: Whole = field(default_factory=Whole)
    slots: list[Slot] = field(default_factory=list)
    to_run: list[int] = field(default_factory=list)
    ids: list[int] = field(default_factory=list)
    sources: list[int] = field(default_factory=list)
    proposed: int = 0
    accepted: int = 0

    def __post_init__(self) -> None:
        self.to_run = list(self.row.prompt)
        self.beams: Beams | None = None
        if self.row.beams > 1:
            self.beams = Beams(self.row.beams, self.parts.end_ids, self.row.limit)
        self._sampler = Sampler(self.row.sampling)
        self._reason: FinishReason = "cancelled"
        self._text = TextAssembler(self.parts.codec, self.row.stops)
        self._shown: list[int] = []  # characters of the text after each token, as far as they are
        self._ends = self.parts.end_ids
        self._read = 0  # tokens whose pieces were read
        self._timer: threading.Timer | None = None
        self._changed = threading.Condition()
        self._is_stopped = self._is_over = False

    # What the scheduler asks

    @property
    def is_prompted(self) -> bool:
        """Whether its prompt has been run."""
        return bool(self.ids or (self.beams and self.beams.kept[0].ids))

    @property
    def is_wanted(self) -> bool:
        """Whether anybody waits for its next token."""
        ahead = self.is_streamed and self._ahead >= LOOK_AHEAD
        return not ahead or self.future.cancelled()  # which is found out when it would go on

    @property
    def _ahead(self) -> int:
        """Tokens that nobody has read yet."""
        return len(self.ids) - self._read

    @property
    def width(self) -> int:
        """How many rows of a pass it takes."""
        return self.row.width

    @property
    def kv_bytes(self) -> int:
        """What it may come to hold."""
        own = len(self.row.prompt) + self.row.limit
        tokens = self.row.beams * self.row.held + self.width * own
        return tokens * self.parts.base.kv_bytes_per_token

    # What is asked where it may guess: see `speculation.Guessing`

    @property
    def speculates(self) -> bool | None:
        """Whether it guesses; None: where that is faster."""
        return self.row.speculates

    @property
    def most_guessed(self) -> int:
        """Tokens it could take beside the next one."""
        left = self.row.limit - len(self.ids) - 1
        return min(left, MOST_AHEAD - 1 - self._ahead) if self.is_streamed else left

    @property
    def guesser(self) -> Guesser:
        """Knows all that was read and written until now."""
        guesser, before = self._guesser
        guesser.extend(self.ids[len(guesser) - before :])
        return guesser

    @cached_property
    def _guesser(self) -> tuple[Guesser, int]:
        read = self.row.read
        return Guesser(read), len(read)

    # What the worker does

    @property
    def is_plain(self) -> bool:
        """Whether its tokens follow from logits alone, so that those of many are chosen at once."""
        free = self.row.committee is None and self.row.sampling.logits_hook is None
        return free and self.beams is None

    def numbers(self, places: Sized) -> list[float]:
        """The random numbers of its next tokens, as many as there are places."""
        begin = len(self.ids)
        return self._sampler.numbers(range(begin, begin + len(places)))

    def choices(self, logits: Logits) -> Iterator[int]:
        """One token after another, each in the light of those that were taken before it.

        Args:
            logits: Its seats'.
        """
        for at in zip(*logits.places, strict=True):
            if self.row.committee is None:
                yield self._sampler(self.ids, logits.all[at[0]])
                continue
            scores = self.row.committee.scores([logits.all[one] for one in at])  # (k, vocab)
            token = self._sampler(self.ids, scores.amax(0))
            self.sources.append(int(scores[:, token].argmax()))
            yield token

    def search(self, logits: Logits) -> list[int]:
        """Have its search go on by one token; from which of its slots each beginning goes on.

        Args:
            logits: What comes next in each of its slots.
        """
        assert self.beams is not None
        parents = self.beams.advance(logits.at([at[-1] for at in logits.places]))
        self.to_run = [one.ids[-1] for one in self.beams.kept]
        if self.beams.is_over:
            for token in self.beams.whole[0].ids:
                self._append(token)
            with self._changed:
                self._changed.notify_all()
        else:
            self._is_stopped = self.asked is not None and self.asked()
        return parents

    def take(self, choices: Iterable[int], guess: Sequence[int] = ()) -> None:
        """Append the next token, and those after it as long as what was guessed is right.

        Args:
            choices: What comes next at its last place, and after each guessed token.
            guess: The guessed tokens; what was run of them in vain is taken back.
        """
        before = len(self.ids)
        try:
            for token, guessed in zip(choices, [*guess, None], strict=False):
                self._append(token)
                if token != guessed or self.is_done:
                    break
        finally:
            right = max(0, len(self.ids) - before - 1)
            for slot in self.slots:
                slot.drop(len(guess) - right)
            if guess:
                self.proposed += len(guess)
                self.accepted += right
                self.guesser.judge(right, wrong=int(right < len(guess) and not self.is_done))
            self.to_run = self.ids[-1:]
            with self._changed:
                self._changed.notify_all()

    def _append(self, token: int) -> None:
        with self._changed:
            self.ids.append(token)
            if self.row.stops:
                self._assemble(len(self.ids))  # which may find one
            if self._text.stopped or token in self._ends:
                self._reason = "stop"
            elif len(self.ids) >= self.row.limit:
                self._reason = "length"
        self._is_stopped = self.asked is not None and self.asked()

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
            self.future.set_maker(None if self.is_streamed else self.result)
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
            self._changed.wait_for(lambda: self._ahead or self._is_over)
            ahead = self._ahead
            if ahead:
                before = self._characters(self._read)
                self._read += 1
                after = self._characters(self._read)
                text = self._text.text[before:after]
        if ahead:
            if ahead == LOOK_AHEAD and self.read_on is not None:
                self.read_on()
            return Piece(text, self._read)
        if not self.future.cancelled() and (error := self.future.exception()) is not None:
            raise error
        return None

    def result(self, upto: Piece | None = None) -> Generation:
        """Its state as it is now, or was when a piece was read; ``cancelled`` until its end."""
        with self._changed:
            count = len(self.ids) if upto is None else upto.tokens
            characters = self._characters(count)
            text = self._text.text[:characters]
            is_whole = count == len(self.ids)
        said = taken_apart(text, self.row.tools, must_call=self.row.must_call)
        held = self.row.held
        return Generation(
            text=said.text,
            finish_reason=self._reason if is_whole else "cancelled",
            usage=Usage(
                prompt_tokens=held + len(self.row.seats) * len(self.row.prompt),
                cached_tokens=held,
                completion_tokens=count,
                truncated_tokens=self.row.truncated,
                proposed_tokens=self.proposed,
                accepted_tokens=self.accepted,
            ),
            tool_calls=said.calls,
            invalid_tool_calls=said.broken if is_whole else (),
            misfit=self._misfit(said) if is_whole else None,
            ids=tuple(self.ids[:count]),
            prompt_ids=(*self.row.past, *self.row.prompt),
            sources=tuple(self.sources[:count]),
            candidates=self._candidates if is_whole else (),
        )

    @property
    def _candidates(self) -> tuple[Candidate, ...]:
        """What a search came to that is over."""
        over = [] if self.beams is None or not self.beams.is_over else self.beams.whole
        return tuple(
            Candidate(
                self.parts.codec.decode([token for token in one.ids if token not in self._ends]),
                one.ids,
                one.log_likelihood,
                one.score,
                "stop" if one.ids[-1] in self._ends else "length",
            )
            for one in over
        )

    def _characters(self, count: int) -> int:
        """How much text so many tokens are, put together as far as that was not done."""
        self._assemble(count)
        return self._shown[count - 1] if count else 0

    def _assemble(self, count: int) -> None:
        for token in self.ids[len(self._shown) : count]:
            if token not in self._ends:
                self._text.push(token)
            is_last = token in self._ends or len(self._shown) + 1 >= self.row.limit
            if is_last and not self._text.stopped:
                self._text.flush()
            self._shown.append(len(self._text.text))

    def _misfit(self, said: Said) -> str | None:
        """Why a finished answer does not fit its schema; None where it does or calls a tool."""
        if self.row.schema is None or said.found or self._reason == "cancelled":
            return None
        return misfit_of_text(said.text, self.row.schema)
