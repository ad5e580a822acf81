"""What words count for: BM25's parts, the same wherever the words are kept."""

import math

K1 = 1.2  # of BM25, as SQLite has it
B = 0.75  # likewise
SATURATION = K1 + 1  # a word that fills a chunk counts so often its rarity, never more
COLUMN_WEIGHTS = (1.0, 1.5, 1.0)  # of a word in the text, the headings, the source's name
_LEAST_RARITY = 1e-6  # of words that half of all chunks hold (SQLite's own bound)
# Chunks that are thought beside those there are where it is weighed which words a chunk lacks: in a
# small index a word that stands nowhere would otherwise outweigh all that do.
_BESIDE = 1000


def rarity(count: int, holding: int) -> float:
    """A word's inverse document frequency.

    Args:
        count: How many chunks there are.
        holding: How many of them hold the word.
    """
    if not count:
        return _LEAST_RARITY
    return max(math.log((count - holding + 0.5) / (holding + 0.5)), _LEAST_RARITY)


def lacked(count: int, holding: int) -> float:
    """What it weighs that a chunk lacks a word; arguments as for `rarity`."""
    return math.log(1 + (count + _BESIDE) / (1 + holding))


def saturated(times: float, length: float, average: float) -> float:
    """What a word counts in a chunk, in parts of its rarity: 0 to `SATURATION`.

    Args:
        times: How often it stands there.
        length: Words of the chunk.
        average: Words of a chunk of usual length.
    """
    return times * (K1 + 1) / (times + K1 * (1 - B + B * length / average))
