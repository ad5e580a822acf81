"""Numbers item by item, the statistic over them, and bootstrap intervals."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any

import numpy as np

RESAMPLES = 1000
CONFIDENCE = 0.95


def _spearman(first: np.ndarray, second: np.ndarray) -> float:
    from scipy.stats import spearmanr

    return float(spearmanr(first, second).statistic)


def _v_measure(gold: np.ndarray, found: np.ndarray) -> float:
    from sklearn.metrics import v_measure_score

    return float(v_measure_score(gold, found))


def _mean(values: np.ndarray) -> float:
    return float(np.mean(values))


def _perplexity(log_likelihood: np.ndarray, count: np.ndarray) -> float:
    return float(np.exp(-np.sum(log_likelihood) / np.sum(count)))


def _answered(kept: float, own: np.ndarray, without: np.ndarray) -> float:
    """Of scores of unanswerable questions the share at or above the threshold that keeps so many
    of the answerable ones."""
    return float(np.mean(without >= np.quantile(own, 1 - kept)))


STATISTICS: dict[str, Callable[..., float]] = {
    "mean": _mean,
    "spearman": _spearman,
    "v_measure": _v_measure,
    "perplexity": _perplexity,
}


def answered_at(kept: float) -> str:
    """The statistic of a decision's curve where a share of the answerable questions is kept."""
    name = f"answered at {kept:.2f}"
    STATISTICS.setdefault(name, partial(_answered, kept))
    return name


@dataclass(frozen=True)
class Score:
    """A number and its 95 % bootstrap interval, where there is one."""

    value: float
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True)
class Sample:
    """What one system got on each item of a task.

    Attributes:
        statistic: A name in `STATISTICS`: how the items become one number.
        items: What it takes, each ``[n]``.
        groups: What each item hangs together with, ``[n]``, such as questions about one paragraph;
            None: they are independent.
    """

    statistic: str
    items: tuple[np.ndarray, ...]
    groups: np.ndarray | None = None

    @classmethod
    def mean(cls, values: Any, groups: Any = None) -> Sample:
        """Numbers whose mean is the score."""
        items = (np.asarray(values, dtype=np.float64),)
        return cls("mean", items, None if groups is None else np.asarray(groups))

    def __len__(self) -> int:
        return len(self.items[0])

    @cached_property
    def value(self) -> float:
        """The statistic over all items."""
        return STATISTICS[self.statistic](*self.items)

    def score(self) -> Score:
        """The value with its interval; items are resampled, or whole groups of them."""
        return _bootstrap(STATISTICS[self.statistic], self.items, self.value, self.groups)

    def minus(self, other: Sample) -> Score:
        """The difference of two systems on the same items, which are resampled together.

        Raises:
            ValueError: They are not of the same items.
        """
        if len(self) != len(other) or self.statistic != other.statistic:
            raise ValueError(
                f"{len(self)} items by {self.statistic} and {len(other)} by {other.statistic}; "
                "expected the same items"
            )
        statistic, mine = STATISTICS[self.statistic], len(self.items)

        def difference(*items: np.ndarray) -> float:
            return statistic(*items[:mine]) - statistic(*items[mine:])

        items = (*self.items, *other.items)
        return _bootstrap(difference, items, self.value - other.value, self.groups)


def _bootstrap(
    statistic: Callable[..., float],
    items: tuple[np.ndarray, ...],
    value: float,
    groups: np.ndarray | None,
) -> Score:
    """Percentile interval over resampled items, or groups of items, less the resamples' bias."""
    members = None if groups is None else _members(groups)
    count = len(items[0]) if members is None else len(members)
    if count < 2:
        return Score(value)
    from scipy.stats import bootstrap

    def resampled(drawn: np.ndarray) -> float:
        chosen = drawn if members is None else np.concatenate([members[i] for i in drawn])
        return statistic(*(item[chosen] for item in items))

    found = bootstrap(
        (np.arange(count),),
        resampled,
        vectorized=False,
        n_resamples=RESAMPLES,
        confidence_level=CONFIDENCE,
        method="percentile",
        batch=50,
        rng=np.random.default_rng(0),
    )
    # A resample holds items twice; a clustering agrees with itself on those and looks better.
    bias = float(np.mean(found.bootstrap_distribution)) - value
    interval = found.confidence_interval
    return Score(value, float(interval.low) - bias, float(interval.high) - bias)


def _members(groups: np.ndarray) -> list[np.ndarray]:
    """Indices of each group's items."""
    _, group = np.unique(groups, return_inverse=True)
    return [*np.split(np.argsort(group, kind="stable"), np.cumsum(np.bincount(group))[:-1])]
