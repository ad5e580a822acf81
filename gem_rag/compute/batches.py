"""Texts of different lengths to batches of bounded size and little padding."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

# Past some 768 tokens two CPU cores gain nothing, and each token's KV cache takes memory.
TOKENS_PER_BATCH_CPU, TOKENS_PER_BATCH = 1024, 8192
FULL_BATCH = 768
PADDING_SHARE = 0.1


def tokens_per_batch(device: torch.device) -> int:
    """Bound of a batch's tokens, padding included."""
    return TOKENS_PER_BATCH_CPU if device.type == "cpu" else TOKENS_PER_BATCH


def longest_first(lengths: Sequence[int]) -> list[int]:
    """Indices, those of the longest first."""
    return sorted(range(len(lengths)), key=lambda i: -lengths[i])


def by_budget(order: Sequence[int], lengths: Sequence[int], budget: int) -> Iterator[list[int]]:
    """Cut indices, longest first, into batches of bounded padded tokens and little padding.

    Past `FULL_BATCH` tokens a larger batch gains nothing, so a row that would be more than
    `PADDING_SHARE` padding starts the next one.
    """
    batch: list[int] = []
    for i in order:
        longest = max(1, lengths[batch[0]]) if batch else 1
        padded = longest * len(batch)
        wasteful = padded >= FULL_BATCH and lengths[i] < (1 - PADDING_SHARE) * longest
        if batch and (padded + longest > budget or wasteful):
            yield batch
            batch = []
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
