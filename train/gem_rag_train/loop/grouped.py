"""Attention for a few queries over many keys whose heads are shared (grouped-query attention).

A training step on kept readings has K queries a text and a whole text of keys. transformers' own
attention first copies every key and value to each query head that shares it, in every layer, and
sums their gradients over the copies afterwards; here the query heads of a group stand as rows of
one matrix product with the keys they share. Same numbers, 1.3 times the steps (docs/benchmarks.md).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from gem_rag.compute.base import Base

NAME = "gem_grouped"
FEW = 16  # queries; with more, the scores are too large to be written out


def use_grouped_attention(base: Base) -> None:
    """Make a base attend like this where it used SDPA; for the rest of its life."""
    if base.config._attn_implementation == "sdpa":
        AttentionInterface.register(NAME, _attention)
        AttentionMaskInterface.register(NAME, sdpa_mask)
        base.model.set_attn_implementation(NAME)


def _attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    **options: Any,
) -> tuple[Tensor, None]:
    """``[B, H, Q, D]`` over ``[B, G, N, D]``, additive mask ``[B, 1, Q, N]``; ``[B, Q, H, D]``."""
    batch, heads, count, size = query.shape
    groups = key.shape[1]
    if attention_mask is None or count > FEW or groups == heads:
        found: tuple[Tensor, None] = sdpa_attention_forward(
            module, query, key, value, attention_mask, scaling=scaling, **options
        )
        return found
    scale = size**-0.5 if scaling is None else scaling
    rows = (scale * query).reshape(batch, groups, -1, size)  # (B, G, H/G * Q, D)
    scores = (rows @ key.transpose(2, 3)).view(batch, groups, -1, count, key.shape[2])
    shares = (scores + attention_mask.unsqueeze(2)).softmax(-1, dtype=torch.float32)
    mixed = shares.to(value.dtype).view(batch, groups, -1, key.shape[2]) @ value
    return mixed.view(batch, heads, count, -1).transpose(1, 2), None
