"""Attention over grouped heads, in the ways that are fast where it runs."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

FEW = 16  # queries of one row that are folded for torch's own kernel: one operation for twelve
# Scores of this many query-key pairs at a time: they stay in the cache, long prompts need no
# memory of their own, and each part of the queries skips the keys that come after it.
SCORES = 2**20
# Rows of one query each from which products beat torch's kernel: eight of 300 keys took 71 us for
# its 124, one 35 for 24.
BATCHED = 4


def attend(
    q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, window: int, scale: float
) -> Tensor:
    """Attention with grouped heads.

    Query heads that share a key head are folded into rows: one product for all of them. On a CPU
    two products and a softmax then beat torch's own kernel, which is no faster in bfloat16 than in
    float32 and cannot skip keys: 8 x 256 queries after 25 tokens took 18 ms for its 31 in float32,
    13 for 34 in bfloat16 (one thread). For one query, folded too, it is the faster.

    Args:
        q: ``[B, H, Q, D]``.
        k: ``[B, KV, N, D]``, the queries' own last; `v` likewise.
        mask: Additive ``[B or 1, 1, Q, N]``, or None: causal within `window` (0: no window).
        scale: Factor of the scores.

    Returns:
        ``[B, H, Q, D]``.
    """
    (batch, heads, queries, width), (kv_heads, n) = q.shape, k.shape[1:3]
    if q.requires_grad and torch.is_grad_enabled():
        return _for_gradients(
            q, k, v, _causal(queries, n, window, q) if mask is None else mask, scale
        )
    if queries == 1 and not (mask is not None and batch >= BATCHED and q.device.type == "cpu"):
        if mask is None and window:
            k, v = k[:, :, -window:], v[:, :, -window:]
        folded = q.reshape(batch, kv_heads, -1, width)  # (B, KV, G, D)
        out = scaled_dot_product_attention(folded, k, v, mask, scale=scale)
        return out.view(batch, heads, 1, width)
    if batch == 1 and queries <= FEW:
        mask = _causal(queries, n, window, q)[None, None] if mask is None else mask
        folded = q.reshape(batch, kv_heads, -1, width)  # (B, KV, G * Q, D)
        seen = mask.repeat(1, 1, heads // kv_heads, 1)
        out = scaled_dot_product_attention(folded, k, v, seen, scale=scale)
        return out.view(batch, heads, queries, width)
    if q.device.type != "cpu" or q.dtype == torch.float16:  # fused kernels; no overflow of scores
        mask = _causal(queries, n, window, q) if mask is None else mask
        k, v = (x.repeat_interleave(heads // kv_heads, 1) for x in (k, v))
        return scaled_dot_product_attention(q, k, v, mask, scale=scale)
    out = q.new_empty(batch, heads, queries, width)
    step = max(1, SCORES // (batch * heads * n))
    for first in range(0, queries, step):
        last = min(queries, first + step)
        end = n - queries + last  # no query sees what comes after it
        start = max(0, end - (last - first) - window + 1) if window and mask is None else 0
        seen = (
            _causal(last - first, end - start, window, q)
            if mask is None
            else mask[:, :, first:last, :end]
        )
        out[:, :, first:last] = _products(
            q[:, :, first:last], k[:, :, start:end], v[:, :, start:end], seen, scale
        )
    return out


def _for_gradients(q: Tensor, k: Tensor, v: Tensor, mask: Tensor, scale: float) -> Tensor:
    """As `_products`, with nothing written over that a backward pass needs."""
    (batch, heads, queries, width), (kv_heads, n) = q.shape, k.shape[1:3]
    folded = (q * scale).reshape(batch * kv_heads, -1, width)  # (B * KV, G * Q, D)
    scores = torch.bmm(folded, k.flatten(0, 1).transpose(1, 2))
    seen = torch.softmax(scores.view(batch, heads, queries, n) + mask, -1)
    out = torch.bmm(seen.view_as(scores), v.flatten(0, 1))
    return out.view(batch, heads, queries, width)


def _products(q: Tensor, k: Tensor, v: Tensor, mask: Tensor, scale: float) -> Tensor:
    """``[B, H, Q, D]``: softmax of the scores, times the values."""
    (batch, heads, queries, width), (kv_heads, n) = q.shape, k.shape[1:3]
    folded = q.reshape(batch * kv_heads, -1, width)  # (B * KV, G * Q, D)
    k, v = k.flatten(0, 1), v.flatten(0, 1)  # (B * KV, N, D), views
    scores = torch.baddbmm(folded.new_empty(1), folded, k.transpose(1, 2), beta=0, alpha=scale)
    by_head = scores.view(batch, heads, queries, n).add_(mask)
    torch.softmax(by_head, -1, out=by_head)
    return torch.bmm(scores, v).view(batch, heads, queries, width)


def _causal(queries: int, n: int, window: int, like: Tensor) -> Tensor:
    """Additive ``[Q, N]`` for the last Q of N tokens; the minimum, as -inf could give NaN."""
    least = torch.finfo(like.dtype).min
    mask = like.new_full((queries, n), least).triu_(n - queries + 1)
    if window:
        mask += like.new_full((queries, n), least).tril_(n - queries - window)
    return mask
