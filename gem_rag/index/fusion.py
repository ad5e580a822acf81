"""One order out of two searches: by vectors and by words."""

import numpy as np
from numpy.typing import NDArray

Scores = NDArray[np.float64]

COSINE_SHARE = 0.5


def fused(cosines: Scores, word_scores: Scores, share: float = COSINE_SHARE) -> Scores:
    """Cosine and word score in one: a convex sum of both, scaled to 0..1 within the candidates.

    Args:
        cosines: float64 [n], NaN where a chunk has no vector.
        word_scores: float64 [n], 0 where a chunk holds none of the words.
        share: The cosine's, 0 to 1.

    Returns:
        float64 [n], 0 to 1.
    """
    near: Scores = np.nan_to_num(_scaled(cosines), nan=0.0)
    worded: Scores = word_scores / max(word_scores.max(initial=0.0), 1e-9)
    return worded if np.isnan(cosines).all() else share * near + (1 - share) * worded


def _scaled(values: Scores) -> Scores:
    known = values[~np.isnan(values)]
    low, high = known.min(initial=1.0), known.max(initial=-1.0)
    scaled: Scores = (values - low) / max(high - low, 1e-9)
    return scaled
