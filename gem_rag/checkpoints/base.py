"""A base model's folder to the loaded model and tokenizer."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from gem_rag.compute.formats import BOTH, QUANTISED, computed_in
from gem_rag.compute.linear import hardware_bf16
from gem_rag.errors import CheckpointError, OptionError
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
    """The base model and tokenizer in a folder; safetensors only, no code from the folder.

    Args:
        folder: The base's.
        device: As for `GemModel.from_pretrained`.
        dtype: A float format's name; ``auto`` is float32 on a CPU, elsewhere the base's own.
        prepare: Called with the model in the CPU's memory, before it goes to the device.

    Raises:
        CheckpointError: Nothing there that loads.
        OptionError: No such format, or one whose weights are made by `load_quantised`.
    """
    where, name = chosen_device(device), str(dtype).removeprefix("torch.")
    if name in QUANTISED:
        raise OptionError(
            f"dtype is {name!r}, in which a base is not trained: expected 'float32' or 'bfloat16'"
        )
    own = dtype == "auto" and where.type != "cpu"
    model = load_floats(folder, None if own else computed_in(name, where))
    if prepare is not None:
        prepare(model)
    placed: Any = model
    return placed.to(where), load_tokenizer(folder)


def load_tokenizer(folder: Path) -> PreTrainedTokenizerBase:
    """A base's tokenizer."""
    from transformers import AutoTokenizer

    with _loading(folder), quiet_transformers():
        return AutoTokenizer.from_pretrained(folder, trust_remote_code=False)


def load_floats(folder: Path, dtype: torch.dtype | None = None) -> PreTrainedModel:
    """A base's weights in a float format; None is the one they are stored in."""
    from transformers import AutoModelForCausalLM

    with _loading(folder), quiet_transformers():
        return AutoModelForCausalLM.from_pretrained(
            folder, dtype=dtype or "auto", use_safetensors=True, trust_remote_code=False
        )


@contextmanager
def _loading(folder: Path) -> Iterator[None]:
    try:
        yield
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{folder} holds no base model that loads: {error}") from error


def chosen_dtype(dtype: str, device: torch.device) -> str:
    """A number format's name, or ``auto``: what the environment variable GEM_RAG_DTYPE says; else
    on a CPU `BOTH` where it computes bfloat16 itself and float32 elsewhere, on other devices the
    base's own.
    """
    named = str(dtype).removeprefix("torch.")
    if named == "auto":
        named = os.environ.get("GEM_RAG_DTYPE", "").removeprefix("torch.") or "auto"
    if named != "auto" or device.type != "cpu":
        return named
    return BOTH if hardware_bf16() else "float32"


def chosen_device(device: str) -> torch.device:
    """A device's name, or ``auto``: what the environment variable GEM_RAG_DEVICE says; else CUDA,
    then MPS, then the CPU.

    Raises:
        OptionError: No device is called that, or this machine has none of it.
    """
    named = os.environ.get("GEM_RAG_DEVICE", "") if device == "auto" else device
    there: dict[str, Callable[[], bool]] = {
        "cuda": torch.cuda.is_available,
        "mps": torch.backends.mps.is_available,
    }
    if named in ("", "auto"):
        return torch.device(next((name for name, is_there in there.items() if is_there()), "cpu"))
    try:
        chosen = torch.device(named)
    except RuntimeError:
        raise OptionError(
            f"device is {named!r}; expected auto, cpu, cuda, cuda:1, mps or what else torch knows"
        ) from None
    if chosen.type in there and not there[chosen.type]():
        raise OptionError(f"device is {named!r}, and torch {torch.__version__} finds none here")
    return chosen
