"""One order out of two searches: by vectors and by words."""

import numpy as np
from numpy.typing import NDArray

Scores = NDArray[np.float64]

# Measured beside scores scaled within the candidates and reciprocal ranks: docs/benchmarks.md.
COSINE_SHARE = 0.5


def fused(cosines: Scores, word_scores: Scores, share: float = COSINE_SHARE) -> Scores:
    """Cosine and word score in one: their convex sum, comparable across queries.

    Both are on a scale of their own already: a cosine is at most 1, a word score says which part of
    the most that the query's words could count for a chunk has.

    Args:
        cosines: float64 [n]; NaN, where a chunk has no vector, counts as 0.
        word_scores: float64 [n], 0 where a chunk holds none of the words.
        share: The cosine's, 0 to 1.

    Returns:
        float64 [n].
    """
    return share * np.nan_to_num(cosines, nan=0.0) + (1 - share) * word_scores
