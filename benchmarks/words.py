"""Texts to fill an index with: words drawn as often as a real text has them."""

from __future__ import annotations

import numpy as np

WORDS = 90  # a chunk's: some 120 tokens


class Words:
    """Draws from a text's words, one by one: real words, in no order.

    So the common ones are common, rare ones rare, and no text stands twice.
    """

    def __init__(self, text: str, seed: int = 0) -> None:
        self._words = text.split()
        self._rng = np.random.default_rng(seed)

    def chunks(self, count: int, words: int = WORDS) -> list[str]:
        """So many texts."""
        picked = self._rng.integers(len(self._words), size=(count, words))
        return [" ".join([self._words[i] for i in row]) for row in picked.tolist()]
