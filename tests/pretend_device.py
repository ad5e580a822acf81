"""A pretended accelerator on a CPU: it knows which tensors a real one would hold.

Tensors that were made on the device, moved there or computed from such ones are the device's, all
others are the host's. What a real device would refuse is refused: an operation on both, numpy of
what was not brought back. Indices from the host, which a device takes after waiting for a copy, are
refused too: once a layer they would be most of a step.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves

FACTORIES = {
    torch.arange, torch.empty, torch.eye, torch.full, torch.linspace, torch.ones, torch.rand,
    torch.randint, torch.randn, torch.tensor, torch.zeros, torch.as_tensor, torch.from_numpy,
}  # fmt: skip
MOVES = {Tensor.to, Tensor.cuda}
TO_HOST = {Tensor.cpu}
FROM_DEVICE = {Tensor.item, Tensor.tolist, Tensor.__int__, Tensor.__bool__, Tensor.__float__}
COPIES = {Tensor.copy_, Tensor.__setitem__}


class WrongDevice(AssertionError):  # noqa: N818
    """A device would have refused this, or waited for a copy."""


class PretendDevice(TorchFunctionMode):
    """Inside, tensors are followed; those given at the start are the device's."""

    def __init__(self, weights: Iterator[Tensor] | list[Tensor]) -> None:
        super().__init__()
        for tensor in weights:
            put(tensor)
        self.waits = 0

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        given = [x for x in tree_leaves((args, kwargs)) if isinstance(x, Tensor)]
        there = any(is_there(x) for x in given)
        if func is Tensor.numpy and there:
            raise WrongDevice("numpy() of a tensor on the device; bring it back with cpu() first")
        if func in FROM_DEVICE and there:
            self.waits += 1
        host = [x for x in given if not is_there(x) and x.dim()]
        values = args[-1] if func in COPIES and isinstance(args[-1], Tensor) else None
        host = [x for x in host if x is not values]
        if there and host and func not in MOVES | TO_HOST and not _is_attribute(func):
            shapes = [tuple(x.shape) for x in host]
            raise WrongDevice(f"{func} of the device's tensors and of the host's {shapes}")
        out = func(*args, **kwargs)
        if func in FACTORIES:
            there = kwargs.get("device") is not None
        elif func in MOVES:
            moved = kwargs.get("device") is not None or any(
                isinstance(a, torch.device | str) for a in args[1:]
            )
            there = there or moved
            out = out.view_as(out) if moved and out is args[0] else out
        elif func in TO_HOST:
            there, out = False, out.view_as(out)
        elif func in COPIES:
            return out
        for x in tree_leaves(out):
            if isinstance(x, Tensor):
                put(x, there)
        return out


def put(tensor: Tensor, there: bool = True) -> None:
    """Say where a tensor is."""
    tensor.is_on_pretended_device = there


def is_there(tensor: Tensor) -> bool:
    """Whether a tensor is on the device."""
    return bool(getattr(tensor, "is_on_pretended_device", False))


def _is_attribute(func: Any) -> bool:
    return getattr(func, "__name__", "") == "__get__"
