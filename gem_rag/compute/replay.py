"""Steps of decoding as graphs: on a card hundreds of launches are recorded once, replayed as one.

Between two steps of the same rows only numbers change: their tokens, and how much each row holds.
Here these lie at one place on the device, keys and values are written by them, and attention runs
over all columns that there is room for, masked; so nothing of a step depends on the host.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache, partial
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from gem_rag.compute import probe
from gem_rag.compute.adapter import Acting
from gem_rag.compute.attention import Role, Tokens
from gem_rag.compute.kv import Cache
from gem_rag.compute.parts import Parts

log = logging.getLogger(__name__)
AFTER = 4  # steps that the same rows take before theirs is recorded, which takes as long as three
MOST = 4  # recorded steps of an arena: rows come and go
# What gives Python a number, or as many elements as the numbers say.
WAITS = {
    f"aten::{name}" for name in ("item", "_local_scalar_dense", "is_nonzero", "nonzero", "equal")
}

Pair = tuple[Tensor, Tensor]
# The memory that is written to, where the rows begin in it, how many they are, what acts in them.
Key = tuple[int, int, int, tuple[tuple[int, ...], ...]]


@dataclass(frozen=True)
class Rows:
    """One token more of some rows.

    Attributes:
        ids: Each row's next token.
        lengths: How much each row holds.
        held: Each block's keys and values of these rows, ``[B, H, columns, D]``, with room.
        acts: Adapters that act in every row.
    """

    ids: Sequence[int]
    lengths: Sequence[int]
    held: Sequence[Pair]
    acts: Sequence[Acting]

    @property
    def key(self) -> Key:
        """Other than another's where a recorded step would not be this one."""
        keys = self.held[0][0]
        acts = tuple(one.adapter.state() for one in self.acts)
        return keys.untyped_storage().data_ptr(), keys.data_ptr(), len(keys), acts


class FixedLayer:
    """One block's keys and values, ``[B, H, columns, D]``, written where the device says.

    Args:
        keys: What all rows hold, with room for more.
        values: Likewise.
        places: int64 ``[B]``: the column that each row's next token goes to.
    """

    def __init__(self, keys: Tensor, values: Tensor, places: Tensor) -> None:
        self._held = keys, values
        self._places = places
        self._rows = torch.arange(len(places), device=places.device)

    @property
    def length(self) -> int:
        """How many columns there are."""
        return self._held[0].shape[2]

    def update(self, keys: Tensor, values: Tensor) -> Pair:
        """Put ``[B, H, 1, D]`` at each row's place; all columns."""
        for held, new in zip(self._held, (keys, values), strict=True):
            held[self._rows, :, self._places] = new[:, :, 0]
        return self._held


class Step:
    """A step that can be recorded: it takes its numbers from where they lie on the device.

    Args:
        parts: The model's parts, with a forward of our own.
        rows: Their keys and values are written to.
    """

    def __init__(self, parts: Parts, rows: Rows) -> None:
        keys = rows.held[0][0]
        self._parts, self._acts = parts, rows.acts
        self._numbers = torch.zeros(2, len(keys), dtype=torch.int64, device=keys.device)
        self._columns = torch.arange(keys.shape[2], device=keys.device).expand(len(keys), -1)
        self._cache = Cache([FixedLayer(k, v, self._numbers[1]) for k, v in rows.held])

    def aim(self, ids: Sequence[int], lengths: Sequence[int]) -> None:
        """Say which token each row goes on with, and how much it holds."""
        self._numbers.copy_(torch.tensor([ids, lengths]))

    def run(self) -> Tensor:
        """Logits of what comes next, ``[B, vocab]``."""
        ids, places = self._numbers[0, :, None], self._numbers[1, :, None]
        queries = Tokens(places, torch.full_like(places, Role.PREFIX))
        there = torch.where(self._columns <= places, Role.PREFIX, Role.PADDING)
        mask = self._parts.base.masks(queries, Tokens(self._columns, there))
        return self._parts.logits(self._parts.run(ids, places, mask, self._cache, self._acts)[:, 0])


