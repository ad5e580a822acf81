"""Where the keys and values of running rows are: side by side, each growing at its own end."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from transformers.cache_utils import Cache

from gem_rag.compute.kv import Aim, KeyValues, SlotLayer
from gem_rag.compute.parts import Parts
from gem_rag.compute.skill import Skilled
from gem_rag.compute.step import advance

BLOCK = 64  # tokens: rows grow by blocks, so that they are seldom copied
# Rows stand side by side where none is much longer than another: a short one's attention runs over
# the longest one's tokens. Below so many that costs little beside the linear layers.
SHORT, ALIKE = 512, 2.0


@dataclass(eq=False)
class Slot:
    """A row's place.

    Attributes:
        arena: The rows it stands among.
        length: Tokens it holds.
        skilled: The row's skill, if any.
    """

    arena: Arena
    length: int = 0
    skilled: Skilled | None = None


class Arena:
    """Rows of like length, ``[R, H, columns, D]`` in every layer."""

    def __init__(self, layers: int) -> None:
        self.layers = [SlotLayer() for _ in range(layers)]
        self.cache = Cache(layers=[*self.layers])
        self.slots: list[Slot] = []
        self._rows = self._columns = 0

    @property
    def nbytes(self) -> int:
        """Bytes held."""
        return sum(layer.nbytes for layer in self.layers)

    def suits(self, length: int) -> bool:
        """Whether a row of this length would stand among rows of its like."""
        lengths = [slot.length for slot in self.slots] + [length]
        return max(lengths) <= SHORT or max(lengths) <= ALIKE * min(lengths)

    def open(
        self, key_values: KeyValues | None, length: int, room: int, skilled: Skilled | None
    ) -> Slot:
        """A new row at the end, with what was read before and room for more."""
        slot = Slot(self, length, skilled)
        self.slots.append(slot)
        self._aim(len(self.slots) - 1, len(self.slots), room)
        for layer, pair in zip(self.layers, key_values or (), strict=False):
            layer.fill(len(self.slots) - 1, *pair)
        return slot

    def close(self, slot: Slot) -> None:
        """Take a row out; the last one takes its place."""
        self._move(slot, len(self.slots) - 1)
        self.slots.pop()

    def gather(self, slots: Sequence[Slot]) -> slice:
        """Where these rows stand, after they were put side by side if they did not."""
        places = sorted(self.slots.index(slot) for slot in slots)
        if places[-1] - places[0] + 1 != len(places):
            for place, slot in enumerate(slots):
                self._move(slot, place)
            places = list(range(len(slots)))
        return slice(places[0], places[-1] + 1)

    def _move(self, slot: Slot, place: int) -> None:
        at, other = self.slots.index(slot), self.slots[place]
        if at == place:
            return
        longest = max(slot.length, other.length)
        for layer in self.layers:
            layer.swap(at, place, longest)
        self.slots[at], self.slots[place] = other, slot

    def run(self, parts: Parts, slots: Sequence[Slot], ids: Sequence[Sequence[int]]) -> Tensor:
        """Run these rows' new tokens: logits after each row's last, ``[b, vocab]``, as given."""
        where = self.gather(slots)
        ordered = self.slots[where]
        by_slot = dict(zip(slots, ids, strict=True))
        own = [by_slot[slot] for slot in ordered]
        self._aim(where.start, where.stop, max(map(len, own)))
        skilled = [slot.skilled for slot in ordered]
        logits = advance(parts, own, [slot.length for slot in ordered], self.cache, skilled)
        for slot, new in zip(ordered, own, strict=True):
            slot.length += len(new)
        back = [ordered.index(slot) for slot in slots]
        return logits if back == list(range(len(back))) else logits[back]

    def _aim(self, start: int, stop: int, new: int) -> None:
        """Have every layer write after these rows' tokens, with room for so many more."""
        starts = [slot.length for slot in self.slots[start:stop]]
        needed = max(starts) + new
        if needed > self._columns:
            self._columns = -(-(needed + needed // 4) // BLOCK) * BLOCK
        while self._rows < len(self.slots):
            self._rows = max(1, 2 * self._rows)
        capacity, places = (self._rows, self._columns), torch.tensor(starts)
        aim = Aim(slice(start, stop), starts, capacity, places)
        for layer in self.layers:
            layer.aim(aim)

    def row(self, slot: Slot) -> KeyValues:
        """A row's keys and values, which the next pass writes to: copy what is to be kept."""
        at = self.slots.index(slot)
        return tuple(layer.row(at, slot.length) for layer in self.layers)


class Slots:
    """The places of all running rows.

    Args:
        parts: The model's parts.
    """

    def __init__(self, parts: Parts) -> None:
        self._parts = parts
        self._arenas: list[Arena] = []

    @property
    def nbytes(self) -> int:
        """Bytes of keys and values."""
        return sum(arena.nbytes for arena in self._arenas)

    def open(
        self,
        key_values: KeyValues | None,
        length: int,
        room: int,
        skilled: Skilled | None = None,
    ) -> Slot:
        """A place for a row.

        Args:
            key_values: What was read before; copied.
            length: Its tokens.
            room: Tokens that will follow, as far as is known.
            skilled: The row's skill, if any.
        """
        found = next((arena for arena in self._arenas if arena.suits(length + room)), None)
        if found is None:
            found = Arena(self._parts.base.num_layers)
            self._arenas.append(found)
        return found.open(key_values, length, room, skilled)

    def close(self, slot: Slot) -> None:
        """Give a place back."""
        slot.arena.close(slot)
        if not slot.arena.slots:
            self._arenas.remove(slot.arena)

    def run(self, slots: Sequence[Slot], ids: Sequence[Sequence[int]]) -> list[Tensor]:
        """Run rows' new tokens: the logits after each row's last, ``[vocab]``."""
        out: dict[Slot, Tensor] = {}
        with torch.inference_mode():
            for arena in dict.fromkeys(slot.arena for slot in slots):
                mine = [i for i, slot in enumerate(slots) if slot.arena is arena]
                own = [slots[i] for i in mine]
                logits = arena.run(self._parts, own, [ids[i] for i in mine])
                out |= zip(own, logits, strict=True)
        return [out[slot] for slot in slots]
