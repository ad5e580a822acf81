"""Computing in bfloat16 where the hardware has it; weights and what is kept stay what they are."""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import Any, Literal, get_args

import torch

from gem_rag.errors import GemError

Precision = Literal["no", "bf16"]
PRECISIONS = get_args(Precision)


def autocast(device: torch.device, precision: Precision) -> AbstractContextManager[Any]:
    """Compute in this precision inside the block."""
    return torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16")


def require_precision(precision: Precision) -> None:
    """Raise `GemError` if the hardware does not compute in the precision asked for."""
    from accelerate.utils import is_bf16_available

    if precision == "bf16" and not is_bf16_available():
        raise GemError(
            "the recipe asks for precision 'bf16', which this device does not have; set "
            "mixed_precision and reading_precision to 'no'"
        )
