"""Linear layers whose weights are int8 or int4; what is computed is in a float format.

Over few rows torch's integer kernels, which read the weights as they lie; over many the weights are
widened, a layer at a time, and multiplied as floats: the kernels take four rows for about the time
of one and then as much again for each four, a float product takes hundreds for that of twenty.
"""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from functools import cache
from typing import ClassVar, Self

import torch
from torch import Tensor
from torch.nn import functional

from gem_rag.compute.linear import Linear

# Weights of an int4 layer that share a scale and a middle: as in the blocks of GGUF's Q4_1.
GROUP = 32
# Rows from which widening is the faster (`benchmarks/formats.py`; all layers of the default model).
WIDE_FROM = {"int8": 24, "int4": 72}
# Inputs of which the int8 kernel takes multiples.
INT8_INPUTS = 16
# Outputs that torch's int4 kernel keeps together (with AVX-512).
BLOCK = 64
# Outputs that are widened at a time: they stay in the cache, and ask for no fresh memory.
SLAB = 4096
# Steps from a group's least weight to its largest that are tried: weights that were int4 once have
# one of them exactly, and are then held exactly.
STEPS = 15
# Of a step: what float32 leaves of a weight's place between two codes.
EXACT = 1e-3


@dataclass(frozen=True)
class Codes:
    """A weight ``[out, in]`` as plain numbers and scales.

    Attributes:
        codes: int8 ``[out, in]``, or two int4 a byte, uint8 ``[out, in / 2]``, the even one low.
        scales: ``[out]``, or ``[out, in / GROUP]``.
        middles: None, or what code 8 stands for, ``[out, in / GROUP]``.
    """

    PARTS: ClassVar = ("codes", "scales", "middles")

    codes: Tensor
    scales: Tensor
    middles: Tensor | None = None

    @property
    def name(self) -> str:
        """``int8`` or ``int4``."""
        return "int8" if self.middles is None else "int4"

    def parts(self) -> dict[str, Tensor]:
        """Its tensors by their names in `PARTS`."""
        all_of_them = zip(self.PARTS, (self.codes, self.scales, self.middles), strict=True)
        return {name: t for name, t in all_of_them if t is not None}

    @classmethod
    def of(cls, weight: Tensor, name: str) -> Codes:
        """A float weight, rounded to ``int8`` or ``int4``; scales in float32."""
        return _to_int8(weight.float()) if name == "int8" else _to_int4(weight.float())

    @classmethod
    def cat(cls, parts: list[Codes]) -> Codes:
        """Weights of one input above one another."""
        middles = [p.middles for p in parts if p.middles is not None]
        return cls(
            torch.cat([p.codes for p in parts]),
            torch.cat([p.scales for p in parts]),
            torch.cat(middles) if middles else None,
        )

    def part(self, rows: slice) -> Codes:
        """Some of the outputs."""
        middles = None if self.middles is None else self.middles[rows]
        return Codes(self.codes[rows], self.scales[rows], middles)

    def to(self, device: torch.device, dtype: torch.dtype) -> Codes:
        """On a device, scales in the dtype that is computed in."""
        middles = None if self.middles is None else self.middles.to(device, dtype)
        return Codes(self.codes.to(device), self.scales.to(device, dtype), middles)

    def are(self, weight: Tensor) -> bool:
        """Whether they stand for exactly this float weight, but for the last bits of a scale."""
        off = (self.dense() - weight.float()).abs().amax()
        return bool(off <= EXACT * self.scales.abs().amax())

    def dense(self) -> Tensor:
        """The float weight that they stand for, in the scales' dtype."""
        if self.middles is None:
            return self.codes.to(self.scales.dtype) * self.scales[:, None]
        return _widened(_nibbles(self.codes), self.scales, self.middles)


