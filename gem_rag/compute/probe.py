"""Whether two forwards of one model agree: a short text through both."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from gem_rag.compute.attention import Role, Tokens, together
from gem_rag.compute.base import Base
from gem_rag.compute.kv import Cache, empty_cache

Run = Callable[[Tensor, Tensor, Any, Cache], Tensor]

#: Largest deviation of a last hidden state, relative to the largest absolute value, that is taken
#: for rounding. Measured on the default model and on tiny ones of every family.
BOUNDS = {torch.float32: 1e-4, torch.bfloat16: 6e-2, torch.float16: 1e-2}
HEAD, LENGTHS = 8, (20, 13)


def deviation(found: Tensor, expected: Tensor) -> float:
    """Largest difference relative to the largest expected value; NaN stays NaN."""
    return float((found.float() - expected.float()).abs().max() / expected.float().abs().max())


def outputs(base: Base, run: Run) -> Tensor:
    """Last hidden states of real tokens ``[n, hidden]``.

    Two rows: a plain causal start, a continuation with padding and masks, one more token each.
    """
    rows, width = len(LENGTHS), max(LENGTHS)
    count = rows * (HEAD + width + 1)
    vocabulary = base.model.get_input_embeddings().weight.shape[0]
    ids = torch.arange(count, device=base.device).mul(7919).add(13) % vocabulary
    start, text, last = ids.view(rows, -1).split([HEAD, width, 1], 1)
    index = torch.arange(HEAD + width, device=base.device).expand(rows, -1)
    lengths = torch.tensor(LENGTHS, device=base.device)[:, None] + HEAD
    read = Tokens(index, torch.where(index < lengths, Role.PREFIX, Role.PADDING))
    added = Tokens(index[:, HEAD:], read.roles[:, HEAD:])
    more = Tokens(lengths, torch.full_like(lengths, Role.PREFIX))
    cache = empty_cache(base.num_layers)
    first = run(start, index[:, :HEAD], None, cache)
    second = run(text, added.positions, base.masks(added, read), cache)
    third = run(last, lengths, base.masks(more, together(read, more)), cache)
    return torch.cat([first.flatten(0, 1), second[added.roles != Role.PADDING], third[:, 0]])
