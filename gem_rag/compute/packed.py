"""Keys and values in fewer bits: packed once, widened a layer at a time where they are used."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, overload

import torch
from torch import Tensor

from gem_rag.compute.kv import KeyValues
from gem_rag.errors import GemError

ReadingFormat = Literal["auto", "float32", "bfloat16", "float16", "int8"]
_DTYPES = {
    "auto": torch.bfloat16,  # the fewest bits that cost nothing measurable: docs/readings.md
    "float32": torch.float32,
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
    "int8": torch.int8,
}
_LARGEST = 127  # of int8, the same on both sides of 0
_DATA, _KEY_SCALES, _VALUE_SCALES = "key_values", "key_scales", "value_scales"


def stored_dtype(name: str, own: torch.dtype) -> torch.dtype:
    """The dtype that a format keeps readings in.

    Args:
        name: A `ReadingFormat`.
        own: The model's, which is exact: nothing is kept in more bits, or in as many others.

    Raises:
        GemError: There is no such format.
    """
    if name not in _DTYPES:
        raise GemError(f"the format of readings is {name!r}; expected one of {', '.join(_DTYPES)}")
    asked = _DTYPES[name]
    return asked if asked.itemsize < own.itemsize else own


@dataclass(frozen=True, eq=False)
class Packed(Sequence[tuple[Tensor, Tensor]]):
    """Each layer's keys and values, as `KeyValues` has them, made when they are asked for.

    int8 holds ``x / scale``, rounded: one scale for each channel of a head's keys, where a few
    channels are many times larger than the others, and one for each token of its values. The
    preamble before the text, whose first token is larger than all others, stays as it is, once
    for all texts.

    Attributes:
        data: Keys and values, ``[L, 2, H, n, D]``; int8 without the preamble's.
        head: The preamble's, in the dtype that all are widened to.
        scales: Of int8, float32: keys' ``[L, H, 1, D]``, values' ``[L, H, n, 1]``.
    """

    data: Tensor
    head: KeyValues
    scales: tuple[Tensor, Tensor] | None = None

    @property
    def nbytes(self) -> int:
        """Bytes held, but for the preamble's where all texts share it."""
        return sum(tensor.nbytes for tensor in self.tensors().values())

    def __len__(self) -> int:
        """Layers."""
        return self.data.shape[0]

    @overload
    def __getitem__(self, at: int) -> tuple[Tensor, Tensor]: ...

    @overload
    def __getitem__(self, at: slice) -> Packed: ...

    def __getitem__(self, at: int | slice) -> tuple[Tensor, Tensor] | Packed:
        """A layer's keys and values, ``[H, n, D]``; of several layers as they are packed."""
        if isinstance(at, slice):
            scales = None if self.scales is None else (self.scales[0][at], self.scales[1][at])
            return Packed(self.data[at], self.head[at], scales)
        return self._widened(at, 0), self._widened(at, 1)

    def _widened(self, layer: int, which: int) -> Tensor:
        own, first = self.data[layer, which], self.head[layer][which]  # (H, n, D)
        if self.scales is None:
            return own.to(first.dtype)
        heads, tokens, width = own.shape
        out = first.new_empty(heads, first.shape[1] + tokens, width)
        out[:, : first.shape[1]] = first
        torch.mul(own, self.scales[which][layer], out=out[:, first.shape[1] :])
        return out

    def tensors(self) -> dict[str, Tensor]:
        """What is to be kept, by name; the widest numbers first."""
        if self.scales is None:
            return {_DATA: self.data}
        return {_KEY_SCALES: self.scales[0], _VALUE_SCALES: self.scales[1], _DATA: self.data}


def pack_as(key_values: KeyValues, dtype: torch.dtype, head: KeyValues) -> Packed:
    """A text's keys and values in the dtype that they are kept in, in memory of their own.

    Args:
        key_values: A reading's.
        dtype: See `stored_dtype`.
        head: The preamble's, which they begin with.
    """
    if dtype == torch.int8:
        return _quantised(key_values, head)
    keys = key_values[0][0]
    data = keys.new_empty(len(key_values), 2, *keys.shape, dtype=dtype)
    for layer, pair in enumerate(key_values):
        for which, part in enumerate(pair):
            data[layer, which] = part
    return Packed(data, head)


def _quantised(key_values: KeyValues, head: KeyValues) -> Packed:
    keys = key_values[0][0]
    first, layers = head[0][0].shape[1], len(key_values)
    heads, tokens, width = keys[:, first:].shape
    data = keys.new_empty(layers, 2, heads, tokens, width, dtype=torch.int8)
    of_keys = keys.new_zeros(layers, heads, 1, width, dtype=torch.float32)
    of_values = keys.new_zeros(layers, heads, tokens, 1, dtype=torch.float32)
    packed = Packed(data, head, (of_keys, of_values))
    if not tokens:
        return packed
    # One for all layers: fresh pages are dear.
    work, sizes = (keys.new_empty(heads, tokens, width, dtype=torch.float32) for _ in range(2))
    for layer, pair in enumerate(key_values):
        for which, (part, scales) in enumerate(zip(pair, (of_keys, of_values), strict=True)):
            work.copy_(part[:, first:])
            torch.amax(torch.abs(work, out=sizes), 1 + which, keepdim=True, out=scales[layer])
            scales[layer].div_(_LARGEST).clamp_(min=torch.finfo(torch.float32).tiny)
            data[layer, which] = work.div_(scales[layer]).round_()
    return packed


def unpack_from(
    tensors: dict[str, Tensor], dtype: torch.dtype, head: KeyValues, tokens: int
) -> Packed:
    """What `Packed.tensors` gave.

    Args:
        tensors: By name.
        dtype: What they are kept in.
        head: The preamble's.
        tokens: How many are expected, the preamble's among them.

    Raises:
        KeyError: A tensor is missing.
        ValueError: One is of another dtype or shape.
    """
    heads, first, width = head[0][0].shape
    layers, own = len(head), tokens - first if dtype == torch.int8 else tokens
    expected: dict[str, tuple[torch.dtype, tuple[int, ...]]]
    expected = {_DATA: (dtype, (layers, 2, heads, own, width))}
    if dtype == torch.int8:
        expected[_KEY_SCALES] = torch.float32, (layers, heads, 1, width)
        expected[_VALUE_SCALES] = torch.float32, (layers, heads, own, 1)
    for name, (kind, shape) in expected.items():
        found = tensors[name]
        if found.dtype != kind or found.shape != shape:
            raise ValueError(f"{name} is {found.dtype} {list(found.shape)}")
    if dtype == torch.int8:
        return Packed(tensors[_DATA], head, (tensors[_KEY_SCALES], tensors[_VALUE_SCALES]))
    return Packed(tensors[_DATA], head)
