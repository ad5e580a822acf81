"""A base too large for one device: each process keeps a part of every decoder block (FSDP)."""

from __future__ import annotations

from typing import Any

import torch
from transformers import PreTrainedModel

from gem_rag.compute.base import Base
from gem_rag.errors import GemError
from gem_rag_train.recipes.config import TrainConfig


def require_shardable(config: TrainConfig) -> None:
    """Raise `GemError` where one process would work alone: it holds no whole block to work with."""
    if config.full_fine_tuning:
        raise GemError("full_fine_tuning with FSDP: only a frozen base is sharded; use an adapter")
    if config.examples:
        raise GemError(
            f"examples is {config.examples} with FSDP: one process would keep the readings; "
            "expected 0 (--set examples=0 --set neighbourhood=0), which reads afresh in each step"
        )
    if config.ranker_weight:
        raise GemError("ranker_weight above 0 with FSDP: one process would rank; expected 0")


def shard(model: PreTrainedModel, device: str, config: TrainConfig) -> None:
    """Leave this process its part of every decoder block, on the device; a block that runs fetches
    the others' parts and drops them again.

    The adapter, the embedding matrix and the output head stay whole, and where the adapter acts on
    the text, so does the last block that embeds: of its pass over the text only keys and values are
    used, and what fetches the parts for the backward pass hangs on a block's output.

    Of accelerate's FSDP settings those count that a frozen base has: ``fsdp_offload_params`` and
    ``fsdp_reshard_after_forward``.

    Args:
        model: In the CPU's memory; the default process group is there.
        device: Where the parts go, this process's.
        config: The recipe.
    """
    from accelerate.utils import FullyShardedDataParallelPlugin
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    settings: Any = FullyShardedDataParallelPlugin(fsdp_version=2)
    mesh = init_device_mesh(torch.device(device).type, (torch.distributed.get_world_size(),))
    blocks = list(Base(model).blocks)
    if config.adapter_scope != "tokens":
        del blocks[config.embed_layers - 1]  # 0 is all layers
    for block in blocks:
        fully_shard(
            block,
            mesh=mesh,
            reshard_after_forward=settings.reshard_after_forward,
            offload_policy=settings.cpu_offload,
        )
