"""How likely each token of an answer was, and what else might have stood there."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

from torch import Tensor

from gem_rag.text.codec import TextCodec

MOST = 20  # other tokens, as OpenAI has it
_PART = "\ufffd"  # what a token that is part of a character decodes to


class Likelihoods:
    """Notes the logits of one answer's tokens as they are chosen.

    The engine's thread notes, the event loop reads: what is noted is only added to.

    Args:
        codec: Shows tokens.
        end_ids: Tokens that end an answer, and are no part of it.
        top: How many other tokens are told of at each place.
    """

    def __init__(self, codec: TextCodec, end_ids: Collection[int], top: int) -> None:
        self._codec = codec
        self._end_ids = end_ids
        self._top = top
        self._places: list[_Place] = []
        self._told = 0

    def note(self, generated: list[int], logits: Tensor) -> Tensor:
        """A logits hook: logits ``[vocab]`` as they are, before temperature."""
        if self._places:
            self._places[-1].settle(generated[-1])
        self._places.append(_Place(logits.float().log_softmax(0), self._top))
        return logits

    def more(self, ids: Sequence[int]) -> dict[str, Any] | None:
        """What has not been told yet, in OpenAI's shape; None where there is nothing.

        Args:
            ids: The answer's tokens so far.
        """
        fresh = range(self._told, min(len(ids), len(self._places)))
        self._told = max(self._told, fresh.stop)
        content = [
            {
                **self._shown(ids[place], self._places[place].of(ids[place])),
                "top_logprobs": [self._shown(*one) for one in self._places[place].best],
            }
            for place in fresh
            if ids[place] not in self._end_ids
        ]
        return {"content": content, "refusal": None} if content else None

    def _shown(self, token: int, share: float) -> dict[str, Any]:
        text = self._codec.decode([token])
        known = None if _PART in text else list(text.encode())
        return {"token": text, "logprob": max(share, -9999.0), "bytes": known}


class _Place:
    """One token's place: all shares until the token is known, then its own."""

    def __init__(self, shares: Tensor, top: int) -> None:
        found = shares.topk(min(top, shares.numel()))
        self.best = list(zip(found.indices.tolist(), found.values.tolist(), strict=True))
        self._shares: Tensor | None = shares
        self._own = 0.0

    def settle(self, token: int) -> None:
        """The token is chosen: the others' shares can go."""
        if self._shares is not None:
            self._own = float(self._shares[token])
            self._shares = None

    def of(self, token: int) -> float:
        """The share of the token that was chosen."""
        shares = self._shares
        return self._own if shares is None else float(shares[token])
