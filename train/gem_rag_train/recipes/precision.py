"""Computing in bfloat16 where the hardware has it; weights and what is kept stay what they are."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from contextlib import AbstractContextManager
from typing import Any, Literal, get_args

import torch

from gem_rag.errors import GemError

Precision = Literal["no", "bf16", "auto"]
PRECISIONS = get_args(Precision)
CPU_UNITS = ("avx512_bf16", "amx_bf16", "bf16")  # of x86, and of ARM


def autocast(device: torch.device, precision: Precision) -> AbstractContextManager[Any]:
    """Compute in this precision inside the block."""
    enabled = resolved(precision, device) == "bf16"
    return torch.autocast(device.type, torch.bfloat16, enabled=enabled)


def resolved(precision: Precision, device: torch.device) -> Literal["no", "bf16"]:
    """What "auto" is on this device: "bf16" where it computes in it, else "no"."""
    if precision == "auto":
        return "bf16" if has_bf16(device) else "no"
    return precision


def has_bf16(device: torch.device) -> bool:
    """Whether this device has units for bfloat16. A CPU without them emulates it, far slower."""
    if device.type == "cpu":
        # Private names of torch are not asked; one before `get_capabilities` counts as without.
        capabilities: Mapping[str, Any] = getattr(torch.cpu, "get_capabilities", dict)()
        return any(capabilities.get(unit, False) for unit in CPU_UNITS)
    from accelerate.utils import is_bf16_available

    return bool(is_bf16_available())


def require_precision(precision: Precision, device: torch.device) -> None:
    """Raise `GemError` if the device cannot compute in this precision; warn if it would be slow."""
    if precision != "bf16" or has_bf16(device):
        return
    advice = "set mixed_precision and reading_precision to 'auto' or 'no'"
    if device.type != "cpu":
        raise GemError(
            f"the recipe asks for precision 'bf16', which {device} does not have; {advice}"
        )
    warnings.warn(
        f"this CPU computes 'bf16' by emulation, several times slower than float32; {advice}",
        stacklevel=2,
    )
