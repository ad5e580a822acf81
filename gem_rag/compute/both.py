"""Weights held twice: as plain numbers for few rows, as floats for many.

A row's product waits for the weights to come from memory, and of 4 bits that is a quarter of the
bytes; the product of many rows waits for arithmetic, in which floats are the faster.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from gem_rag.compute.linear import Linear, choose
from gem_rag.compute.quantised import Codes, Quantised, layer_of

# Most rows for which the integer kernel is faster than packed bfloat16 (`benchmarks/formats.py
# --kernels`). All layers of the default model, two threads, ms: of 4 rows 3.1 and 5.5, of 8 5.4 and
# 6.6, of 9 8.0 and 6.5; its output head in int8: 0.8 and 1.0, 1.6 and 1.3.
FEW = {"int4": 8, "int8": 4}


class Both(Linear):
    """A layer that is `narrow` for few rows and `wide` for many, and where gradients flow.

    Args:
        narrow: The weight as plain numbers.
        wide: The weight, exactly.
    """

    def __init__(self, narrow: Quantised, wide: Linear) -> None:
        self.narrow, self.wide = narrow, wide
        self.weight, self.bias = wide.weight, wide.bias

    def __call__(self, x: Tensor) -> Tensor:
        """``[n, in] -> [n, out]``."""
        gradients = x.requires_grad and torch.is_grad_enabled()
        few = len(x) <= FEW[self.narrow.name] and not gradients
        return self.narrow(x) if few else self.wide(x)

    def dense(self) -> Tensor:
        """The weight as it came, ``[out, in]``."""
        return self.wide.dense()

    @property
    def nbytes(self) -> int:
        """Bytes of both."""
        return self.narrow.nbytes + self.wide.nbytes


def chosen(weight: Tensor, bias: Tensor | None, codes: Sequence[Codes]) -> Linear:
    """The kind of layer for a float weight ``[out, in]``.

    Args:
        weight: The weight.
        bias: ``[out]``, or None.
        codes: What stands for its rows, one above another; nothing where only floats do.
    """
    wide = choose(weight, bias)
    if not codes or len({code.name for code in codes}) > 1:
        return wide
    own = Codes.cat([*codes]).to(weight.device, weight.dtype)
    return Both(layer_of(own, bias), wide)
