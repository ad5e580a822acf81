"""Where the rooms of one house stand on the page, and which way its arrows run."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator
from itertools import combinations, pairwise

from house_plan import Plan, Uses, reduced

WIDTHS = {1: 330, 2: 222, 3: 190}  # of a box, by how many share its floor; otherwise 158
GAP, LANE, HEAD, LINE = 16, 8, 48, 14


class Layout:
    """Floors from the top in a strip of the page; boxes are centred, lanes run between them.

    An arrow that passes floors has a lane on each. Rows hold rooms and lanes from left to right.
    """

    def __init__(
        self,
        floors: list[list[str]],
        uses: Uses,
        plan: Plan,
        *,
        left: float,
        width: float,
        apart: float = GAP,
    ) -> None:
        """Place rooms and lanes from left to right; ``apart`` is the gap on the first floor."""
        self.middle, self.width, self.apart = left + width / 2, width, apart
        self.rows = [list(floor) for floor in floors]
        self.box = {n: min(0.8 * width, WIDTHS.get(len(f), 158)) for f in floors for n in f}
        level = {name: i for i, floor in enumerate(floors) for name in floor}
        self.chains: list[list[str]] = []
        for room, other in reduced(uses):
            lanes = {i: f"{room}>{other}@{i}" for i in range(level[room] + 1, level[other])}
            for i, lane in lanes.items():
                self.rows[i].append(lane)
            self.chains.append([room, *lanes.values(), other])
        self.links = [link for chain in self.chains for link in pairwise(chain)]
        self.untangle()
        self.at = self.middles()
        self.floor = {item: i for i, row in enumerate(self.rows) for item in row}
        self.lines = {n: wrap(plan.rooms[n].sentence, self.box[n]) for n in self.box}
        self.heights = [HEAD + LINE * max(len(self.lines[n]) for n in floor) for floor in floors]
        self.tops: list[float] = []

    def middles(self) -> dict[str, float]:
        """The x of every box's and lane's middle."""
        at = {}
        for i, row in enumerate(self.rows):
            place = 0.0
            for item in row:
                at[item] = place + self.box.get(item, LANE) / 2
                place += self.box.get(item, LANE) + (GAP if i else self.apart)
            boxes = [item for item in row if item in self.box]
            first, last = boxes[0], boxes[-1]
            edges = at[first] - self.box[first] / 2, at[last] + self.box[last] / 2
            shift = self.middle - sum(edges) / 2
            at.update({item: at[item] + shift for item in row})
        return at

    def cost(self) -> float:
        """Crossings, and a little for what is not straight."""
        at = self.middles()
        row = {item: i for i, items in enumerate(self.rows) for item in items}
        crossings = sum(
            row[a] == row[c] and (at[a] - at[c]) * (at[b] - at[d]) < 0
            for (a, b), (c, d) in combinations(self.links, 2)
        )
        return crossings + sum(abs(at[a] - at[b]) for a, b in self.links) / 400

    def moves(self) -> Iterator[list[list[str]]]:
        """Two items of a row swapped; a whole arrow at one side; two arrows exchanged."""
        for i, row in enumerate(self.rows):
            for a, b in combinations(row, 2):
                yield [*self.rows[:i], swapped(row, {a: b, b: a}), *self.rows[i + 1 :]]
        lanes = [chain[1:-1] for chain in self.chains if len(chain) > 2]
        for chain in lanes:
            for right in (False, True):
                yield [sorted(row, key=lambda item: (item in chain) == right) for row in self.rows]
        for chain, other in combinations(lanes, 2):
            floors = {lane.split("@")[1]: lane for lane in chain}
            pairs = {floors.get(lane.split("@")[1], lane): lane for lane in other}
            both = pairs | {b: a for a, b in pairs.items()}
            yield [swapped(row, both) for row in self.rows]

    def untangle(self) -> None:
        """Make the move that makes the picture simplest, until none does."""
        best = self.cost()
        while True:
            now, tried = self.rows, []
            for rows in list(self.moves()):
                self.rows = rows
                tried.append((self.cost(), rows))
            cost, self.rows = min(tried, key=lambda pair: pair[0], default=(best, now))
            if cost > best - 1e-9:
                self.rows = now
                return
            best = cost

    def stack(self, top: float, aisle: float, first: float | None = None) -> float:
        """Give every floor its height, with aisles for the arrows; returns where it ends."""
        for i, height in enumerate(self.heights):
            self.tops.append(top)
            top += height + (aisle if i or first is None else first)
        return top - aisle

    def port(self, item: str, other: str, side: int) -> float:
        """The x where an arrow to (side 1) or from (side 0) another item touches this one."""
        others = {link[side] for link in self.links if link[1 - side] == item}
        ranked = sorted(others, key=lambda name: (self.at[name], name))
        step = min(26, self.box.get(item, 0) / (len(ranked) + 1))
        return self.at[item] + step * (ranked.index(other) - (len(ranked) - 1) / 2)

    def bottom(self, item: str) -> float:
        """The y where the floor of a box or lane ends."""
        return self.tops[self.floor[item]] + self.heights[self.floor[item]]


def swapped(row: list[str], instead: dict[str, str]) -> list[str]:
    """A row with some items in each other's places."""
    return [instead.get(item, item) for item in row]


def wrap(sentence: str, width: float) -> list[str]:
    """A sentence in lines that fit a box."""
    return textwrap.wrap(sentence, int((width - 20) / 6.2), break_long_words=False)
