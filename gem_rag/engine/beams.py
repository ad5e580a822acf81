"""Beam search: the likeliest whole answer instead of the likeliest next token.

A short answer hangs on its first token, which a small model is often unsure of. Several beginnings
are kept side by side, rows of one request, and the whole answers that came of them are compared.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from torch import Tensor

# A whole answer's log-likelihood is divided by its number of tokens to this power: 0 would favour
# short ones, 1 is the mean. Chosen on held-out questions (docs/experiments/skills.md).
LENGTH = 0.5
# A search is over when all that is kept is so many nats less likely than an answer that is whole.
BEHIND = 2.0


@dataclass(frozen=True)
class Beginning:
    """What an answer may begin with, or all of one.

    Attributes:
        ids: Its tokens.
        log_likelihood: Of all of them, nats.
    """

    ids: tuple[int, ...] = ()
    log_likelihood: float = 0.0

    @property
    def score(self) -> float:
        """How good it is as an answer."""
        return float(self.log_likelihood / max(1, len(self.ids)) ** LENGTH)


class Beams:
    """One answer's search.

    Args:
        width: Beginnings that are kept.
        ends: Ids that end an answer.
        limit: Most tokens of an answer.
    """

    def __init__(self, width: int, ends: Collection[int], limit: int) -> None:
        self._width, self._ends, self._limit = width, ends, limit
        self.kept = [Beginning()]
        self._whole: list[Beginning] = []

    @property
    def whole(self) -> list[Beginning]:
        """Answers that came to their end, best first."""
        return sorted(self._whole, key=lambda one: -one.score)

    @property
    def is_over(self) -> bool:
        """Whether what may still come is unlikely beside what there is."""
        if not self.kept or not self._whole:
            return not self.kept
        likeliest = max(one.log_likelihood for one in self._whole)
        return self.kept[0].log_likelihood < likeliest - BEHIND

    def advance(self, logits: Tensor) -> list[int]:
        """Go on by one token; from which of the beginnings so far each of the new ones goes on.

        Args:
            logits: What comes next in each, ``[kept, vocab]``.
        """
        likely = logits.float().log_softmax(-1)
        sums = likely + likely.new_tensor([one.log_likelihood for one in self.kept])[:, None]
        # Each beginning may have an end among its likeliest: so many are enough.
        best, places = sums.flatten().topk(min(2 * self._width, sums.numel()))
        new: list[tuple[int, Beginning]] = []
        for log_likelihood, place in zip(best.tolist(), places.tolist(), strict=True):
            parent, token = divmod(place, sums.shape[1])
            one = Beginning((*self.kept[parent].ids, token), log_likelihood)
            if token in self._ends or len(one.ids) >= self._limit:
                self._whole.append(one)
            elif len(new) < self._width:
                new.append((parent, one))
        self.kept = [one for _, one in new]
        return [parent for parent, _ in new]
