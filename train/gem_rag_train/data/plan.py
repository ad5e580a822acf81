"""Which rows each step of a skill's training has: fixed by the seed before the first one."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from random import Random

from gem_rag.errors import GemError
from gem_rag_train.data.rows import Row

MOST_TOGETHER = 4  # rows of one passage in a step, which is read once for them

Group = list[Row]  # of one passage


class Plan:
    """The rows of every step. A source's rows all have their turn before one has its second.

    Args:
        rows: All to train on.
        shares: How much of the rows each source gets; empty: all rows alike.
        steps: Of the run.
        rows_per_step: Of each.
        seed: Decides the order, and what is drawn.
        drawn: What of a row a step takes.

    Attributes:
        steps: Each step's rows.

    Raises:
        GemError: `shares` names a source without rows, or gives none a share.
    """

    def __init__(
        self,
        rows: Sequence[Row],
        shares: Mapping[str, float],
        *,
        steps: int,
        rows_per_step: int,
        seed: int,
        drawn: Callable[[Row, Random], Row],
    ) -> None:
        self._rng = Random(f"{seed}:plan")
        self._drawn = drawn
        self._pools = _pools(rows, shares)
        weights = _weights(self._pools, shares)
        self._weights = {  # of groups: those of rows, by how many rows a group has
            source: weights[source] * len(_grouped(pool)) / len(pool)
            for source, pool in self._pools.items()
        }
        self._left: dict[str, list[Group]] = {source: [] for source in self._pools}
        self.steps: list[list[Row]] = [self._step(rows_per_step) for _ in range(steps)]

    def _step(self, count: int) -> list[Row]:
        rows: list[Row] = []
        while len(rows) < count:
            (source,) = self._rng.choices(list(self._weights), list(self._weights.values()))
            if not self._left[source]:
                pool = list(self._pools[source])
                self._rng.shuffle(pool)
                self._left[source] = _grouped(pool)
                self._rng.shuffle(self._left[source])
            rows += self._left[source].pop()
        return [self._drawn(row, self._rng) for row in rows[:count]]

    @property
    def again(self) -> set[str]:
        """Texts that more than one step reads: worth keeping."""
        steps = Counter(
            text for rows in self.steps for text in {t for row in rows for t in row.texts}
        )
        return {text for text, count in steps.items() if count > 1}


def _pools(rows: Sequence[Row], shares: Mapping[str, float]) -> dict[str, list[Row]]:
    """Rows by source; all in one where no shares are asked for."""
    pools: dict[str, list[Row]] = {}
    for row in rows:
        pools.setdefault(row.source if shares else "", []).append(row)
    if odd := sorted(shares.keys() - pools.keys()):
        raise GemError(f"shares names {odd}, of which there are no rows; there are {sorted(pools)}")
    return pools


def _weights(pools: Mapping[str, Sequence[Row]], shares: Mapping[str, float]) -> dict[str, float]:
    mean = sum(shares.values()) / len(shares) if shares else 1.0
    weights = {source: shares.get(source, mean) for source in pools}
    if not any(weights.values()):
        raise GemError(f"shares gives nothing a share: {dict(shares)}; expected one above 0")
    return weights


def _grouped(rows: Sequence[Row]) -> list[Group]:
    by_passage: dict[str, list[Row]] = {}
    for row in rows:
        by_passage.setdefault(row.passage, []).append(row)
    return [
        group[i : i + MOST_TOGETHER]
        for group in by_passage.values()
        for i in range(0, len(group), MOST_TOGETHER)
    ]
