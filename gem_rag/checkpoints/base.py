"""A base model's folder to the loaded model and tokenizer."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from gem_rag.compute.linear import hardware_bf16
from gem_rag.errors import CheckpointError
from gem_rag.progress import quiet_transformers

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


def load_base(
    folder: Path,
    *,
    device: str = "auto",
    dtype: str = "auto",
    prepare: Callable[[PreTrainedModel], object] | None = None,
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """The base model and tokenizer in a folder; safetensors only, no code from the folder."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    where = chosen_device(device)
    if dtype == "auto":
        chosen: Any = torch.float32 if where.type == "cpu" else "auto"
    else:
        chosen = getattr(torch, str(dtype).removeprefix("torch."), None)
        if not isinstance(chosen, torch.dtype):
            raise ValueError(f"dtype is {dtype!r}; expected 'auto', 'float32', 'bfloat16', ...")
    try:
        with quiet_transformers():
            tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
            model = AutoModelForCausalLM.from_pretrained(
                folder, dtype=chosen, use_safetensors=True, trust_remote_code=False
            )
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{folder} holds no base model that loads: {error}") from error
    if prepare is not None:
        prepare(model)
    placed: Any = model
    return placed.to(where), tokenizer


def chosen_dtype(dtype: str, device: torch.device) -> str:
    """A dtype's name, or ``auto``: what the environment variable GEM_RAG_DTYPE says; else on a CPU
    bfloat16 where it computes that itself and float32 elsewhere, on other devices the base's own.
    """
    if dtype != "auto":
        return str(dtype).removeprefix("torch.")
    named = os.environ.get("GEM_RAG_DTYPE", "auto")
    if named != "auto" or device.type != "cpu":
        return named
    return "bfloat16" if hardware_bf16() else "float32"


def chosen_device(device: str) -> torch.device:
    """A device's name, or ``auto``: CUDA, then MPS, then the CPU."""
    if device != "auto":
        return torch.device(device)
    if torch.cuda.is_available():
        return torch.device("cuda")
    return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
