"""Keys and values: caches that grow in place, seeded with what was read before."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import torch
from torch import Tensor

from gem_rag.compute.attention import Role, Tokens

KeyValues = Sequence[tuple[Tensor, Tensor]]  # each layer's keys and values, ``[H, n, D]``


class Layer(Protocol):
    """One decoder block's keys and values."""

    def update(self, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """Append ``[B, H, T, D]`` and return all that the new queries see."""

    @property
    def length(self) -> int:
        """How many tokens the longest row holds."""


@dataclass(frozen=True)
class Cache:
    """What was run before, layer by layer.

    Attributes:
        layers: Each block's; as many blocks are run.
    """

    layers: Sequence[Layer]


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


class GrowingLayer:
    """Keys and values that grow in place with room to spare; the seed tensors are never written.

    Attributes:
        keys: ``[B, H, N, D]``; None at first.
        values: Likewise.
    """

    def __init__(
        self, keys: Tensor | None = None, values: Tensor | None = None, room: int = 0
    ) -> None:
        self.keys, self.values = keys, values
        self._room = room
        self._key_buffer: Tensor | None = None
        self._value_buffer: Tensor | None = None

    @property
    def length(self) -> int:
        """How many tokens each row holds."""
        return 0 if self.keys is None else self.keys.shape[2]

    def update(self, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """Append ``[B, H, T, D]`` keys and values and return all of them."""
        if self.keys is None or self.values is None:
            self.keys, self.values = keys[:, :, :0], values[:, :, :0]
        if torch.is_grad_enabled():  # autograd needs tensors that are not written to again
            self.keys = torch.cat([self.keys, keys], 2)
            self.values = torch.cat([self.values, values], 2)
            return self.keys, self.values
        start, end = self.length, self.length + keys.shape[2]
        self._key_buffer = self._with_room(self._key_buffer, self.keys, end)
        self._value_buffer = self._with_room(self._value_buffer, self.values, end)
        self._key_buffer[:, :, start:end] = keys
        self._value_buffer[:, :, start:end] = values
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


@dataclass(frozen=True)
class Aim:
    """Where the next keys and values of some rows go.

    Attributes:
        rows: A range of rows.
        starts: How much each of them holds.
        capacity: Rows and columns that there must be room for, all rows included.
        places: The columns they go to, ``[b, T]``.
    """

    rows: slice
    starts: Sequence[int]
    capacity: tuple[int, int]
    places: Tensor
    _moved: dict[torch.device, tuple[Tensor, Tensor]] = field(default_factory=dict)

    def on(self, device: torch.device) -> tuple[Tensor, Tensor]:
        """Numbers of the rows, and `places`, on a device: moved once for all layers of a pass.

        Indices on the host a GPU would have to wait for, four times a layer.
        """
        if device not in self._moved:
            rows = torch.arange(len(self.starts), device=device)
            self._moved[device] = rows, self.places.to(device)
        return self._moved[device]


FEW = 16  # tokens of each row that are put in their places at once; more are copied row by row


class SlotLayer:
    """Keys and values whose rows end at different places, each with room to go on."""

    def __init__(self) -> None:
        self._held: tuple[Tensor, Tensor] | None = None  # [R, H, columns, D]
        self._aim: Aim

    @property
    def nbytes(self) -> int:
        """Bytes held."""
        return 0 if self._held is None else sum(part.nbytes for part in self._held)

    def aim(self, aim: Aim) -> None:
        """Say where the next update goes, and make room for it."""
        self._aim = aim
        if self._held is not None:
            self._held = (self._grown(self._held[0]), self._grown(self._held[1]))

    def _grown(self, held: Tensor) -> Tensor:
        rows, columns = self._aim.capacity
        if held.shape[0] >= rows and held.shape[2] >= columns:
            return held
        out = held.new_zeros(rows, held.shape[1], columns, held.shape[3])
        out[: held.shape[0], :, : held.shape[2]] = held
        return out

    def update(self, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """Put ``[b, H, T, D]`` at each aimed row's end; all of these rows up to the longest's."""
        held_keys, held_values = (held[self._aim.rows] for held in self._ready(keys[0], values[0]))
        self._put(held_keys, keys)
        self._put(held_values, values)
        end = self.length + keys.shape[2]
        return held_keys[:, :, :end], held_values[:, :, :end]

    def _ready(self, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """What is held, made for keys and values ``[H, n, D]`` such as these where it is not."""
        if self._held is None:
            rows, columns = self._aim.capacity
            shapes = [(rows, new.shape[0], columns, new.shape[2]) for new in (keys, values)]
            self._held = keys.new_zeros(shapes[0]), values.new_zeros(shapes[1])
        return self._held

    def _put(self, held: Tensor, new: Tensor) -> None:
        starts, count = self._aim.starts, new.shape[2]
        if all(start == starts[0] for start in starts):
            held[:, :, starts[0] : starts[0] + count] = new
        elif count <= FEW:
            rows, places = self._aim.on(held.device)
            held[rows[:, None], :, places] = new.transpose(1, 2)  # (b, T, H, D)
        else:
            for row, start in enumerate(starts):
                held[row, :, start : start + count] = new[row]

    def fill(self, row: int, keys: Tensor, values: Tensor) -> None:
        """Take over what was read before, ``[H, n, D]``, into an aimed row."""
        for held, new in zip(self._ready(keys, values), (keys, values), strict=True):
            held[row, :, : new.shape[1]] = new

    def swap(self, one: int, other: int, length: int) -> None:
        """Exchange two rows that hold so many tokens at most."""
        for held in self._held or ():
            first = held[one, :, :length].clone()
            held[one, :, :length] = held[other, :, :length]
            held[other, :, :length] = first

    def rows(self, rows: slice) -> tuple[Tensor, Tensor]:
        """Some rows' keys and values with all columns, ``[b, H, columns, D]``; they are there."""
        assert self._held is not None
        keys, values = self._held
        return keys[rows], values[rows]

    def row(self, row: int, length: int) -> tuple[Tensor, Tensor]:
        """A row's keys and values, ``[H, length, D]``."""
        assert self._held is not None
        keys, values = self._held
        return keys[row, :, :length], values[row, :, :length]

    @property
    def length(self) -> int:
        """How much the longest aimed row holds."""
        return max(self._aim.starts)


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


def pack(key_values: KeyValues, dtype: torch.dtype | None = None) -> Tensor:
    """All layers' keys and values as one tensor of its own, ``[L, 2, H, n, D]``; None is as it is.

    What is kept for later is kept like this: readings on disk, a trainer's, beginnings of prompts.
    """
    return torch.stack([torch.stack(pair) for pair in key_values]).to(
        dtype or key_values[0][0].dtype
    )


def unpack(packed: Tensor) -> KeyValues:
    """What `pack` packed."""
    return tuple((keys, values) for keys, values in packed)


def side_by_side(rows: Sequence[KeyValues], width: int) -> list[tuple[Tensor, Tensor]]:
    """Each layer's keys and values of several rows, ``[B, H, width, D]``, padded on the right."""
    if len(rows) == 1:  # seeds are never written to, so nothing is copied here
        return [(k[None], v[None]) for k, v in rows[0]]
    return [(_stack(keys, width), _stack(values, width)) for keys, values in _by_layer(rows)]


def _by_layer(rows: Sequence[KeyValues]) -> Iterator[tuple[list[Tensor], list[Tensor]]]:
    """Each layer's keys of all rows, and their values: one layer of packed ones is made at once."""
    for layer in range(len(rows[0])):
        pairs = [row[layer] for row in rows]
        yield [keys for keys, _ in pairs], [values for _, values in pairs]


def _stack(rows: Sequence[Tensor], width: int) -> Tensor:
    """``[H, n, D]`` of different n as ``[B, H, width, D]``."""
    first = rows[0]
    out = first.new_empty(len(rows), first.shape[0], width, first.shape[2])
    for row, own in enumerate(rows):
        out[row, :, : own.shape[1]] = own
        out[row, :, own.shape[1] :] = 0
    return out
