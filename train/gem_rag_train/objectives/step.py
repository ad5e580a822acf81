"""What an objective needs of a run's processes for a step, and what it tells of one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, TypeVar

from torch import Tensor

T = TypeVar("T")


class ProcessGroup(Protocol):
    """The processes of a run, each of which takes its slice of every batch.

    Attributes:
        count: How many.
        rank: Which this is.
    """

    count: int
    rank: int

    def slice_of(self, batch: Sequence[T], rank: int | None = None) -> Sequence[T]:
        """The part of a global batch that this process (or another) takes."""
        ...

    def gather(self, mine: Tensor, sizes: Sequence[int]) -> list[Tensor]:
        """Everyone's rows, ``[sizes[r], d]`` each; gradients flow to this process's own."""
        ...

    def sum(self, value: Tensor) -> Tensor:
        """A tensor's sum over the processes."""
        ...

    def as_many(self, batches: list[T], spare: T) -> list[T]:
        """The batches, and as many spare ones as keep step with the other processes."""
        ...


@dataclass(frozen=True)
class Outcome:
    """What an objective's step gave beside gradients.

    Attributes:
        loss: Over the whole batch, before it is weighed.
        tokens: Of this process's part.
        facts: For the log, by name.
    """

    loss: float
    tokens: int
    facts: dict[str, float]
