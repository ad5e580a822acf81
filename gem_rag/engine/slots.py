"""Where the keys and values of running rows are: side by side, each growing at its own end."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from itertools import accumulate
from typing import NamedTuple

import torch
from torch import Tensor

from gem_rag.compute.kv import Aim, Cache, KeyValues, SlotLayer
from gem_rag.compute.parts import Parts
from gem_rag.compute.replay import Replays, Rows
from gem_rag.compute.skill import Skilled, everywhere
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
        wanted: After how many of the tokens that are run next logits are wanted, from the last on.
    """

    arena: Arena
    length: int = 0
    skilled: Skilled | None = None
    wanted: int = 1

    def drop(self, tokens: int) -> None:
        """Take back the last tokens: what is run next is written over them."""
        self.length -= tokens


class Logits(NamedTuple):
    """What comes next in some rows: logits ``[n, vocab]``, and which of them are each row's."""

    all: Tensor
    places: list[range]

    def at(self, places: Sequence[int]) -> Tensor:
        """Those of these places, ``[n, vocab]``."""
        return self.all if [*places] == [*range(len(self.all))] else self.all[[*places]]


class Arena:
    """Rows of like length, ``[R, H, columns, D]`` in every layer."""

    def __init__(self, layers: int) -> None:
        self.layers = [SlotLayer() for _ in range(layers)]
        self.cache = Cache(layers=[*self.layers])
        self.slots: list[Slot] = []
        self._replays = Replays()
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
        slot, capacity = Slot(self, length, skilled), (self._rows, self._columns)
        self.slots.append(slot)
        try:
            self._aim(len(self.slots) - 1, len(self.slots), room)
            for layer, pair in zip(self.layers, key_values or (), strict=False):
                layer.fill(len(self.slots) - 1, *pair)
        except BaseException:  # no memory: those that run go on with what they have
            self.slots.pop()
            self._rows, self._columns = capacity
            raise
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

    def run(self, parts: Parts, slots: Sequence[Slot], ids: Sequence[Sequence[int]]) -> Logits:
        """Run these rows' new tokens: see `Slots.run`."""
        where = self.gather(slots)
        ordered = self.slots[where]
        by_slot = dict(zip(slots, ids, strict=True))
        own = [by_slot[slot] for slot in ordered]
        self._aim(where.start, where.stop, max(map(len, own)))
        lengths, skilled = [s.length for s in ordered], [s.skilled for s in ordered]
        wanted = [slot.wanted for slot in ordered]
        by_itself = partial(advance, parts, own, lengths, self.cache, skilled, wanted)
        rows = self._step_of(parts, where, own)
        logits = by_itself() if rows is None else self._replays.run(parts, rows, by_itself)
        for slot, new in zip(ordered, own, strict=True):
            slot.length += len(new)
        ends = dict(zip(ordered, accumulate(wanted), strict=True))
        return Logits(logits, [range(ends[slot] - slot.wanted, ends[slot]) for slot in slots])

    def _step_of(self, parts: Parts, where: slice, ids: Sequence[Sequence[int]]) -> Rows | None:
        """One token more of each of these rows, if that is all and may be replayed."""
        slots = self.slots[where]
        if not parts.replays or parts.decoder is None or any(len(own) > 1 for own in ids):
            return None
        lengths = [slot.length for slot in slots]
        acts = everywhere([slot.skilled for slot in slots], lengths)
        if acts is None or not all(lengths):
            return None
        held = [layer.rows(where) for layer in self.layers]
        acts = [*parts.everywhere(parts.generates_adapted), *acts]
        return Rows([own[0] for own in ids], lengths, held, acts)

    def _aim(self, start: int, stop: int, new: int) -> None:
        """Have every layer write after these rows' tokens, with room for so many more."""
        starts = [slot.length for slot in self.slots[start:stop]]
        needed = max(starts) + new
        if needed > self._columns:
            self._columns = -(-(needed + needed // 4) // BLOCK) * BLOCK
        while self._rows < len(self.slots):
            self._rows = max(1, 2 * self._rows)
        capacity = self._rows, self._columns
        places = torch.tensor(starts)[:, None] + torch.arange(new)
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

    def fork(self, slot: Slot) -> Slot:
        """A place for a row that begins with all that this one holds; that is copied."""
        return self.open(slot.arena.row(slot), slot.length, 1, slot.skilled)

    def close(self, slot: Slot) -> None:
        """Give a place back."""
        slot.arena.close(slot)
        if not slot.arena.slots:
            self._arenas.remove(slot.arena)

    def run(self, slots: Sequence[Slot], ids: Sequence[Sequence[int]]) -> Logits:
        """Run rows' new tokens, one at least of each; logits where the slots want them."""
        with torch.inference_mode():
            arenas = list(dict.fromkeys(slot.arena for slot in slots))
            if len(arenas) == 1:
                return arenas[0].run(self._parts, slots, ids)
            parts: list[Tensor] = []
            places: dict[Slot, range] = {}
            for arena in arenas:
                mine = [i for i, slot in enumerate(slots) if slot.arena is arena]
                own = [slots[i] for i in mine]
                found = arena.run(self._parts, own, [ids[i] for i in mine])
                before = sum(map(len, parts))
                parts.append(found.all)
                for slot, at in zip(own, found.places, strict=True):
                    places[slot] = range(before + at.start, before + at.stop)
            return Logits(torch.cat(parts), [places[slot] for slot in slots])
