"""Keys and values: caches that grow in place, seeded with what was read before."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor
from transformers.cache_utils import Cache, DynamicLayer

from gem_rag.compute.attention import Role, Tokens

KeyValues = tuple[tuple[Tensor, Tensor], ...]


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


def side_by_side(rows: Sequence[KeyValues], width: int) -> list[tuple[Tensor, Tensor]]:
    """Each layer's keys and values of several rows, ``[B, H, width, D]``, padded on the right."""
    if len(rows) == 1:  # seeds are never written to, so nothing is copied here
        return [(k[None], v[None]) for k, v in rows[0]]
    return [
        (_stack([row[i][0] for row in rows], width), _stack([row[i][1] for row in rows], width))
        for i in range(len(rows[0]))
    ]


def _stack(rows: Sequence[Tensor], width: int) -> Tensor:
    """``[H, n, D]`` of different n as ``[B, H, width, D]``."""
    first = rows[0]
    out = first.new_zeros(len(rows), first.shape[0], width, first.shape[2])
    for row, own in enumerate(rows):
        out[row, :, : own.shape[1]] = own
    return out
