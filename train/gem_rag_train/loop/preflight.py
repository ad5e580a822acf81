"""Before the first step: does the run fit this machine, and is the machine set up for it."""

from __future__ import annotations

import ctypes
import json
import math
import sys
from collections.abc import Sequence
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path

import torch
from torch import nn

from gem_rag.checkpoints.names import resolve_base
from gem_rag.compute.base import Base
from gem_rag.errors import GemError, MissingExtraError
from gem_rag.model import GemModel
from gem_rag_train.loop.sharding import require_shardable
from gem_rag_train.monitor.live import summary_writer
from gem_rag_train.recipes.config import TrainConfig
from gem_rag_train.recipes.precision import require_precision

BYTES_PER_PARAMETER = 16  # gradient, AdamW's two moments, the best weights so far; all fp32

EXTRA = ("accelerate", "matplotlib", "psutil", "scipy", "tomli_w")  # what a run comes to need
CGROUP = Path("/sys/fs/cgroup")


def require_extra() -> None:
    """Raise `MissingExtraError` now, not when the last step is done."""
    if not all(map(find_spec, EXTRA)):
        raise MissingExtraError("training", "train")


def require_settings(config: TrainConfig, device: torch.device, *, shards: bool) -> None:
    """Raise `GemError` if these settings do not go with the device, or with what is installed.

    Args:
        config: The recipe.
        device: Of this process.
        shards: Whether the base is shared out among the processes.
    """
    if shards:
        require_shardable(config)
    for precision in (config.mixed_precision, config.reading_precision):
        require_precision(precision, device)
    if config.tensorboard:
        summary_writer()  # at the door, not after hours of reading


def require_room_for_base(config: TrainConfig, device: torch.device) -> None:
    """Raise `GemError` if a base that the CPU runs in float32 is larger than the free memory.

    Weights that are stored so are mapped from their file and take none.
    """
    from safetensors import SafetensorError, safe_open

    if device.type != "cpu":
        return
    needed = 0
    for file in _weights_of(resolve_base(config.base)):
        with suppress(SafetensorError, OSError), safe_open(file, "pt") as tensors:  # see loading
            found = [tensors.get_slice(name) for name in tensors.keys()]  # noqa: SIM118
            needed += sum(4 * math.prod(t.get_shape()) for t in found if t.get_dtype() != "F32")
    free = free_memory(device)
    if needed > free:
        raise GemError(
            f"base {config.base} takes {needed / 1e9:.1f} GB, but {free / 1e9:.1f} GB of memory "
            "are free; free some, or choose a smaller base"
        )


def _weights_of(folder: Path) -> list[Path]:
    """The files that are loaded: a folder may hold the same weights in another form."""
    index = folder / "model.safetensors.index.json"
    if not index.exists():
        return [folder / "model.safetensors"]
    names = json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()
    return [folder / name for name in sorted(set(names))]


@torch.no_grad()
def require_finite(model: GemModel) -> None:
    """Raise `GemError` if the model gives no numbers to learn from."""
    ids = model.codec.encode_texts(["A text to see."], None)[0].ids
    finite = model.embedder.forward_texts([ids], "document").isfinite().all()
    model.reader.forget_preambles()
    if not finite:
        raise GemError(
            f"base {model.config.base.name}, or the checkpoint of start_from, gives NaN or "
            f"infinity for a plain text in {model.base.dtype}: its weights are damaged (fetch them "
            "again), or float16 is too small for it (--set mixed_precision=bf16)"
        )


def require_context(model: GemModel, config: TrainConfig) -> None:
    """Raise `GemError` if a row of `max_length` tokens is longer than the context window."""
    most = min(model.embedder.longest_text("query"), model.embedder.longest_text("document"))
    if config.trains_language:
        most = min(most, model.embedder.longest_text("document") // 2)  # a suffix may be as long
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
    return base.kv_bytes_per_token // base.dtype.itemsize * 4


def free_memory(device: torch.device) -> int:
    """Bytes that can still be had."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    import psutil

    return int(min(psutil.virtual_memory().available, _left_in_container()))


def _left_in_container() -> float:
    """Bytes up to the limit of a container (cgroup v2); infinite where there is none."""
    try:
        most = (CGROUP / "memory.max").read_text()
        used = int((CGROUP / "memory.current").read_text())
        facts = dict(line.split() for line in (CGROUP / "memory.stat").read_text().splitlines())
        cached = sum(int(facts.get(name, 0)) for name in ("inactive_file", "active_file"))
        return int(most) - (used - cached)  # cached files give way
    except (OSError, ValueError):  # "max" is no number
        return math.inf


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
