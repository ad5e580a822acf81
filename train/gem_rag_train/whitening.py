"""Directions in which texts differ most drown the others: in queries they are weakened.

Half a whitening (after Su et al. 2021, arXiv 2103.15316) of the largest directions alone, found
when the training is done.
"""

from __future__ import annotations

import torch
from torch import Tensor


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
    centred = vectors.double() - vectors.double().mean(0)
    variances, directions = torch.linalg.eigh(centred.T @ centred / len(vectors))  # ascending
    count = min(most, int((variances > variances.mean()).sum()))
    variances, directions = variances.flip(0), directions.flip(1)
    scale = (variances[:count] / variances.mean()) ** -0.25
    found: Tensor = directions[:, :count] * (1 - scale).sqrt()
    return found.half().float()
