"""Number formats: their names, what each is computed in, and where each has a kernel."""

from __future__ import annotations

from functools import cache

import torch

from gem_rag.compute.linear import hardware_bf16
from gem_rag.compute.quantised import KINDS, Codes
from gem_rag.errors import OptionError

#: Weights of these are plain numbers and scales; what is computed is in a float format.
QUANTISED = tuple(KINDS)
#: bfloat16, and for few rows int4 beside it, where that is known to hold the very weights.
BOTH = "bfloat16+int4"
#: What ``dtype=`` takes beside ``auto``.
FORMATS = ("float32", "bfloat16", "float16", *QUANTISED, BOTH)
# Largest deviation of a kernel's product from the same product in plain operations, relative to
# the largest value, that is rounding: half floats keep 8 bits.
ROUNDING = 2e-2


def computed_in(name: str, device: torch.device) -> torch.dtype:
    """The dtype of activations, and of weights that are not quantised.

    Raises:
        OptionError: No such format.
    """
    if name == "auto":
        return torch.float32
    if name == BOTH:
        return torch.bfloat16
    if name in QUANTISED:
        return torch.bfloat16 if device.type != "cpu" or hardware_bf16() else torch.float32
    dtype = getattr(torch, name, None)
    if not isinstance(dtype, torch.dtype) or not dtype.is_floating_point:
        raise OptionError(f"dtype is {name!r}; expected 'auto' or one of {', '.join(FORMATS)}")
    return dtype


def is_available(name: str, device: torch.device) -> bool:
    """Whether this torch has a kernel for a format on this device."""
    return name not in QUANTISED or _works(name, device.type)


def require_available(name: str, device: torch.device) -> None:
    """Raise `OptionError` where this torch has no kernel for a format on this device."""
    if is_available(name, device):
        return
    there = [n for n in FORMATS if is_available(n, device)]
    raise OptionError(
        f"{name} has no kernel in torch {torch.__version__} on {device.type} here; expected "
        f"one of {', '.join(there)}"
    )


@cache
def _works(name: str, device: str) -> bool:
    """Whether a small product comes out right: builds and machines differ in what they have."""
    where = torch.device(device)
    dtype = computed_in(name, where)
    weight = torch.linspace(-1.0, 1.0, 64 * 64).sin().view(64, 64)
    x = torch.linspace(-1.0, 1.0, 3 * 64).view(3, 64)
    try:
        layer = KINDS[name](Codes.of(weight, name).to(where, dtype))
        found = layer(x.to(where, dtype)).float().cpu()
    except (RuntimeError, NotImplementedError):
        return False
    expected = x @ layer.dense().float().cpu().T
    return float((found - expected).abs().max()) <= ROUNDING * float(expected.abs().max())