@dataclass(frozen=True)
class Recorded:
    """A step, how it is done again, and where its logits come to lie."""

    step: Step
    again: Callable[[], None]
    logits: Tensor


class Replays:
    """The recorded steps of rows that stand side by side: what is replayed, and when it pays.

    A recorded step is taken only if it says what the step itself said, to rounding.
    """

    def __init__(self) -> None:
        self._recorded: dict[Key, Recorded] = {}
        self._last: Key | None = None
        self._times = 0

    def run(self, parts: Parts, rows: Rows, by_itself: Callable[[], Tensor]) -> Tensor:
        """Logits ``[B, vocab]`` after each row's next token; its keys and values are written.

        Args:
            parts: The model's parts, with a forward of our own.
            rows: What is run.
            by_itself: The same step without a graph.
        """
        key = rows.key
        self._times = self._times + 1 if key == self._last else 1
        self._last = key
        if any(other[0] != key[0] for other in self._recorded):
            self._recorded.clear()  # the rows have moved to larger memory
        found = self._recorded.pop(key, None)
        if found is not None:
            self._recorded[key] = found  # the last that was used
            found.step.aim(rows.ids, rows.lengths)
            found.again()
            return found.logits.clone()  # the next step writes over it
        logits = by_itself()
        if self._times == AFTER:
            self._record(parts, rows, logits)
        return logits

    def _record(self, parts: Parts, rows: Rows, expected: Tensor) -> None:
        """Record a step that has just been run. Where that fails no other of this model is tried:
        positions that are stretched by the longest text so far, say, wait for the host.
        """
        try:
            step = Step(parts, rows)
            step.aim(rows.ids, rows.lengths)
            again, logits = recorded(step.run, expected.device)
            again()
            off = probe.deviation(logits, expected)
            if not off <= probe.BOUNDS[expected.dtype]:
                raise RuntimeError(f"one that was deviates by {off:.1e}")
        except torch.OutOfMemoryError as error:
            log.info("a step of decoding was not recorded: %s", error)
            return
        except RuntimeError as error:
            parts.replays = False
            log.info("steps of decoding are not replayed: %s", error)
            return
        while len(self._recorded) >= MOST:
            self._recorded.pop(next(iter(self._recorded)))
        self._recorded[rows.key] = Recorded(step, again, logits)


class WithoutHost(TorchDispatchMode):
    """Inside, what a recording could not hold raises before one is begun."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func.name() in WAITS:
            raise RuntimeError(f"{func.name()} waits for the device")
        return func(*args, **(kwargs or {}))


class Recorder:
    """A device's stream and memory for recordings, kept as long as the process.

    Memory that one recording no longer needs serves the next: they are replayed one after another,
    and what comes of one is copied before.

    Args:
        device: A CUDA device.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._aside = torch.cuda.Stream(device)
        self._pool = torch.cuda.graph_pool_handle()
        # The pool lives as long as a recording in it does.
        self._first = self._record(partial(torch.zeros, 1, device=device))

    def __call__(self, run: Callable[[], Tensor]) -> tuple[Callable[[], None], Tensor]:
        """Record a call: what does it again, and the tensor where its result then lies.

        Other threads may use the card meanwhile. Not by `torch.cuda.graph`, which collects garbage
        and empties torch's cache of memory first.
        """
        return self._record(run)

    def _record(self, run: Callable[[], Tensor]) -> tuple[Callable[[], None], Tensor]:
        graph = torch.cuda.CUDAGraph()
        now = torch.cuda.current_stream(self._device)
        self._aside.wait_stream(now)
        try:
            with torch.cuda.stream(self._aside):
                with WithoutHost():  # type: ignore[no-untyped-call]
                    run()  # what libraries do once on a stream is done now
                graph.capture_begin(self._pool, capture_error_mode="thread_local")
                try:
                    out = run()
                finally:
                    graph.capture_end()
        finally:
            now.wait_stream(self._aside)
        return graph.replay, out


_recorder = cache(Recorder)


def recorded(run: Callable[[], Tensor], device: torch.device) -> tuple[Callable[[], None], Tensor]:
    """A call as a CUDA graph: see `Recorder`."""
    return _recorder(device)(run)
