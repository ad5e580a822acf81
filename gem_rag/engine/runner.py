"""Runs what the scheduler chose: prompts into slots, steps of rows, units of other work."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Self

from gem_rag.compute.kv import KeyValues
from gem_rag.compute.parts import Parts
from gem_rag.engine.answers import Answer
from gem_rag.engine.prefixes import Prefixes
from gem_rag.engine.rows import Row, Seat
from gem_rag.engine.sampling import choose
from gem_rag.engine.slots import Logits, Slot, Slots
from gem_rag.engine.speculation import Pace, guesses
from gem_rag.errors import GemError

ROOM = 128  # tokens a row is given room for at first, however long it may become


@dataclass(eq=False)
class Task:
    """Other work than answers: a batch to read, embed or rank."""

    run: Callable[[], Any]
    future: Future[Any] = field(default_factory=Future)


@dataclass(frozen=True)
class Written:
    """What answers have come to, in tokens: those written, guessed, and guessed right."""

    tokens: int = 0
    proposed: int = 0
    accepted: int = 0

    @classmethod
    def of(cls, answers: Sequence[Answer]) -> Self:
        """Of all of these together."""
        tokens = sum(len(answer.ids) for answer in answers)
        proposed = sum(answer.proposed for answer in answers)
        return cls(tokens, proposed, sum(answer.accepted for answer in answers))

    def more(self, before: Written, after: Written) -> Written:
        """With what was added between two states."""
        return Written(
            self.tokens + after.tokens - before.tokens,
            self.proposed + after.proposed - before.proposed,
            self.accepted + after.accepted - before.accepted,
        )


class Turn(NamedTuple):
    """What of an answer is run now: its next tokens, and what is guessed to follow."""

    answer: Answer
    new: list[int]
    guess: Sequence[int] = ()


class Runner:
    """Computes for rows and tasks. One thread at a time.

    Args:
        parts: The model's parts.
        prefixes: Beginnings of prompts that need not be run again.
    """

    def __init__(self, parts: Parts, prefixes: Prefixes) -> None:
        self.prefixes = prefixes
        self._parts = parts
        self._pace = Pace()
        self.start_anew()

    def start_anew(self) -> None:
        """With no row in any slot."""
        self.slots = Slots(self._parts)

    def require_usable_in_child(self) -> None:
        """Raise `GemError` in a forked child for weights that stayed with the parent."""
        device = self._parts.base.device.type
        if device != "cpu":
            raise GemError(
                f"the model is on {device}, which a forked process cannot use; start processes by "
                "'spawn', or load the model after the fork"
            )

    def task(self, task: Task) -> None:
        """Run a task, unless it was cancelled."""
        if not task.future.set_running_or_notify_cancel():
            return
        try:
            result = task.run()
        except BaseException as error:
            task.future.set_exception(error)
        else:
            task.future.set_result(result)

    def prompt(self, answers: Sequence[Answer], tokens: int | None) -> list[Answer]:
        """Run the next part of prompts; those that are over."""
        fresh = [answer for answer in answers if not answer.slots]
        over = [answer for answer in fresh if not self._opened(answer)]
        over += [answer for answer in answers if answer.slots and answer.is_done]
        left = tokens
        turns: list[Turn] = []
        for answer in (answer for answer in answers if answer not in over):
            if left is None or tokens is None:
                turns.append(Turn(answer, answer.to_run))
                continue
            width = len(answer.slots)
            count = width * len(answer.to_run)
            if not turns or count <= left:  # as many as fit the bound, the first in any case
                turns.append(Turn(answer, answer.to_run[: max(1, tokens // width)]))
                left -= count
        return self._close(over) + self._run(turns)

    def step(self, answers: Sequence[Answer]) -> list[Answer]:
        """One more token for each, and more where they were guessed; those that are over."""
        over = [answer for answer in answers if answer.is_done]
        running = [answer for answer in answers if answer not in over]
        if not running:
            return self._close(over)
        started = time.perf_counter()
        guessed = guesses(running, self._pace)
        turns = [Turn(a, a.to_run, guess) for a, guess in zip(running, guessed, strict=True)]
        ended = self._run(turns)
        width = max(1 + len(turn.guess) for turn in turns)
        rows = sum(answer.width for answer in running)
        self._pace.note(rows, width, time.perf_counter() - started)
        return self._close(over) + ended

    def _opened(self, answer: Answer) -> bool:
        """Give an answer its place; False where it is over."""
        try:
            return not answer.is_done and self._open(answer)
        except BaseException as error:  # no memory, say: the others go on
            answer.end(error)
            return False

    def _open(self, answer: Answer) -> bool:
        """Give an answer its places, with all that was read before."""
        row = answer.row
        for seat in row.seats:
            known = self._known(row, seat)
            held = 0 if known is None else known[0][0].shape[1]
            if seat.after is None:
                answer.to_run = row.prompt[held:]
            room = len(answer.to_run) + min(ROOM, row.limit)
            answer.slots.append(self.slots.open(known, held, room, seat.skilled))
        return True

    def _known(self, row: Row, seat: Seat) -> KeyValues | None:
        if seat.after is not None:
            return seat.after.key_values
        # Its last token is always run.
        return self.prefixes.find(row.prompt[: row.shared + 1]) if self.prefixes.max_bytes else None

    def _run(self, turns: Sequence[Turn]) -> list[Answer]:
        """Run what is next of answers, in one pass; those that are over."""
        if not turns:
            return []
        try:
            logits = self._logits(turns)
        except BaseException as error:
            for turn in turns:
                turn.answer.end(error)
            return self._close([turn.answer for turn in turns])
        for answer, new, _ in turns:
            answer.to_run = answer.to_run[len(new) :]
        ready = [turn for turn in turns if not turn.answer.to_run]
        searching = [turn.answer for turn in ready if turn.answer.beams is not None]
        over = [answer for answer in searching if not self._search(answer, logits[answer])]
        writing = [turn for turn in ready if turn.answer.beams is None]
        chosen = _chosen([turn.answer for turn in writing], logits)
        over += [
            answer for answer, _, guess in writing if not self._take(answer, chosen[answer], guess)
        ]
        return self._close(over)

    def _logits(self, turns: Sequence[Turn]) -> dict[Answer, Logits]:
        """What comes after the last of each answer's new tokens, and after each guessed one."""
        slots, ids = [], []
        for answer, new, guess in turns:
            searches = answer.beams is not None and answer.is_prompted
            for place, slot in enumerate(answer.slots):
                slot.wanted = 1 + len(guess)
                slots.append(slot)
                ids.append([new[place]] if searches else [*new, *guess])
        logits = self.slots.run(slots, ids)
        places = iter(logits.places)
        return {
            turn.answer: Logits(logits.all, [next(places) for _ in turn.answer.slots])
            for turn in turns
        }

    def _search(self, answer: Answer, logits: Logits) -> bool:
        """Have a search go on, its rows copied where beginnings part; whether it does."""
        try:
            parents = answer.search(logits)
            if answer.is_done:
                return False
            before = answer.slots
            answer.slots = [before[parent] for parent in dict.fromkeys(parents)]
            for slot in before:
                if slot not in answer.slots:
                    self.slots.close(slot)
            placed: list[Slot] = []
            for parent in parents:
                slot = before[parent]
                if slot in placed:
                    slot = self.slots.fork(slot)
                    answer.slots.append(slot)
                placed.append(slot)
            answer.slots = placed
            return True
        except BaseException as error:  # no memory, say: the others go on
            answer.end(error)
            return False

    def _take(self, answer: Answer, choices: Iterable[int], guess: Sequence[int]) -> bool:
        """Have an answer go on with what was chosen; whether it does."""
        try:
            answer.take(choices, guess)
            return not answer.is_done
        except BaseException as error:  # a hook's: its own answer fails, the others go on
            answer.end(error)
            return False

    def _close(self, answers: Sequence[Answer]) -> list[Answer]:
        for answer in answers:
            while answer.slots:
                slot = answer.slots.pop()
                if self.prefixes.max_bytes and not answer.row.follows_reading:
                    self._keep(answer, slot)
                self.slots.close(slot)
            answer.end()
        return list(answers)

    def _keep(self, answer: Answer, slot: Slot) -> None:
        """Keep what of an answer's tokens another prompt may begin with."""
        # Which of a search's rows holds what was chosen is not known any more.
        written = answer.ids if answer.beams is None else []
        whole = [*answer.row.prompt, *written][: min(slot.length, answer.row.shared)]
        count = len(whole)
        held = slot.arena.row(slot)
        self.prefixes.keep(whole, tuple((k[:, :count], v[:, :count]) for k, v in held))


def _chosen(answers: Sequence[Answer], logits: dict[Answer, Logits]) -> dict[Answer, Iterable[int]]:
    """What comes next in each answer; of all whose tokens follow from logits alone, at once."""
    chosen: dict[Answer, Iterable[int]] = {
        answer: answer.choices(logits[answer]) for answer in answers if not answer.is_plain
    }
    plain = {answer: logits[answer].places[0] for answer in answers if answer.is_plain}
    if not plain:
        return chosen
    settings = [answer.row.sampling for answer, places in plain.items() for _ in places]
    numbers = [number for answer, places in plain.items() for number in answer.numbers(places)]
    rows = [row for places in plain.values() for row in places]
    tokens = choose(logits[answers[0]].at(rows), settings, numbers)
    found = iter(tokens)
    return chosen | {a: [next(found) for _ in places] for a, places in plain.items()}
