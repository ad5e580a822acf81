"""One process or several (``accelerate launch``, ``torchrun``): who does and tells what."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from gem_rag.errors import GemError

T = TypeVar("T")
LONGEST_WAIT = timedelta(days=1)  # the others wait while the first one reads and prepares


class Processes:
    """The processes of a run. Each takes its slice of every batch.

    Raises:
        GemError: accelerate was told to use DeepSpeed.
    """

    def __init__(self) -> None:
        from accelerate import PartialState

        if _is_set("ACCELERATE_USE_DEEPSPEED"):
            raise GemError(
                "accelerate is set to use DeepSpeed, which this trainer does not; all there is to "
                "shard is the frozen base, so run `accelerate config` for FSDP or plain multi-GPU"
            )
        # On a CPU, accelerate takes processes for several only if told that it is one.
        on_cpu = _is_set("ACCELERATE_USE_CPU") or not torch.accelerator.is_available()
        self._state: Any = PartialState(cpu=on_cpu, timeout=LONGEST_WAIT)
        self.count = int(self._state.num_processes)
        self.rank = int(self._state.process_index)
        #: Whether the base is to be shared out (FSDP): then all have to run it at the same times.
        self.shards = _is_set("ACCELERATE_USE_FSDP") and self.count > 1

    @property
    def is_main(self) -> bool:
        """Whether this process writes."""
        return self.rank == 0

    @property
    def measures(self) -> bool:
        """Whether this process measures: the first, or all where none has the whole base."""
        return self.is_main or self.shards

    @property
    def device(self) -> str:
        """Where this process's model goes."""
        return str(self._state.device)

    def slice_of(self, batch: Sequence[T], rank: int | None = None) -> Sequence[T]:
        """The part of a global batch that this process (or another) takes."""
        rank = self.rank if rank is None else rank
        size = len(batch) // self.count
        return batch[rank * size : (rank + 1) * size]

    def gather(self, mine: Tensor, sizes: Sequence[int]) -> list[Tensor]:
        """Everyone's rows, ``[sizes[r], d]`` each; gradients flow to this process's own.

        Every process computes the same loss over all rows and differentiates its own ones, so the
        sum over processes is the gradient of the whole.
        """
        if self.count == 1:
            return [mine]
        from accelerate.utils import gather

        padded = mine.new_zeros(max(sizes), mine.shape[1])
        padded[: len(mine)] = mine.detach()
        blocks = gather(padded).split(max(sizes))
        rows = [block[:size] for block, size in zip(blocks, sizes, strict=True)]
        rows[self.rank] = mine
        return rows

    def sum(self, value: Tensor) -> Tensor:
        """A tensor's sum over the processes."""
        if self.count == 1:
            return value
        from accelerate.utils import reduce

        out: Tensor = reduce(value, "sum")
        return out

    def as_many(self, batches: list[T], spare: T) -> list[T]:
        """Where the base is shared out, as many batches as the process with most of them has."""
        if not self.shards:
            return batches
        from accelerate.utils import gather

        counts = gather(torch.tensor([len(batches)], device=self._state.device))
        return batches + [spare] * (int(counts.max()) - len(batches))

    def sum_gradients(self, parameters: Iterable[nn.Parameter]) -> None:
        """Add the processes' gradients; a parameter without one anywhere stays without."""
        if self.count == 1:
            return
        chosen = list(parameters)
        used = self.sum(
            torch.tensor([float(p.grad is not None) for p in chosen], device=chosen[0].device)
        )
        chosen = [p for p, n in zip(chosen, used.tolist(), strict=True) if n]
        if not chosen:
            return
        grads = [torch.zeros_like(p) if p.grad is None else p.grad for p in chosen]
        total = self.sum(torch.cat([g.flatten() for g in grads]))
        for p, part in zip(chosen, total.split([p.numel() for p in chosen]), strict=True):
            p.grad = part.view_as(p).to(p.dtype)

    def from_main(self, value: T) -> T:
        """The first process's object, in every process."""
        if self.count == 1:
            return value
        from accelerate.utils import broadcast_object_list

        box = [value]
        broadcast_object_list(box)
        return box[0]

    @contextmanager
    def main_first(self) -> Iterator[None]:
        """The first process goes through the block alone; then the others do."""
        with self._state.main_process_first():
            yield

    def wait(self) -> None:
        """Until all processes are here."""
        self._state.wait_for_everyone()


def _is_set(name: str) -> bool:
    return os.environ.get(name, "").lower() in ("1", "true")
