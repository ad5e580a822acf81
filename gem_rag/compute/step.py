"""One pass for several rows that generate: their new tokens in, logits of what comes next out."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from gem_rag.compute.attention import Role, Tokens
from gem_rag.compute.batches import padded
from gem_rag.compute.kv import Cache
from gem_rag.compute.parts import Parts
from gem_rag.compute.skill import Skilled, acting


def advance(
    parts: Parts,
    ids: Sequence[Sequence[int]],
    lengths: Sequence[int],
    cache: Cache,
    skilled: Sequence[Skilled | None] = (),
    wanted: Sequence[int] = (),
) -> Tensor:
    """Run each row's new tokens after what its cache holds.

    A single row runs without a mask, exactly as the base model would; several rows are padded on
    the right and masked where they differ in length.

    Args:
        parts: The model's parts.
        ids: Each row's new token ids, one at least.
        lengths: How many tokens each row's cache holds.
        cache: Takes the new keys and values at each row's own end, and gives ``[B, H, N, D]`` of
            all so far, N the longest row's.
        skilled: Each row's skill, and where in the row it acts; none: no row has one.
        wanted: After how many of its last tokens each row wants logits; none: after the last.

    Returns:
        Logits after these tokens, row by row, ``[sum of wanted, vocab]``.
    """
    inputs, valid = (part.to(parts.base.device) for part in padded(ids))
    held = torch.tensor(lengths, device=inputs.device)
    index = torch.arange(inputs.shape[1], device=inputs.device)
    positions = held[:, None] + index
    counts = [len(own) for own in ids]
    mask = None
    # Where guesses are checked the mask is made here once, and not in every layer.
    if len(set(lengths)) > 1 or len(set(counts)) > 1 or max(wanted, default=1) > 1:
        queries = Tokens(positions, torch.where(valid, Role.PREFIX, Role.PADDING))
        mask = parts.base.masks(queries, _keys(held, valid))
    acts = [*parts.everywhere(parts.generates_adapted), *acting(skilled, lengths, positions)]
    hidden = parts.run(inputs, positions, mask, cache, acts)
    if inputs.shape[1] == 1:
        return parts.logits(hidden[:, 0])
    places = [
        row * inputs.shape[1] + place
        for row, (count, last) in enumerate(zip(counts, wanted or [1] * len(counts), strict=True))
        for place in range(count - last, count)
    ]
    return parts.logits(hidden.flatten(0, 1)[torch.tensor(places, device=inputs.device)])


def _keys(held: Tensor, valid: Tensor) -> Tokens:
    """What a cache holds after this pass: of each row its own tokens, then padding."""
    width = int((held + valid.shape[1]).max())
    index = torch.arange(width, device=held.device).expand(len(held), width)
    real = index < (held + valid.sum(1))[:, None]
    return Tokens(index, torch.where(real, Role.PREFIX, Role.PADDING))
