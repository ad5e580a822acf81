"""Directions in which texts differ most drown the others: in queries they are weakened.

Half a whitening (after Su et al. 2021, arXiv 2103.15316) of the largest directions alone, found
when the training is done.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

from gem_rag_train.data.batches import Text, texts_of
from gem_rag_train.data.pairs import Pair

# Texts for each number of a vector: as many as are taken, and so few that they would tell chance.
TEXTS, TOO_FEW = 8, 2


def some_texts(batches: Iterable[Sequence[Pair]], dim: int) -> list[Text]:
    """Different passages of a run's first batches to find the directions from.

    Args:
        batches: As they are trained on.
        dim: Length d of a vector.

    Returns:
        Some `TEXTS` * d; none, with a warning, where there are not `TOO_FEW` * d.
    """
    texts: dict[Text, None] = {}
    for batch in batches:
        texts |= dict.fromkeys(text for text in texts_of(batch) if text[1] == "document")
        if len(texts) >= TEXTS * dim:
            break
    if len(texts) < TOO_FEW * dim:
        warnings.warn(
            f"no whitening: the run has {len(texts)} texts, and {TOO_FEW * dim} are needed for "
            f"vectors of {dim} numbers; set whitening to 0, or train on more",
            stacklevel=2,
        )
        return []
    return list(texts)


def half_whitening(vectors: Tensor, most: int) -> Tensor:
    """What to take off unit vectors, such that ``v - (v @ W) @ W.T`` is half whitened.

    A direction of more variance than the mean is scaled half the way to it, by the fourth root of
    their ratio: whitened wholly, as many directions of noise would be as loud as the rest.

    Args:
        vectors: ``[n, d]``, of texts of all kinds, n several times d.
        most: Directions at most.

    Returns:
        float32 ``[d, r]`` with values of float16, as it is saved; r <= most.
    """
    exact = vectors.cpu().double()  # not every device has float64
    variances, directions = torch.linalg.eigh(exact.T.cov())  # ascending
    count = min(most, int((variances > variances.mean()).sum()))
    variances, directions = variances.flip(0), directions.flip(1)
    scale = (variances[:count] / variances.mean()) ** -0.25
    found: Tensor = directions[:, :count] * (1 - scale).sqrt()
    return found.half().float().to(vectors.device)
