"""Linear layers by kind, and which kind serves best on this machine."""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

# A trial takes each kind's best of so many turns: other work on the machine comes and goes.
TRIAL_TURNS = 12
# Fewer of a product that takes milliseconds: what comes and goes is little beside it.
LARGE_PRODUCT, LARGE_TURNS = 2**26, 3
TRIAL_ROWS = (1, 64)
# Plain has to be so much faster than packed over few rows and many before it is chosen: on a busy
# machine a trial is coarse, and where packed was slower at all it was by less than this.
MARGIN = 0.7
# Rows are reduced where a layer is so large that one product would outlast the trial.
TRIAL_PRODUCTS = 2**29

_in_place: ContextVar[bool] = ContextVar("in_place", default=False)
_packs: dict[tuple[torch.Size, torch.dtype, int], bool] = {}


class Linear(ABC):
    """A linear layer: ``[n, in] -> [n, out]`` in the weights' dtype; holds them once."""

    weight: Tensor
    bias: Tensor | None

    @abstractmethod
    def __call__(self, x: Tensor) -> Tensor:
        """``[n, in] -> [n, out]``."""

    @abstractmethod
    def dense(self) -> Tensor:
        """The weight as it came, ``[out, in]``, exactly."""

    @property
    def nbytes(self) -> int:
        """Bytes of weight and bias."""
        return self.weight.nbytes + (0 if self.bias is None else self.bias.nbytes)


class Plain(Linear):
    """torch's `linear`, which every device and dtype has."""

    def __init__(self, weight: Tensor, bias: Tensor | None = None) -> None:
        self.weight, self.bias = weight.contiguous(), bias

    def __call__(self, x: Tensor) -> Tensor:
        """``[n, in] -> [n, out]``."""
        return functional.linear(x, self.weight, self.bias)

    def dense(self) -> Tensor:
        """The weight itself."""
        return self.weight


class InPlace(Plain):
    """oneDNN over a weight that stays as and where it is: in memory that processes share.

    Where many rows are multiplied at once, as in bulk work, the kernel's own reordering is little
    beside the product: 1,024 rows of a 576 x 3,072 layer took 14.4 ms packed, 15.1 in place and
    34.7 plain in float32, 7.3, 7.6 and 7.5 in bfloat16 (AMD CPU with AVX-512, one thread).
    """

    def __call__(self, x: Tensor) -> Tensor:
        """``[n, in] -> [n, out]``."""
        if x.requires_grad and torch.is_grad_enabled():
            return super().__call__(x)
        operator: Callable[..., Tensor] = torch.ops.mkldnn._linear_pointwise.default
        return operator(x, self.weight, self.bias, "none", [], "")


class Packed(Linear):
    """oneDNN with the weight in the layout that its kernels read, on a CPU.

    Gradients flow to what it is given, not to its weight. The operators are torch's own, those that
    its compiler uses to freeze a model.
    """

    def __init__(self, weight: Tensor, bias: Tensor | None = None) -> None:
        # No batch size is named: that layout was the fastest, or equal, at 1 to 2,048 rows.
        self.weight: Tensor = torch.ops.mkldnn._reorder_linear_weight(weight.contiguous())
        self.bias = bias
        self._operator: Callable[..., Tensor] = torch.ops.mkldnn._linear_pointwise.default

    def __call__(self, x: Tensor) -> Tensor:
        """``[n, in] -> [n, out]``."""
        if x.requires_grad and torch.is_grad_enabled():
            out: Tensor = _Product.apply(x, self)  # type: ignore[no-untyped-call]
            return out
        return self.product(x)

    def product(self, x: Tensor) -> Tensor:
        """``[n, in] -> [n, out]``, without gradients."""
        return self._operator(x, self.weight, self.bias, "none", [], "")

    @cached_property
    def turned(self) -> Packed:
        """The transposed layer ``[n, out] -> [n, in]``, packed where a gradient first asks."""
        return Packed(self.dense().T)

    def dense(self) -> Tensor:
        """The weight, unpacked: a copy."""
        return self.weight.to_dense()


