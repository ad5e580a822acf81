"""Runs what the scheduler chose: prompts into slots, steps of rows, units of other work."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any, Self

from gem_rag.compute.kv import KeyValues
from gem_rag.compute.parts import Parts
from gem_rag.engine.prefixes import Prefixes
from gem_rag.engine.rows import Answer, Row, Seat
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
        answers = [answer for answer in answers if answer not in over]
        if tokens is not None:  # as many as fit the bound, the first in any case
            kept: list[Answer] = []
            left = tokens
            for answer in answers:
                count = answer.width * len(answer.to_run)
                if not kept or count <= left:
                    kept.append(answer)
                    left -= count
            answers = kept
        return self._close(over) + self._run(answers, tokens)

    def step(self, answers: Sequence[Answer]) -> list[Answer]:
        """One more token for each, and more where they were guessed; those that are over."""
        over = [answer for answer in answers if answer.is_done]
        running = [answer for answer in answers if answer not in over]
        guessed = guesses(running, self._pace)
        started = time.perf_counter()
        over += self._run(running, None, guessed)
        width = 1 + max(map(len, guessed), default=0)
        tokens = width * sum(answer.width for answer in running)
        self._pace.note(tokens, time.perf_counter() - started)
        return over

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

    def _run(
        self,
        answers: Sequence[Answer],
        tokens: int | None,
        guessed: Sequence[Sequence[int]] = (),
    ) -> list[Answer]:
        """Run what is next of these answers, and what was guessed to follow; those that are over.

        Args:
            answers: Rows of one pass.
            tokens: Most of each prompt's to run; None is all.
            guessed: For each answer.
        """
        over = [answer for answer in answers if answer.is_done]
        running = [answer for answer in answers if answer not in over]
        if not running:
            return self._close(over)
        of = dict(zip(answers, guessed or [()] * len(answers), strict=True))
        new = [_next(answer, tokens) for answer in running]
        try:
            logits = self._logits(running, new, [of[answer] for answer in running])
        except BaseException as error:
            for answer in running:
                answer.end(error)
            return self._close([*over, *running])
        ready = []
        for answer, own in zip(running, new, strict=True):
            answer.to_run = answer.to_run[len(own) :]
            if not answer.to_run:
                ready.append(answer)
        chosen = self._chosen(ready, logits)
        for answer in ready:
            if not self._take(answer, chosen[answer], of[answer]):
                over.append(answer)
        return self._close(over)

    def _logits(
        self,
        answers: Sequence[Answer],
        new: Sequence[Sequence[int]],
        guessed: Sequence[Sequence[int]],
    ) -> dict[Answer, Logits]:
        """Run new tokens and guesses: what comes after the last of those, and after each guess."""
        slots, ids = [], []
        for answer, own, guess in zip(answers, new, guessed, strict=True):
            for slot in answer.slots:
                slot.wanted = 1 + len(guess)
                slots.append(slot)
                ids.append([*own, *guess])
        logits = self.slots.run(slots, ids)
        places = iter(logits.places)
        return {
            answer: Logits(logits.all, [next(places) for _ in answer.slots]) for answer in answers
        }

    def _chosen(
        self, answers: Sequence[Answer], logits: dict[Answer, Logits]
    ) -> dict[Answer, Iterable[int]]:
        """What comes next in each answer: of all whose tokens follow from logits alone at once."""
        chosen: dict[Answer, Iterable[int]] = {}
        plain = [answer for answer in answers if answer.is_plain]
        if plain:
            places = [logits[answer].places[0] for answer in plain]
            rows = [row for place in places for row in place]
            everything = logits[plain[0]].all
            whole = rows == list(range(len(everything)))
            settings, numbers = [], []
            for answer, place in zip(plain, places, strict=True):
                settings += [answer.row.sampling] * len(place)
                begin = len(answer.ids)
                numbers += answer.sampler.numbers(range(begin, begin + len(place)))
            found = iter(choose(everything if whole else everything[rows], settings, numbers))
            chosen = {a: [next(found) for _ in place] for a, place in zip(plain, places, strict=True)}
        others = (answer for answer in answers if not answer.is_plain)
        return chosen | {answer: answer.choices(logits[answer]) for answer in others}

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
        count = min(slot.length, answer.row.shared)
        whole = [*answer.row.prompt, *answer.ids][:count]
        held = slot.arena.row(slot)
        self.prefixes.keep(whole, tuple((k[:, :count], v[:, :count]) for k, v in held))


def _next(answer: Answer, tokens: int | None) -> list[int]:
    """What of an answer's tokens is run now, in each of its rows."""
    return answer.to_run[: None if tokens is None else max(1, tokens // answer.width)]
