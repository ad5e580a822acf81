"""Several readings that answer one question together: rows of one request, one token for all.

Parallel context-of-experts decoding (PCED, arXiv 2601.08670): every reading is exact and reads
nothing again; where the passages meet is the choice of the next token.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from gem_rag.compute.reading import Reading

# Chosen on held-out questions, where any contrast was worse than none: see docs/benchmarks.md.
CONTRAST, TRUST = 0.0, 2.5


@dataclass(frozen=True, eq=False)
class Committee:
    """Readings that are asked the same question and agree on each next token.

    The next token t is that of the largest ``(1 + b) log p_k(t) - b log p_0(t) + g log r_k`` over
    all readings k and tokens: p_k follows reading k, p_0 no text at all. It is appended to all.
    Sampling, hooks and schemas see each token by the best of its scores.

    Attributes:
        readings: Who answers; of one model, in the order that `Generation.sources` counts them.
        weights: r_k, how much each is worth, above 0; only their ratios matter. None: all the same.
        contrast: b, how much more a token counts for that becomes likelier by the reading; above 0
            the empty text takes a row of its own.
        trust: g, how much the weights count for.

    Raises:
        ValueError: There are no readings, not as many weights, or a number is out of its range.
    """

    readings: Sequence[Reading]
    weights: Sequence[float] | None = None
    contrast: float = CONTRAST
    trust: float = TRUST

    def __post_init__(self) -> None:
        if not self.readings:
            raise ValueError("a committee of no readings; expected one at least")
        weights = self.weights
        if weights is not None and len(weights) != len(self.readings):
            raise ValueError(f"{len(weights)} weights of {len(self.readings)} readings; as many")
        if weights is not None and not all(0 < weight < float("inf") for weight in weights):
            raise ValueError(f"weights are {list(weights)}; expected numbers above 0")
        if self.contrast < 0 or self.trust < 0:
            raise ValueError(f"contrast {self.contrast}, trust {self.trust}; expected both >= 0")

    def scores(self, logits: Sequence[Tensor]) -> Tensor:
        """What each token counts for by each reading, float32 ``[k, vocab]``.

        Args:
            logits: Of the next token, ``[vocab]``: each reading's, then the empty text's where
                there is contrast.
        """
        by_row = torch.stack(list(logits)).float().log_softmax(-1)  # (k or k + 1, vocab)
        if self.contrast:
            by_row = (1 + self.contrast) * by_row[:-1] - self.contrast * by_row[-1]
        return by_row if self._worth is None else by_row + self._worth.to(by_row.device)

    @cached_property
    def _worth(self) -> Tensor | None:
        """g log r_k, ``[k, 1]``."""
        if self.weights is None:
            return None
        return self.trust * torch.tensor(self.weights).log()[:, None]


After = Reading | Committee  # what an answer can go on from
