"""A run's batches, in an order that a seed and a step decide."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache, partial
from random import Random
from types import MappingProxyType

import torch
from torch import Tensor

from gem_rag.errors import GemError
from gem_rag_train.data.pairs import Draw, Pair
from gem_rag_train.data.tasks import ON_PROSE, TASKS, prose_of, require_shares

MOSTLY = 0.9  # of a batch's pairs have to be of different passages


class TrainingMix:
    """Batches that depend on seed and step alone, so that a resumed run sees the same ones.

    Args:
        shares: Share of each task in `ON_PROSE` and `TASKS`; normalised.
        prose: Share of each source in `PROSE` that the tasks on prose draw from; normalised.
        seed: Decides everything.
        batch_size: Pairs in a batch.
        own: More tasks by name: the user's files.

    Raises:
        GemError: An unknown task or source, or no share above zero.
    """

    def __init__(
        self,
        shares: Mapping[str, float],
        prose: Mapping[str, float],
        *,
        seed: int,
        batch_size: int,
        own: Mapping[str, Draw] = MappingProxyType({}),
    ) -> None:
        source = prose_of(prose)
        self._draw: dict[str, Draw] = {
            **{name: partial(task, source) for name, (task, _) in ON_PROSE.items()},
            **{name: task for name, (task, _) in TASKS.items()},
            **own,
        }
        require_shares("shares", shares, self._draw)
        self._tasks = list(shares)
        self._shares = [shares[t] for t in self._tasks]
        self._seed = seed
        self._size = batch_size

    def batch(self, step: int) -> list[Pair]:
        """The pairs of one step, no two of one source passage; few, where there are hardly enough.

        Raises:
            GemError: The data has clearly fewer different passages than a batch has pairs.
        """
        rng = Random(f"{self._seed}:{step}")
        pairs: list[Pair] = []
        groups: set[str] = set()
        for tried in range(100 * self._size):
            if len(pairs) == self._size:
                return pairs
            (task,) = rng.choices(self._tasks, self._shares)
            pair = self._draw[task](rng)
            # Repeated ones, which are no negatives of each other, are better than a run that ends.
            last = tried >= 50 * self._size and len(groups) > MOSTLY * self._size
            is_new = last or pair.group not in groups
            if is_new and pair.first.strip() and pair.second.strip():
                groups.add(pair.group)
                pairs.append(pair)
        raise GemError(f"batch_size {self._size} is more than the data has different passages for")

    def draw(self, count: int) -> list[Pair]:
        """A fixed number of pairs, those of the first steps."""
        drawn: list[Pair] = []
        while len(drawn) < count:
            drawn += self.batch(len(drawn) // self._size)
        return drawn[:count]


class Pool:
    """A fixed number of pairs, gone through in epochs, each in another order.

    Batches depend on seed and step alone, as the mix's do.

    Args:
        pairs: All of them.
        seed: Decides the order.
        batch_size: Pairs in a batch.
        vectors: Unit vectors ``[n, d]`` of the pairs' second texts. With them a batch is made of
            `neighbours` nearest ones at a time, which are harder negatives than chance gives.
        neighbours: How many; 1 is by chance.
    """

    def __init__(
        self,
        pairs: Sequence[Pair],
        *,
        seed: int,
        batch_size: int,
        vectors: Tensor | None = None,
        neighbours: int = 1,
    ) -> None:
        self.pairs = list(pairs)
        self._seed = seed
        self._size = batch_size
        self._vectors = vectors
        self._neighbours = neighbours

    def batch(self, step: int) -> list[Pair]:
        """The pairs of one step."""
        epoch, place = divmod(step, len(self.pairs) // self._size)
        order = self._order(epoch)
        return [self.pairs[i] for i in order[place * self._size : (place + 1) * self._size]]

    @lru_cache(maxsize=1)  # noqa: B019  # an epoch's order takes seconds, and pools are few
    def _order(self, epoch: int) -> list[int]:
        rng = Random(f"{self._seed}:epoch {epoch}")
        order = list(range(len(self.pairs)))
        rng.shuffle(order)
        if self._vectors is None or self._neighbours == 1:
            return order
        runs = list(nearest_runs(self._vectors, order, self._neighbours))
        rng.shuffle(runs)
        return [i for run in runs for i in run]


def nearest_runs(vectors: Tensor, order: Sequence[int], size: int) -> Iterator[list[int]]:
    """Cut `order` into runs: the first that is left, and its `size` - 1 nearest that are left."""
    left = torch.ones(len(vectors), dtype=torch.bool)
    for i in order:
        if not left[i]:
            continue
        left[i] = False
        near = (vectors @ vectors[i]).masked_fill(~left, -torch.inf)
        run = near.topk(min(size - 1, int(left.sum()))).indices
        left[run] = False
        yield [i, *run.tolist()]
