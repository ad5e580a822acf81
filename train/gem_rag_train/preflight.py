"""Before the first step: does the run fit this machine, and is the machine set up for it."""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Sequence

import torch
from torch import nn

from gem_rag.base import Base
from gem_rag.errors import GemError
from gem_rag.model import GemModel
from gem_rag_train.config import TrainConfig

BYTES_PER_PARAMETER = 16  # gradient, AdamW's two moments, the best weights so far; all fp32


def require_context(model: GemModel, config: TrainConfig) -> None:
    """Raise `GemError` if a row of `max_length` tokens is longer than the context window."""
    most = min(model.longest_text("query"), model.longest_text("document"))
    if config.trains_language:
        most = min(most, model.longest_text("document") // 2)  # a suffix may be as long
    if config.max_length > most:
        raise GemError(
            f"max_length is {config.max_length}, but the context window of {model.max_context} "
            f"tokens leaves {most} for a text; lower max_length"
        )


def require_memory(
    base: Base, parameters: Sequence[nn.Parameter], *, live: int, read: int, advice: str
) -> None:
    """Raise `GemError` if a step would clearly not fit; an estimate, on the low side.

    Args:
        base: The base model, loaded already.
        parameters: What is trained.
        live: Tokens whose activations a step keeps for the backward pass at once.
        read: Tokens whose keys and values it keeps.
        advice: What to lower.
    """
    state = BYTES_PER_PARAMETER * sum(p.numel() for p in parameters)
    needed = state + live * activation_bytes(base) + read * cache_bytes(base)
    free = free_memory(base.device)
    if needed > free:
        raise GemError(
            f"a training step needs some {needed / 1e9:.1f} GB ({state / 1e9:.1f} GB of it for the "
            f"optimizer), but {free / 1e9:.1f} GB of memory are free; {advice}"
        )


def activation_bytes(base: Base) -> int:
    """Roughly one token's activations in all layers, fp32, kept for the backward pass."""
    inner = int(getattr(base.config, "intermediate_size", 4 * base.hidden_size))
    return base.num_layers * (8 * base.hidden_size + 5 * inner) * 4


def cache_bytes(base: Base) -> int:
    """One token's keys and values in all layers, fp32."""
    heads = int(base.config.num_attention_heads)
    width = int(getattr(base.config, "head_dim", None) or base.hidden_size // heads)
    shared = int(getattr(base.config, "num_key_value_heads", None) or heads)
    return base.num_layers * 2 * shared * width * 4


def free_memory(device: torch.device) -> int:
    """Bytes that can still be had."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    import psutil

    return int(psutil.virtual_memory().available)


def keep_freed_memory() -> None:
    """Tell glibc to keep freed memory: page faults cost more than half the time of CPU training."""
    if not sys.platform.startswith("linux"):
        return
    m_trim_threshold, m_mmap_max = -1, -4
    try:
        libc = ctypes.CDLL(None)
        libc.mallopt(m_mmap_max, 0)
        libc.mallopt(m_trim_threshold, 2**31 - 1)
    except (OSError, AttributeError):  # another libc: slower, nothing else
        pass
