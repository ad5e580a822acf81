"""The decoder's blocks with their weights, made from an outline and wherever the weights are."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor
from torch.nn import functional

from gem_rag.compute.linear import Linear
from gem_rag.compute.norm import RmsNorm
from gem_rag.compute.outline import BlockOutline, Gain, Outline, Source

ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "silu": functional.silu,
    "swish": functional.silu,
    "gelu": functional.gelu,
    "gelu_new": partial(functional.gelu, approximate="tanh"),
    "gelu_pytorch_tanh": partial(functional.gelu, approximate="tanh"),
}


@dataclass(frozen=True)
class Block:
    """One decoder block, with its weights.

    Attributes:
        outline: What it computes.
        norms: Before and after attention, before and after the MLP.
        head_norm: Gain ``[H + KV, D]`` of the norm over each query's and key's head, or None.
        qkv: ``[n, hidden] -> [n, (H + 2 KV) D]``; likewise the other three.
    """

    outline: BlockOutline
    norms: tuple[RmsNorm, RmsNorm | None, RmsNorm, RmsNorm | None]
    head_norm: Tensor | None
    qkv: Linear
    out: Linear
    gate_up: Linear
    down: Linear

    @property
    def linears(self) -> dict[str, Linear]:
        """Its fused layers, as the outline calls them."""
        return {"qkv": self.qkv, "out": self.out, "gate_up": self.gate_up, "down": self.down}

    @property
    def nbytes(self) -> int:
        """Bytes of its weights."""
        norms = [n for n in (*self.norms, self.head_norm) if n is not None]
        return sum(part.nbytes for part in (*norms, *self.linears.values()))


def norm_of(gain: Gain, eps: float, source: Source) -> RmsNorm:
    """An RMS norm."""
    return RmsNorm(_gain(gain, source), eps)


def blocks_of(outline: Outline, source: Source) -> Iterator[Block]:
    """The blocks one by one; the source may give up each one's weights before the next is made."""
    for index, block in enumerate(outline.blocks):
        prefix = f"{outline.blocks_name}.{index}"
        first, second, third, fourth = (
            None if gain is None else norm_of(gain, outline.eps, source) for gain in block.norms
        )
        assert first is not None
        assert third is not None
        linears = {
            fused: source.linear([f"{prefix}.{name}" for name, _ in parts])
            for fused, parts in block.parts.items()
        }
        source.used(index, block, linears)
        yield Block(
            outline=block,
            norms=(first, second, third, fourth),
            head_norm=_head_norm(outline, block, source),
            **linears,
        )


def _gain(gain: Gain, source: Source) -> Tensor:
    weight = source.tensor(gain.name)
    return weight + 1 if gain.plus_one else weight


def _head_norm(outline: Outline, block: BlockOutline, source: Source) -> Tensor | None:
    """Both gains as one ``[H + KV, D]``: queries and keys are normed in one go."""
    if block.head_norms is None:
        return None
    counts = outline.heads, outline.kv_heads
    gains = zip(block.head_norms, counts, strict=True)
    return torch.cat([_gain(gain, source).expand(count, -1) for gain, count in gains])
