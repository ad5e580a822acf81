"""Readings: what the base model keeps of a text it has read, and how it is used again.

A `Reading` is immutable. A forward call appends to the cache it is given, so every use wraps the
tensors in a fresh cache (`collate`), and two uses at the same time do not meet.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor
from transformers.cache_utils import Cache, DynamicLayer

from gem_rag.attention import Role, Tokens

if TYPE_CHECKING:
    from gem_rag.model import GemModel

KeyValues = tuple[tuple[Tensor, Tensor], ...]


@dataclass(frozen=True, eq=False)
class Reading:
    """The keys and values left by the preamble and one text (design: pass 1).

    Attributes:
        text: The text that was read (its end may have been cut: see `cut_tokens`).
        ids: int64 ``[n]``, the preamble's and the text's token ids.
        offsets: ``(start, end)`` character offsets in `text` of each token of the text.
        key_values: Per layer, keys and values ``[H, n, D]`` in the model's dtype.
        fingerprint: `GemModel.reading_fingerprint` of the model that read it.
        cut_tokens: How many tokens of the text did not fit and were not read.
        model: The model that read it.
    """

    text: str
    ids: Tensor
    offsets: tuple[tuple[int, int], ...]
    key_values: KeyValues = field(repr=False)
    fingerprint: str
    cut_tokens: int
    model: GemModel = field(repr=False)

    def __len__(self) -> int:
        """Number of tokens read, preamble included."""
        return int(self.ids.shape[0])

    @property
    def nbytes(self) -> int:
        """Bytes of keys and values."""
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
        return await asyncio.to_thread(self.embed, spans)


def join(readings: Sequence[Reading]) -> Reading:
    """Several readings as one: the preamble once, then each text's keys moved to their new place.

    Experimental: an approximation, because the texts have not seen each other.

    Raises:
        ReadingError: The base's keys cannot be moved, or the readings are of different models.
    """
    model = readings[0].model
    model.require_joinable(readings)
    head = len(model.config.preamble_ids)
    starts = [0]
    for reading in readings:
        starts.append(starts[-1] + len(reading) - head)
    layers = []
    for i in range(len(readings[0].key_values)):
        keys = [readings[0].key_values[i][0][:, :head]]
        values = [readings[0].key_values[i][1][:, :head]]
        for reading, start in zip(readings, starts, strict=False):
            k, v = reading.key_values[i]
            keys.append(model.base.rotate(k[:, head:], start, i) if start else k[:, head:])
            values.append(v[:, head:])
        layers.append((torch.cat(keys, 1), torch.cat(values, 1)))
    return Reading(
        text="".join(r.text for r in readings),
        ids=torch.cat([readings[0].ids[:head], *(r.ids[head:] for r in readings)]),
        offsets=_shifted_offsets(readings),
        key_values=tuple(layers),
        fingerprint=readings[0].fingerprint,
        cut_tokens=sum(r.cut_tokens for r in readings),
        model=model,
    )


def _shifted_offsets(readings: Sequence[Reading]) -> tuple[tuple[int, int], ...]:
    out: list[tuple[int, int]] = []
    before = 0
    for reading in readings:
        out += [(s + before, e + before) for s, e in reading.offsets]
        before += len(reading.text)
    return tuple(out)


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
    if len(readings) == 1:  # seeds are never written to, so nothing is copied here
        seeds = [(k[None], v[None]) for k, v in readings[0].key_values[:layers]]
    else:
        kept = range(len(readings[0].key_values[:layers]))
        seeds = [(_stack(readings, i, 0, width), _stack(readings, i, 1, width)) for i in kept]
    return Tokens(index, torch.where(valid, Role.PREFIX, Role.PADDING)), seeded_cache(seeds, room)


def _stack(readings: Sequence[Reading], layer: int, which: int, width: int) -> Tensor:
    first = readings[0].key_values[layer][which]
    out = first.new_zeros(len(readings), first.shape[0], width, first.shape[2])
    for row, reading in enumerate(readings):
        out[row, :, : len(reading)] = reading.key_values[layer][which]
    return out


def row_of(tokens: Tokens, cache: Cache, row: int) -> KeyValues:
    """One row's keys and values without padding, ``[H, n, D]``, in memory of their own."""
    keep = tokens.roles[row] != Role.PADDING
    return tuple((k[row][:, keep].clone(), v[row][:, keep].clone()) for k, v in layers_of(cache))


def layers_of(cache: Cache) -> list[tuple[Tensor, Tensor]]:
    """Each layer's keys and values, ``[B, H, N, D]``."""
    out = []
    for layer in cache.layers:
        assert isinstance(layer, GrowingLayer)
        assert layer.keys is not None
        assert layer.values is not None
        out.append((layer.keys, layer.values))
    return out


class GrowingLayer(DynamicLayer):
    """A cache layer that grows in place with room to spare; the seed tensors are never written.

    transformers' own layer copies the whole cache for each new token.
    """

    def __init__(
        self, keys: Tensor | None = None, values: Tensor | None = None, room: int = 0
    ) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._room = room
        self._key_buffer: Tensor | None = None
        self._value_buffer: Tensor | None = None
        if keys is not None and values is not None:
            self.dtype, self.device = keys.dtype, keys.device
            self.keys, self.values = keys, values
            self.is_initialized = True

    def update(
        self, key_states: Tensor, value_states: Tensor, *args: object, **kwargs: object
    ) -> tuple[Tensor, Tensor]:
        """Append ``[B, H, T, D]`` keys and values and return all of them."""
        if torch.is_grad_enabled():  # autograd needs tensors that are not written to again
            return super().update(key_states, value_states, *args, **kwargs)
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
            self.keys, self.values = key_states[:, :, :0], value_states[:, :, :0]
        assert self.keys is not None
        assert self.values is not None
        start, end = self.keys.shape[2], self.keys.shape[2] + key_states.shape[2]
        self._key_buffer = self._with_room(self._key_buffer, self.keys, end)
        self._value_buffer = self._with_room(self._value_buffer, self.values, end)
        self._key_buffer[:, :, start:end] = key_states
        self._value_buffer[:, :, start:end] = value_states
        self.keys, self.values = self._key_buffer[:, :, :end], self._value_buffer[:, :, :end]
        return self.keys, self.values

    def _with_room(self, buffer: Tensor | None, held: Tensor, end: int) -> Tensor:
        if buffer is not None and buffer.shape[2] >= end:
            return buffer
        batch, heads, start, width = held.shape
        spare = self._room if buffer is None else start // 2
        grown = held.new_empty(batch, heads, max(end, start + spare), width)
        grown[:, :, :start] = held
        return grown

    def batch_select_indices(self, indices: Tensor) -> None:
        """Keep these rows only."""
        super().batch_select_indices(indices)
        self._key_buffer = self._value_buffer = None


def seeded_cache(seeds: Iterable[tuple[Tensor, Tensor]], room: int = 0) -> Cache:
    """A cache that goes on from these keys and values, which are never written to."""
    return Cache(layers=[GrowingLayer(k, v, room) for k, v in seeds])


def first_layers(cache: Cache, layers: int) -> Cache:
    """The first layers of a cache, as a cache: what is appended is appended to both."""
    return cache if len(cache.layers) <= layers else Cache(layers=cache.layers[:layers])


def empty_cache(layers: int, room: int = 0) -> Cache:
    """A cache with nothing in it that keeps every column.

    A cache built from a config would drop columns on sliding-window layers, and padding with them.
    """
    return Cache(layers=[GrowingLayer(room=room) for _ in range(layers)])