class Quantised(Linear):
    """A linear layer over `Codes`."""

    name: str

    def __init__(self, codes: Codes, bias: Tensor | None = None) -> None:
        self.bias = bias
        self.hold(codes)

    @abstractmethod
    def hold(self, codes: Codes) -> None:
        """Keep the weights in the order in which the kernel reads them."""

    @abstractmethod
    def codes(self) -> Codes:
        """The weights as they came."""

    @abstractmethod
    def narrow(self, x: Tensor) -> Tensor:
        """``[n, in] -> [n, out]`` by the integer kernel, without the bias."""

    @abstractmethod
    def wide(self, x: Tensor) -> Tensor:
        """``[n, in] -> [n, out]`` with widened weights, without the bias."""

    def __call__(self, x: Tensor) -> Tensor:
        """``[n, in] -> [n, out]``."""
        few = len(x) < WIDE_FROM[self.name] and not (x.requires_grad and torch.is_grad_enabled())
        y = self.narrow(x) if few else self.wide(x)
        return y if self.bias is None else y + self.bias

    def dense(self) -> Tensor:
        """The float weight that is computed with, ``[out, in]``."""
        return self.codes().dense()

    def part(self, rows: slice) -> Self:
        """A layer of some of the outputs."""
        bias = None if self.bias is None else self.bias[rows]
        return type(self)(self.codes().part(rows), bias)

    @classmethod
    def fused(cls, layers: list[Self]) -> Self:
        """Layers of one input as one; a single one is that already."""
        if len(layers) == 1:
            return layers[0]
        biases = [layer.bias for layer in layers if layer.bias is not None]
        codes = Codes.cat([layer.codes() for layer in layers])
        return cls(codes, torch.cat(biases) if biases else None)


class Int8(Quantised):
    """Weights of 8 bits, a scale for each output."""

    name = "int8"

    def hold(self, codes: Codes) -> None:
        """As they are, in memory of their own: the kernel ends the process where rows do not
        begin at multiples of 16 bytes, and those of a mapped file need not."""
        self.weight, self._scales = codes.codes.contiguous().clone(), codes.scales

    def codes(self) -> Codes:
        """The weights as they came."""
        return Codes(self.weight, self._scales)

    @property
    def nbytes(self) -> int:
        """Bytes of weight, scales and bias."""
        return super().nbytes + self._scales.nbytes

    def narrow(self, x: Tensor) -> Tensor:
        """By the integer kernel."""
        y: Tensor = torch.ops.aten._weight_int8pack_mm(x.contiguous(), self.weight, self._scales)
        return y

    def wide(self, x: Tensor) -> Tensor:
        """Codes are widened without loss (floats keep 8 bits and more), outputs scaled."""
        if x.requires_grad and torch.is_grad_enabled():
            return functional.linear(x, self.weight.to(x.dtype)) * self._scales
        out = x.new_empty(len(x), len(self.weight))
        for slab, own in zip(self.weight.split(SLAB), out.split(SLAB, 1), strict=True):
            own.copy_(functional.linear(x, slab.to(x.dtype)))
        return out.mul_(self._scales)


class Int4(Quantised):
    """Weights of 4 bits; each `GROUP` of an output's has a scale and a middle."""

    name = "int4"

    def hold(self, codes: Codes) -> None:
        """In the kernel's own order, or as they came as well, where that order is not known."""
        assert codes.middles is not None
        self._width = codes.codes.shape[1] * 2
        self.weight: Tensor = torch.ops.aten._convert_weight_to_int4pack_for_cpu(
            _nibbles(codes.codes).to(torch.int32), 1
        )
        both = torch.stack([codes.scales, codes.middles], -1)  # (out, groups, 2)
        self._scales = both.transpose(0, 1).contiguous()  # (groups, out, 2)
        known = len(codes.codes) % BLOCK == 0 and known_order()
        self._plain = None if known else codes.codes

    def codes(self) -> Codes:
        """The weights as they came."""
        scales, middles = self._scales.transpose(0, 1).unbind(-1)
        plain = self._plain
        if plain is None:
            from_eight = _from_kernel_order(self.weight, self._width, torch.int8)
            plain = _packed((from_eight + 8).view(torch.uint8).T)
        return Codes(plain, scales.contiguous(), middles.contiguous())

    @property
    def nbytes(self) -> int:
        """Bytes of weight, scales and bias."""
        plain = 0 if self._plain is None else self._plain.nbytes
        return super().nbytes + self._scales.nbytes + plain

    def narrow(self, x: Tensor) -> Tensor:
        """By the integer kernel."""
        own = self.weight, GROUP, self._scales
        y: Tensor = torch.ops.aten._weight_int4pack_mm_for_cpu(x.contiguous(), *own)
        return y

    def wide(self, x: Tensor) -> Tensor:
        """With the weights as floats, turned over as the kernel keeps them, ``[in, out]``."""
        if self._plain is not None:
            gradients = x.requires_grad and torch.is_grad_enabled()  # the kernel has none
            return functional.linear(x, self.dense()) if gradients else self.narrow(x)
        codes = _from_kernel_order(self.weight, self._width, x.dtype)
        by_group = codes.view(-1, GROUP, codes.shape[1])
        # Apart from one another: read at every other place they take longer than all the rest.
        scales, middles = (part.contiguous() for part in self._scales.unsqueeze(1).unbind(-1))
        torch.addcmul(middles, by_group, scales, out=by_group)
        return x @ codes


