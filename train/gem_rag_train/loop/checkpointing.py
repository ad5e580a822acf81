"""Activation checkpointing that keeps the KV cache.

transformers' own drops the cache, which the special tokens read; here a layer's keys and values go
in and come out of the checkpointed function, so that running it again appends nothing twice.
"""

from __future__ import annotations

from collections.abc import Callable
from contextvars import copy_context
from typing import Any

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from gem_rag.compute.base import Base
from gem_rag.compute.kv import Cache, GrowingLayer
from gem_rag.compute.theirs import TheirCache, as_theirs


def checkpoint_activations(base: Base) -> None:
    """Make every decoder block compute its activations again in the backward pass."""
    for index, block in enumerate(base.blocks):
        block.forward = _checkpointed(block.forward, index, base.num_layers)


def _checkpointed(forward: Callable[..., Tensor], index: int, layers: int) -> Callable[..., Tensor]:
    def run(hidden: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        name = next((k for k, v in kwargs.items() if isinstance(v, TheirCache)), None)
        if name is None or not torch.is_grad_enabled():
            return forward(hidden, *args, **kwargs)
        layer: GrowingLayer = kwargs.pop(name).layers[index].own
        context = copy_context()  # the adapter is switched by it, and backward runs elsewhere

        def block(hidden: Tensor, keys: Tensor | None, values: Tensor | None) -> tuple[Any, ...]:
            own = GrowingLayer(keys, values)
            cache = Cache([own if i == index else GrowingLayer() for i in range(layers)])
            out = context.copy().run(forward, hidden, *args, **{name: as_theirs(cache)}, **kwargs)
            return out, own.keys, own.values

        out, keys, values = checkpoint(block, hidden, layer.keys, layer.values, use_reentrant=False)
        layer.keys, layer.values = keys, values
        result: Tensor = out
        return result

    return run
