"""A cache of ours as transformers' forward takes it."""

from __future__ import annotations

import torch
from torch import Tensor
from transformers.cache_utils import Cache as TheirCache
from transformers.cache_utils import DynamicLayer

from gem_rag.compute.kv import Cache, Layer

__all__ = ["TheirCache", "as_theirs"]


class TheirLayer(DynamicLayer):
    """Passes on what transformers asks of a layer.

    Attributes:
        own: The layer of ours.
    """

    is_initialized = True

    def __init__(self, own: Layer) -> None:
        self.own = own

    def update(
        self, key_states: Tensor, value_states: Tensor, *_: object, **__: object
    ) -> tuple[Tensor, Tensor]:
        """Append ``[B, H, T, D]`` keys and values and return all of them."""
        return self.own.update(key_states, value_states)

    def get_seq_length(self) -> int:
        """How many tokens the longest row holds."""
        return self.own.length

    def reorder_cache(self, beam_idx: torch.LongTensor) -> None:
        """Beams are not searched."""
        raise NotImplementedError


def as_theirs(cache: Cache) -> TheirCache:
    """For one call: what is appended is appended to ours."""
    return TheirCache(layers=[TheirLayer(layer) for layer in cache.layers])
