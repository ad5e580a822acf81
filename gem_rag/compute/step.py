"""One step of generation: what several rows have come to, to the logits of their next tokens."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from transformers.cache_utils import Cache

from gem_rag.compute.attention import Role, Tokens, together
from gem_rag.compute.batches import padded
from gem_rag.compute.kv import empty_cache
from gem_rag.compute.parts import Parts
from gem_rag.compute.reading import Reading, collate


class Steps:
    """Rows that go on side by side, one token each at a time.

    A single row runs without masks, exactly as the base model would; several rows are padded on the
    right and masked. Each step sets and leaves its own contexts, so one that is suspended leaves
    nothing switched on in its caller's thread.

    Args:
        parts: The model's parts.
        prompts: Token ids of each row's prompt.
        after: The reading each row goes on from; None: from nothing.
        room: How many tokens will be appended at most.
    """

    def __init__(
        self,
        parts: Parts,
        prompts: Sequence[Sequence[int]],
        after: Sequence[Reading] | None,
        room: int,
    ) -> None:
        self._parts = parts
        self._prompts = prompts
        self._after = after
        self._room = room
        self._tokens: Tokens
        self._cache: Cache

    def prefill(self) -> Tensor:
        """Run the prompts: logits of each row's first token, ``[B, vocab]``."""
        base = self._parts.base
        ids, valid = (part.to(base.device) for part in padded(self._prompts))
        width, lengths = ids.shape[1], valid.sum(1)
        with torch.inference_mode():
            if self._after is None:
                self._cache = empty_cache(base.num_layers, room=self._room)
                nothing = lengths.new_zeros(len(self._prompts), 0)
                self._tokens = Tokens(nothing, nothing)
            else:
                self._tokens, self._cache = collate(self._after, room=width + self._room)
            index = torch.arange(width, device=base.device).expand(len(self._prompts), -1)
            hidden = self._run(ids, index, valid)
            last = hidden[torch.arange(len(lengths), device=base.device), lengths - 1]
            return base.logits(last)

    def next(self, tokens: Sequence[int]) -> Tensor:
        """Run each row's last token: logits of the ones after them, ``[B, vocab]``."""
        last = torch.tensor(tokens, device=self._parts.base.device)[:, None]
        with torch.inference_mode():
            hidden = self._run(last, torch.zeros_like(last), torch.ones_like(last).bool())
            return self._parts.base.logits(hidden[:, -1])

    def keep(self, rows: Sequence[int]) -> None:
        """Go on with these rows only."""
        index = torch.tensor(rows, device=self._parts.base.device)
        with torch.inference_mode():
            self._cache.batch_select_indices(index)
        self._tokens = self._tokens.rows(index)

    def _run(self, ids: Tensor, index: Tensor, valid: Tensor) -> Tensor:
        starts = self._tokens.lengths[:, None]
        queries = Tokens(starts + index, torch.where(valid, Role.PREFIX, Role.PADDING))
        self._tokens = together(self._tokens, queries)
        plain = bool((self._tokens.roles != Role.PADDING).all())
        mask = None if plain else self._parts.base.masks(queries, self._tokens)
        acting = self._parts.everywhere(self._parts.generates_adapted)
        return self._parts.base.run(ids, queries.positions, mask, self._cache, acting)