class _Product(torch.autograd.Function):
    """A packed layer's product, and its gradient with respect to the input: a product too."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, layer: Packed) -> Tensor:
        ctx.layer = layer
        return layer.product(x)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        return ctx.layer.turned.product(gradients[0].contiguous()), None


@contextmanager
def in_place() -> Iterator[None]:
    """Layers made inside the block copy no weight: it lies in memory that processes share."""
    token = _in_place.set(True)
    try:
        yield
    finally:
        _in_place.reset(token)


def joined(weights: Sequence[Tensor]) -> Tensor:
    """Weights ``[out, in]`` of one input as one; inside `in_place` a view, where they follow each
    other in memory.
    """
    if len(weights) == 1:
        return weights[0]
    return (
        weights[0].as_strided((sum(map(len, weights)), weights[0].shape[1]), weights[0].stride())
        if _in_place.get() and _follow_each_other(weights)
        else torch.cat([*weights])
    )


def _follow_each_other(weights: Sequence[Tensor]) -> bool:
    memory, at = weights[0].untyped_storage().data_ptr(), weights[0].data_ptr()
    for weight in weights:
        same = weight.untyped_storage().data_ptr() == memory and weight.is_contiguous()
        if not same or weight.data_ptr() != at:
            return False
        at += weight.nbytes
    return True


def choose(weight: Tensor, bias: Tensor | None = None) -> Linear:
    """The kind that serves this weight ``[out, in]`` best here.

    A trial of some milliseconds decides, once in a process for each shape, dtype and number of
    threads. On an AMD CPU with AVX-512, one thread, a row of a 576 x 3,072 layer took 91 us plain
    and 80 packed in float32 (eight rows 380 and 139), in bfloat16 104 and 50 (134 and 79).
    """
    if not can_pack(weight):
        return Plain(weight, bias)
    if _in_place.get():
        return InPlace(weight, bias)
    key = weight.shape, weight.dtype, torch.get_num_threads()
    if _packs.get(key) is False:
        return Plain(weight, bias)
    packed = Packed(weight, bias)
    if key not in _packs:
        _packs[key] = _gain(Plain(weight, bias), packed) > MARGIN
    return packed if _packs[key] else Plain(weight, bias)


def can_pack(weight: Tensor) -> bool:
    """Whether torch has oneDNN's operators for such a weight."""
    if weight.device.type != "cpu" or not torch.backends.mkldnn.is_available():
        return False
    operators = torch.ops.mkldnn
    if not all(hasattr(operators, n) for n in ("_reorder_linear_weight", "_linear_pointwise")):
        return False
    if weight.dtype == torch.bfloat16:
        return bool(operators._is_mkldnn_bf16_supported())
    return weight.dtype == torch.float32


def _gain(plain: Linear, packed: Linear) -> float:
    """How many times faster packed is: the product over few rows and many."""
    gain = 1.0
    out, width = plain.dense().shape
    for rows in TRIAL_ROWS:
        x = plain.dense().new_zeros(max(1, min(rows, TRIAL_PRODUCTS // (out * width))), width)
        best = {plain: float("inf"), packed: float("inf")}
        for _ in range(TRIAL_TURNS if x.numel() * out < LARGE_PRODUCT else LARGE_TURNS):
            for layer in best:  # in turn, so that what else runs slows both
                start = time.perf_counter()
                layer(x)
                best[layer] = min(best[layer], time.perf_counter() - start)
        gain *= best[plain] / best[packed]
    return gain


def hardware_bf16() -> bool:
    """Whether this CPU computes bfloat16 itself (AVX-512 BF16 or AMX); elsewhere torch emulates."""
    try:  # private or new in torch: the kernel's list is the fallback
        found = torch.cpu.get_capabilities()
        return bool(found.get("avx512_bf16") or found.get("amx_bf16"))
    except (AttributeError, RuntimeError):
        pass
    try:
        flags = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:  # macOS, Windows
        return False
    return "avx512_bf16" in flags or "amx_bf16" in flags
