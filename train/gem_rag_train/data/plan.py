"""Which rows are measured on, and which each step has: fixed by the seed before the first one."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from random import Random

from gem_rag.errors import GemError
from gem_rag_train.data.rows import AnswerRow, Row

MOST_TOGETHER = 4  # rows of one passage in a step, which is read once for them
MOST_MEASURED = 2  # rows of one passage among those that are measured on

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


def hold_out(
    rows: Sequence[Row], shares: Mapping[str, float], share: float, most: int, seed: int
) -> tuple[list[Row], list[Row]]:
    """Rows to train on, and rows about other passages to measure on.

    What is measured on is never shown as a wrong passage either. Without two passages to spare,
    nothing is set aside.

    Args:
        rows: All.
        shares: As of `Plan`: what is measured on has the same mixture.
        share: Of the rows, to be measured on.
        most: How many at most.
        seed: Draws them.
    """
    rng = Random(f"{seed}:held out")
    pools = _pools(rows, shares)
    weights = _weights(pools, shares)
    left = {source: _by_passage(pool) for source, pool in pools.items()}
    for groups in left.values():
        rng.shuffle(groups)
    spare = len({row.passage for row in rows}) - 1  # one is left to train on
    wanted = min(most, int(share * len(rows)))
    aside: list[Row] = []
    chosen: set[str] = set()
    while len(aside) < wanted and len(chosen) < spare:
        there = [source for source, groups in left.items() if groups and weights[source]]
        if not there:
            break
        (source,) = rng.choices(there, [weights[s] for s in there])
        group = left[source].pop()
        chosen.add(group[0].passage)
        aside += group[:MOST_MEASURED]
    if len(chosen) < 2:
        return list(rows), []
    kept = [shown for row in rows if (shown := _without(row, chosen)) is not None]
    return (kept, aside) if kept else (list(rows), [])


def _without(row: Row, held_out: set[str]) -> Row | None:
    if row.passage in held_out:
        return None
    if isinstance(row, AnswerRow):
        return row
    others = tuple(n for n in row.negatives if n not in held_out)
    return replace(row, negatives=others) if others else None


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


def _by_passage(rows: Sequence[Row]) -> list[Group]:
    groups: dict[str, Group] = {}
    for row in rows:
        groups.setdefault(row.passage, []).append(row)
    return list(groups.values())


def _grouped(rows: Sequence[Row]) -> list[Group]:
    return [
        group[i : i + MOST_TOGETHER]
        for group in _by_passage(rows)
        for i in range(0, len(group), MOST_TOGETHER)
    ]
