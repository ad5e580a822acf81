"""Requests under way: rows that step together, and what each has come to."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from gem_rag.compute.parts import Parts
from gem_rag.compute.reading import Reading
from gem_rag.compute.step import Steps
from gem_rag.engine.calls import before_calls, parse_calls
from gem_rag.engine.results import FinishReason, Generation, Usage
from gem_rag.engine.sampling import Sampler, Sampling
from gem_rag.engine.stops import TextAssembler


@dataclass(frozen=True)
class Row:
    """One request, ready to be run.

    Attributes:
        prompt: Token ids, without those of the reading.
        after: The reading it goes on from.
        sampling: How its tokens are chosen.
        stops: Strings that end it.
        limit: Most tokens to generate.
        truncated: Tokens cut from its prompt.
        tools: Names of the tools it may call.
    """

    prompt: list[int]
    after: Reading | None
    sampling: Sampling
    stops: Sequence[str]
    limit: int
    truncated: int
    tools: Sequence[str]


class Progress:
    """What a row has generated so far.

    Args:
        row: The row.
        parts: The model's parts: they decode, and know the ids that end an answer.
    """

    def __init__(self, row: Row, parts: Parts) -> None:
        self.row = row
        self.ids: list[int] = []
        self.reason: FinishReason = "cancelled"
        self.choose = Sampler(row.sampling)
        self._text = TextAssembler(parts.codec, row.stops)
        self._ends = parts.end_ids

    def take(self, token: int) -> str:
        """Add a token; what can be shown now."""
        self.ids.append(token)
        if token in self._ends:
            self.reason = "stop"
            return self._text.flush()
        piece = self._text.push(token)
        if self._text.stopped:
            self.reason = "stop"
        elif len(self.ids) >= self.row.limit:
            piece += self._text.flush()
            self.reason = "stop" if self._text.stopped else "length"
        return piece

    @property
    def is_done(self) -> bool:
        """Whether its end was reached."""
        return self.reason != "cancelled"

    def result(self) -> Generation:
        """Its state as it is now; ``cancelled`` until the end is reached."""
        row, text = self.row, self._text.text
        past = [] if row.after is None else row.after.ids.tolist()
        calls = parse_calls(text, row.tools)
        return Generation(
            text=before_calls(text) if calls else text,
            finish_reason=self.reason,
            usage=Usage(
                prompt_tokens=len(past) + len(row.prompt),
                cached_tokens=len(past),
                completion_tokens=len(self.ids),
                truncated_tokens=row.truncated,
            ),
            tool_calls=calls,
            ids=tuple(self.ids),
            prompt_ids=(*past, *row.prompt),
        )


class Rows:
    """Rows that step together until each has reached its end.

    Args:
        parts: The model's parts.
        rows: Either all go on from a reading or none does.
    """

    def __init__(self, parts: Parts, rows: Sequence[Row]) -> None:
        self._all = [Progress(row, parts) for row in rows]
        self._running = list(range(len(rows)))
        self._last: list[int] = []
        after = [row.after for row in rows if row.after is not None]
        prompts, room = [row.prompt for row in rows], max(row.limit for row in rows)
        self._steps = Steps(parts, prompts, after or None, room)

    def pieces(self, cancelled: Callable[[int], bool] | None = None) -> Iterator[tuple[int, str]]:
        """Run to the end, handing out ``(row, text piece)`` as they come."""
        while self._running:
            logits = self._steps.next(self._last) if self._last else self._steps.prefill()
            chosen = [
                self._all[row].choose(self._all[row].ids, own)
                for row, own in zip(self._running, logits, strict=True)
            ]
            stepped, self._last = list(self._running), chosen
            for row, token in zip(stepped, chosen, strict=True):
                progress = self._all[row]
                piece = progress.take(token)
                if progress.is_done or (cancelled is not None and cancelled(row)):
                    self._drop(row)
                if piece:
                    yield row, piece

    def _drop(self, row: int) -> None:
        """Take a finished row out."""
        at = self._running.index(row)
        keep = [i for i in range(len(self._running)) if i != at]
        self._running, self._last = [self._running[i] for i in keep], [self._last[i] for i in keep]
        if keep:
            self._steps.keep(keep)

    def result(self, row: int) -> Generation:
        """One row's state as it is now."""
        return self._all[row].result()
