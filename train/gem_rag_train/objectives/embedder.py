"""Texts to vectors with gradients: afresh, or from kept readings."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from gem_rag.compute.batches import by_budget
from gem_rag.model import GemModel
from gem_rag_train.data.batches import Text
from gem_rag_train.kept.readings import KeptReadings
from gem_rag_train.recipes.precision import Precision, autocast

TOKENS_PER_BATCH = 4096  # in one forward; large, because each batch costs a backward pass too
KEPT_ROWS = 64  # in one forward from kept readings


class TrainedEmbedder:
    """Embeds texts by a model that is trained.

    Args:
        model: Embeds.
        max_length: Tokens of a text.
        precision: What is computed in.
        tokens_per_batch: In one forward, where texts are read afresh.
        from_kept: Whether there will be readings: padding then costs little, and a forward takes
            `KEPT_ROWS` texts of any length.

    Attributes:
        kept: Readings of all texts; None reads them afresh.
    """

    def __init__(
        self,
        model: GemModel,
        *,
        max_length: int,
        precision: Precision,
        tokens_per_batch: int = TOKENS_PER_BATCH,
        from_kept: bool = False,
    ) -> None:
        self.kept: KeptReadings | None = None
        self._model = model
        self._max_length = max_length
        self._precision = precision
        self._tokens_per_batch = tokens_per_batch
        self._from_kept = from_kept

    @property
    def device(self) -> torch.device:
        """Where the vectors are."""
        return self._model.base.device

    def batches(self, texts: Sequence[Text]) -> tuple[list[list[int]], list[int]]:
        """Indices in batches of one task and similar length, and each text's length in tokens."""
        lengths = [max(1, len(ids)) for ids in self._tokenize(texts)]
        batches: list[list[int]] = []
        for task in ("query", "document"):
            mine = [i for i, (_, t) in enumerate(texts) if t == task]
            batches += self._cut(sorted(mine, key=lambda i: -lengths[i]), lengths)
        return batches, lengths

    def _cut(self, order: Sequence[int], lengths: Sequence[int]) -> Iterator[list[int]]:
        """What one forward takes."""
        if not self._from_kept:
            yield from by_budget(order, lengths, self._tokens_per_batch)
            return
        for start in range(0, len(order), KEPT_ROWS):
            yield list(order[start : start + KEPT_ROWS])

    def embed(self, texts: Sequence[Text]) -> Tensor:
        """``[B, d]`` with gradients, of texts of one task."""
        ids = self._tokenize(texts)
        with autocast(self.device, self._precision):
            return (self.kept or self._model.embedder).forward_texts(ids, texts[0][1])

    @torch.no_grad()
    def embed_all(self, texts: Sequence[Text]) -> Tensor:
        """``[n, d]`` without gradients, in the order of `batches`."""
        batches, _ = self.batches(texts)
        return torch.cat([self.embed([texts[i] for i in batch]) for batch in batches])

    def fetch(self, texts: Sequence[Text]) -> None:
        """Have kept readings brought from disk while others are computed with."""
        if self.kept is not None:
            self.kept.fetch(zip(self._tokenize(texts), (task for _, task in texts), strict=True))

    def _tokenize(self, texts: Sequence[Text]) -> list[list[int]]:
        encoded = self._model.codec.encode_texts([text for text, _ in texts], self._max_length)
        return [one.ids for one in encoded]
