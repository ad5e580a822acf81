"""Readings: what the base model keeps of a text it has read, and how it is used again.

A `Reading` is immutable. A forward call appends to the cache it is given, so every use wraps the
tensors in a fresh cache (`collate`), and two uses at the same time do not meet.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from gem_rag.compute.attention import Role, Tokens
from gem_rag.compute.kv import Cache, KeyValues, seeded_cache, side_by_side
from gem_rag.compute.packed import Packed


class EmbedsReadings(Protocol):
    """What a reading needs of the model that read it."""

    def embed_readings(self, readings: Sequence[Reading]) -> np.ndarray:
        """Whole texts: float32 ``[n, d]``."""

    async def aembed_readings(self, readings: Sequence[Reading]) -> np.ndarray:
        """`embed_readings`, awaited."""

    def embed_spans(self, reading: Reading, spans: Sequence[tuple[int, int]]) -> np.ndarray:
        """Parts of one text: float32 ``[s, d]``."""

    async def aembed_spans(self, reading: Reading, spans: Sequence[tuple[int, int]]) -> np.ndarray:
        """`embed_spans`, awaited."""


@dataclass(frozen=True, eq=False)
class Reading:
    """The keys and values left by the preamble and one text (design: pass 1).

    Attributes:
        text: The text that was read (its end may have been cut: see `cut_tokens`).
        ids: int64 ``[n]``, the preamble's and the text's token ids.
        offsets: ``(start, end)`` character offsets in `text` of each token of the text.
        key_values: Per layer, keys and values ``[H, n, D]`` in the model's dtype, or `Packed`,
            which gives them so.
        fingerprint: `Parts.reading_fingerprint` of the model that read it.
        cut_tokens: How many tokens of the text did not fit and were not read.
        model: The model that read it.
    """

    text: str
    ids: Tensor
    offsets: tuple[tuple[int, int], ...]
    key_values: KeyValues = field(repr=False)
    fingerprint: str
    cut_tokens: int
    model: EmbedsReadings = field(repr=False)

    def __len__(self) -> int:
        """Number of tokens read, preamble included."""
        return int(self.ids.shape[0])

    @property
    def nbytes(self) -> int:
        """Bytes of keys and values, as they are held."""
        if isinstance(self.key_values, Packed):
            return self.key_values.nbytes
        return sum(k.nbytes + v.nbytes for k, v in self.key_values)

    def embed(self, spans: Sequence[tuple[int, int]] | None = None) -> np.ndarray:
        """Embed what was read, or parts of it, without reading anything again.

        Args:
            spans: ``(start, end)`` character offsets in `text`. Each span's special tokens see the
                preamble and that span's tokens only. None: the whole text.

        Returns:
            float32 ``[d]``, or ``[len(spans), d]``; L2-normalised. Embedded as a document.

        Raises:
            ReadingError: A span holds no token that was read.
        """
        if spans is None:
            whole: np.ndarray = self.model.embed_readings([self])[0]
            return whole
        return self.model.embed_spans(self, spans)

    async def aembed(self, spans: Sequence[tuple[int, int]] | None = None) -> np.ndarray:
        """`embed` without blocking the event loop."""
        if spans is None:
            whole: np.ndarray = (await self.model.aembed_readings([self]))[0]
            return whole
        return await self.model.aembed_spans(self, spans)


def collate(
    readings: Sequence[Reading], room: int = 0, layers: int | None = None
) -> tuple[Tokens, Cache]:
    """Put readings side by side in a fresh cache, padded on the right.

    Args:
        readings: What to put together; the tensors are copied.
        room: How many tokens will be appended, if known: one allocation instead of two.
        layers: Only this many of the first layers; None is all.

    Returns:
        The tokens as the attention rule sees them, ``[B, N]``, and the cache.
    """
    width = max(len(r) for r in readings)
    device = readings[0].key_values[0][0].device
    lengths = torch.tensor([len(r) for r in readings], device=device)
    index = torch.arange(width, device=device).expand(len(readings), width)
    valid = index < lengths[:, None]
    seeds = side_by_side([r.key_values[:layers] for r in readings], width)
    return Tokens(index, torch.where(valid, Role.PREFIX, Role.PADDING)), seeded_cache(seeds, room)