KINDS: dict[str, type[Quantised]] = {"int8": Int8, "int4": Int4}


def layer_of(codes: Codes, bias: Tensor | None = None) -> Quantised:
    """The layer of some codes."""
    return KINDS[codes.name](codes, bias)


def _to_int8(weight: Tensor) -> Codes:
    # A scale that bfloat16 holds exactly, rounded up: the codes take up what it is too large.
    scales = (weight.abs().amax(1) / 127 * (1 + 2**-8)).clamp(min=1e-12).bfloat16().float()
    codes = (weight / scales[:, None]).round().clamp(-127, 127)
    return Codes(codes.to(torch.int8), scales)


def _to_int4(weight: Tensor) -> Codes:
    groups = weight.view(len(weight), -1, GROUP)
    low, high = groups.amin(-1, keepdim=True), groups.amax(-1, keepdim=True)
    scale = _steps(groups, low, high)
    codes = ((groups - low) / scale).round().clamp(0, 15).to(torch.uint8).view_as(weight)
    return Codes(_packed(codes), scale.squeeze(-1), (low + 8 * scale).squeeze(-1))


def _steps(groups: Tensor, low: Tensor, high: Tensor) -> Tensor:
    """The distance of neighbouring codes: one on which all weights of the group lie, if any does,
    else a fifteenth of what they span."""
    span = (high - low).clamp(min=1e-12)
    chosen = span / STEPS
    for steps in range(1, STEPS):
        scale = span / steps
        place = (groups - low) / scale
        exact = (place - place.round()).abs().amax(-1, keepdim=True) < EXACT
        chosen = torch.where(exact & (chosen == span / STEPS), scale, chosen)
    return chosen


def _nibbles(codes: Tensor) -> Tensor:
    """uint8 ``[out, in / 2]``, two codes a byte, to ``[out, in]``, one each."""
    return torch.stack([codes & 15, codes >> 4], -1).flatten(-2)


def _packed(codes: Tensor) -> Tensor:
    """uint8 ``[out, in]``, one code each, to ``[out, in / 2]``, two a byte."""
    return codes[:, ::2] | codes[:, 1::2] << 4


def _widened(codes: Tensor, scales: Tensor, middles: Tensor) -> Tensor:
    groups = codes.to(scales.dtype).sub_(8).view(*scales.shape, GROUP)
    return torch.addcmul(middles[..., None], groups, scales[..., None]).flatten(1)


def _from_kernel_order(weight: Tensor, width: int, dtype: torch.dtype) -> Tensor:
    """Codes less 8, ``[in, out]``, from the kernel's order: of each `BLOCK` outputs 32 bytes an
    input, byte j with output j in its lower half and output 32 + j in its upper."""
    half = BLOCK // 2
    blocks = weight.view(-1, width, half).transpose(0, 1)  # (in, blocks, half)
    out = torch.empty(width, blocks.shape[1], 2, half, dtype=dtype)
    out[:, :, 0] = ((blocks & 15) - 8).view(torch.int8)  # bytes wrap, and mean the same
    out[:, :, 1] = ((blocks >> 4) - 8).view(torch.int8)
    return out.view(width, -1)


@cache
def known_order() -> bool:
    """Whether the int4 kernel keeps weights as `_from_kernel_order` reads them: with AVX-512."""
    codes = (torch.arange(128 * 64) * 7919 % 251 % 16).view(128, 64)
    packed = torch.ops.aten._convert_weight_to_int4pack_for_cpu(codes.to(torch.int32), 1)
    return torch.equal(_from_kernel_order(packed, 64, torch.int64).T, codes - 8)
