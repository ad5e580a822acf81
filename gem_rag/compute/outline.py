"""What our forward computes for a base, apart from its weights: plain data, and whose weights.

An outline is read off a transformers model (`recognise`). It can be kept, so that the next process
makes the forward out of the weights' files, without that model (`checkpoints.outlines`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from torch import Tensor

from gem_rag.compute.linear import Linear


@dataclass(frozen=True)
class Gain:
    """Of an RMS norm.

    Attributes:
        name: The parameter's, in the model.
        plus_one: Whether it holds what is added to one, as Gemma's do.
    """

    name: str
    plus_one: bool


@dataclass(frozen=True)
class BlockOutline:
    """One decoder block.

    Attributes:
        kind: ``full_attention`` or ``sliding_attention``: which mask it takes.
        rotary: Whether its queries and keys are turned by position.
        norms: Before and after attention, before and after the MLP.
        head_norms: Over each query's and each key's head, or None.
        parts: For each fused layer, the names of its modules in the block and their widths.
    """

    kind: str
    rotary: bool
    norms: tuple[Gain | None, Gain | None, Gain | None, Gain | None]
    head_norms: tuple[Gain, Gain] | None
    parts: dict[str, list[tuple[str, int]]]


@dataclass(frozen=True)
class Outline:
    """A whole decoder.

    Attributes:
        heads: Of queries.
        kv_heads: Of keys and values.
        head_dim: Width of a head.
        window: Of sliding attention, tokens; 0 without.
        scale: Of attention's scores.
        eps: Of all norms.
        activation: What bends the gate of the MLP, as transformers calls it.
        table: Name of the embedding's parameter.
        table_scale: What token vectors are multiplied with, or None.
        norm: The last one.
        head: Name of the output head's module.
        tied: Whether its weight is the embedding's.
        rotary_kinds: Kinds of layers with frequencies of their own; one empty name where all share.
        blocks_name: Where the blocks are in the model.
        blocks: Each block.
    """

    heads: int
    kv_heads: int
    head_dim: int
    window: int
    scale: float
    eps: float
    activation: str
    table: str
    table_scale: float | None
    norm: Gain
    head: str
    tied: bool
    rotary_kinds: tuple[str, ...]
    blocks_name: str
    blocks: tuple[BlockOutline, ...]

    @property
    def gains(self) -> list[str]:
        """Names of all norms' parameters."""
        of_blocks = [g for b in self.blocks for g in (*b.norms, *(b.head_norms or ()))]
        return [gain.name for gain in (self.norm, *of_blocks) if gain is not None]

    @property
    def linears(self) -> list[str]:
        """Names of all linear layers in the blocks."""
        return [
            f"{self.blocks_name}.{index}.{name}"
            for index, block in enumerate(self.blocks)
            for parts in block.parts.values()
            for name, _ in parts
        ]


class Source(Protocol):
    """Where the weights of an outline are."""

    def tensor(self, name: str) -> Tensor:
        """A parameter, in the dtype that is computed in."""

    def linear(self, names: Sequence[str]) -> Linear:
        """Linear layers of one input, by their modules' names, as one layer."""

    def head(self, outline: Outline) -> Linear:
        """The output head."""

    def used(self, index: int, outline: BlockOutline, linears: Mapping[str, Linear]) -> None:
        """A block's fused layers are made; what they were made of is not needed any more."""
