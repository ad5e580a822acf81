"""Beginnings of prompts that were run already: a system prompt, a conversation so far."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from gem_rag.compute.kv import KeyValues, pack, unpack

FEWEST_TOKENS = 32  # a shorter beginning is run as fast as it is copied


@dataclass(frozen=True)
class Prefix:
    """Token ids and what the model kept of them."""

    ids: tuple[int, ...]
    packed: Tensor  # [L, 2, H, n, D]

    @property
    def nbytes(self) -> int:
        """Bytes of keys and values."""
        return self.packed.nbytes


class Prefixes:
    """Prefixes by their token ids, the least recently used dropped first.

    Args:
        max_bytes: Bound of keys and values; 0 keeps nothing.
    """

    def __init__(self, max_bytes: int) -> None:
        self.max_bytes = max_bytes
        self.hits = self.misses = self.nbytes = 0
        self._kept: OrderedDict[tuple[int, ...], Prefix] = OrderedDict()

    def find(self, ids: Sequence[int]) -> KeyValues | None:
        """Keys and values of the longest beginning of a prompt that is kept; never all of it.

        Its last token is always left to run: its output is what comes next.
        """
        best, shared = None, FEWEST_TOKENS - 1
        for prefix in self._kept.values():
            count = min(_shared(prefix.ids, ids), len(ids) - 1)
            if count > shared:
                best, shared = prefix, count
        if best is None:
            self.misses += 1
            return None
        self.hits += 1
        self._kept.move_to_end(best.ids)
        return unpack(best.packed[:, :, :, :shared])

    def keep(self, ids: Sequence[int], key_values: KeyValues) -> None:
        """Keep a copy of what was run; it takes the place of its own beginnings."""
        size = sum(k.nbytes + v.nbytes for k, v in key_values)
        if len(ids) < FEWEST_TOKENS or size > self.max_bytes:
            return
        known = [p for p in self._kept.values() if _shared(p.ids, ids) in (len(p.ids), len(ids))]
        if any(len(prefix.ids) >= len(ids) for prefix in known):
            return
        for prefix in known:
            self._drop(prefix)
        while self._kept and self.nbytes + size > self.max_bytes:
            self._drop(next(iter(self._kept.values())))
        self._kept[tuple(ids)] = Prefix(tuple(ids), pack(key_values))
        self.nbytes += size

    def _drop(self, prefix: Prefix) -> None:
        del self._kept[prefix.ids]
        self.nbytes -= prefix.nbytes


def _shared(one: Sequence[int], other: Sequence[int]) -> int:
    """How many tokens two sequences begin with alike."""
    longest = min(len(one), len(other))
    return next((i for i in range(longest) if one[i] != other[i]), longest)
