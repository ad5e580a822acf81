"""Texts of different lengths to batches of bounded size and little padding."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor

# Past some 768 tokens two CPU cores gain nothing, and each token's KV cache takes memory.
TOKENS_PER_BATCH_CPU, TOKENS_PER_BATCH = 1024, 8192
FULL_BATCH = 768
PADDING_SHARE = 0.1
# What a batch costs beside its tokens, in tokens: a CPU fetches the weights from memory once more.
# One token took 11 ms, 31 took 22, 256 took 99 (two cores, bfloat16).
START_TOKENS_CPU = 32


def tokens_per_batch(device: torch.device) -> int:
    """Bound of a batch's tokens, padding included."""
    return TOKENS_PER_BATCH_CPU if device.type == "cpu" else TOKENS_PER_BATCH


def most_padding(device: torch.device) -> int | None:
    """Of a row, in tokens, before another batch is cheaper; None where that is not known."""
    return START_TOKENS_CPU if device.type == "cpu" else None


def longest_first(lengths: Sequence[int]) -> list[int]:
    """Indices, those of the longest first."""
    return sorted(range(len(lengths)), key=lambda i: -lengths[i])


def by_budget(
    order: Sequence[int],
    lengths: Sequence[int],
    budget: int | Callable[[], int],
    padding: float | None = None,
) -> Iterator[list[int]]:
    """Cut indices, longest first, into batches of bounded padded tokens and little padding.

    Args:
        order: What is cut.
        lengths: Of all rows, in tokens.
        budget: Most tokens of a batch; one that changes is asked for when a batch begins.
        padding: Tokens; a row that would have more starts the next batch. None: past `FULL_BATCH`
            tokens, where a larger batch gains nothing, one that would be more than `PADDING_SHARE`
            padding does.
    """
    batch: list[int] = []
    most = budget if isinstance(budget, int) else budget()
    for i in order:
        longest = max(1, lengths[batch[0]]) if batch else 1
        padded = longest * len(batch)
        share = PADDING_SHARE * longest if padded >= FULL_BATCH else math.inf
        wasteful = longest - lengths[i] > (share if padding is None else padding)
        if batch and (padded + longest > most or wasteful):
            yield batch
            batch = []
            most = budget if isinstance(budget, int) else budget()
        batch.append(i)
    if batch:
        yield batch


def padded(ids: Sequence[Sequence[int]], side: str = "right") -> tuple[Tensor, Tensor]:
    """Token ids side by side: int64 ``[B, T]`` and which of them are real, bool ``[B, T]``.

    Args:
        ids: Each row's token ids.
        side: Where padding goes: ``right`` or ``left``.
    """
    width = max(map(len, ids), default=0)
    out = torch.zeros(len(ids), width, dtype=torch.long)
    valid = torch.zeros(len(ids), width, dtype=torch.bool)
    for row, own in enumerate(ids):
        at = slice(0, len(own)) if side == "right" else slice(width - len(own), width)
        out[row, at] = torch.as_tensor(own)
        valid[row, at] = True
    return out, valid
