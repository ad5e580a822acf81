"""Draw the house from its imports: docs/architecture.svg, and the table in docs/architecture.md.

Rooms and floors are those of the ``layers`` contracts in pyproject.toml. ``--check`` writes
nothing and fails if either is not what would be drawn, or if an arrow runs up.
"""

from __future__ import annotations

import argparse
import sys
import textwrap
from collections.abc import Iterable, Mapping
from html import escape
from itertools import cycle, pairwise
from pathlib import Path

from house_layout import LINE, Layout
from house_plan import Plan, Uses, read_plan, reduced, running_up

BEGIN, END = "<!-- rooms:begin -->", "<!-- rooms:end -->"
PAGE = f"# Architecture\n\n![The rooms of the house](architecture.svg)\n\n{BEGIN}\n{END}\n"
COLOURS = (
    *("#4c78a8", "#d9730d", "#c8384f", "#2f8f88", "#4a9a42"),
    *("#a07d12", "#8f4f8f", "#80604a", "#b84a78", "#5f6b7a"),
)
CAPTION = (
    "An arrow leaves the room that imports, in that room's colour, and enters the room it imports; "
    "all run down. One that a longer path implies is not drawn: architecture.md lists them all."
)
WALL = "#f6f4ef"
CORE, WING, EDGE, GABLE, AISLE = 760, 270, 24, 56, 46


def arrows(house: Layout, colour: Mapping[str, str]) -> list[str]:
    """Every arrow: down from the importer's floor, through its lanes, into a box's top."""
    out = []
    for chain in house.chains:
        path: list[str] = []
        x = y = 0.0
        for a, b in pairwise(chain):
            start, x = house.port(a, b, 1), house.port(b, a, 0)
            above, y = house.bottom(a), house.tops[house.floor[b]]
            end = y - 6 if b == chain[-1] else y
            half = (above + end) / 2
            path.append(f"{'L' if path else 'M'}{start:.0f} {above:.0f}")
            path.append(f"C{start:.0f} {half:.0f} {x:.0f} {half:.0f} {x:.0f} {end:.0f}")
        out += arrow("".join(path), x, y, colour[chain[0]])
    return out


def boxes(house: Layout, plan: Plan, colour: Mapping[str, str]) -> list[str]:
    """Every room: its name, its size, and its sentence."""
    out = []
    for name, width in house.box.items():
        room, top = plan.rooms[name], house.tops[house.floor[name]]
        left, height = house.at[name] - width / 2, house.bottom(name) - top
        out += [
            f'<rect x="{left:.0f}" y="{top:.0f}" width="{width:.0f}" height="{height:.0f}" '
            f'rx="6" fill="white" stroke="{colour[name]}" stroke-width="1.5"/>',
            text(left + 12, top + 20, room.title, f'font-weight="bold" fill="{colour[name]}"'),
            text(left + 12, top + 34, room.size, 'font-size="10" fill="#777"'),
        ]
        for i, line in enumerate(house.lines[name]):
            out.append(text(left + 12, top + 51 + LINE * i, line, 'font-size="11"'))
    return out


def text(x: float, y: float, words: str, style: str = "") -> str:
    """A line of text."""
    return f'<text x="{x:.0f}" y="{y:.0f}" {style}>{escape(words)}</text>'


def arrow(path: str, x: float, y: float, colour: str, turn: int = 0) -> list[str]:
    """A line and its head, whose tip is at (x, y); it points down unless turned."""
    return [
        f'<path d="{path}" fill="none" stroke="{colour}" stroke-width="1.5"/>',
        f'<path d="M{x - 4:.0f} {y - 8:.0f}h8l-4 8z" fill="{colour}" '
        f'transform="rotate({turn} {x:.0f} {y:.0f})"/>',
    ]


def walls(house: Layout, top: float, bottom: float) -> str:
    """A house's outline: eaves at ``top``, a gable above."""
    half = house.width / 2 + EDGE
    left, right = house.middle - half, house.middle + half
    outline = f"M{left} {bottom:.0f}V{top:.0f}L{house.middle} {top - GABLE:.0f}L{right} {top:.0f}"
    return f'<path d="{outline}V{bottom:.0f}z" fill="{WALL}" stroke="#cfc8b8"/>'


def sign(house: Layout, top: float, name: str, colour: str) -> str:
    """A house's name in its gable; arrows pass behind it."""
    halo = f'stroke="{WALL}" stroke-width="6" paint-order="stroke"'
    style = f'font-weight="bold" font-size="15" text-anchor="middle" fill="{colour}"'
    return text(house.middle, top - 10, name, f"{style} {halo}")


def within(uses: Uses, names: Iterable[str]) -> dict[str, set[str]]:
    """The arrows among some rooms."""
    return {name: uses[name].intersection(names) for name in names}


def palette(plan: Plan) -> dict[str, str]:
    """A colour for each room, neighbours apart, and for each package that stands outside."""
    colour = dict(zip([*plan.guests, *plan.houses], cycle(reversed(COLOURS)), strict=False))
    for floors in plan.houses.values():
        colour |= zip((name for floor in floors for name in floor), cycle(COLOURS), strict=False)
    return colour


def draw(plan: Plan) -> str:
    """The picture: the core's house, guests on its roof, and the other houses at its right."""
    core, *annexes = plan.houses
    colour = palette(plan)
    inside = [name for floor in plan.houses[core] for name in floor]
    floors = [*([plan.guests] if plan.guests else []), *plan.houses[core]]
    uses = within(plan.uses, [*plan.guests, *inside])
    house = Layout(floors, uses, plan, left=2 * EDGE, width=CORE, apart=120)
    start = EDGE if plan.guests else EDGE + GABLE
    bottom = house.stack(start, AISLE, GABLE + EDGE if plan.guests else AISLE)
    top = house.tops[house.floor[inside[0]]]
    out = [walls(house, top - EDGE, bottom + EDGE)]
    out += arrows(house, colour) + boxes(house, plan, colour)
    out.append(sign(house, top - EDGE, core, "#222"))

    width = CORE + 3 * EDGE
    for annex in annexes:
        wing_rooms = [name for floor in plan.houses[annex] for name in floor]
        wing_uses = within(plan.uses, wing_rooms)
        wing = Layout(plan.houses[annex], wing_uses, plan, left=width + 3 * EDGE, width=WING)
        wing.stack(top, (bottom - top - sum(wing.heights)) / max(1, len(wing.heights) - 1))
        wall = width + 2 * EDGE
        width = wall + WING + 2 * EDGE
        out += [walls(wing, top - EDGE, bottom + EDGE)]
        out += [sign(wing, top - EDGE, annex, colour[annex])]
        for room in inside:
            if plan.uses[room].intersection(wing_rooms):
                x, y = house.at[room] + house.box[room] / 2, house.tops[house.floor[room]] + 20
                out += arrow(f"M{x:.0f} {y:.0f}H{wall - 6}", wall, y, colour[room], turn=-90)
        needs = set().union(*(plan.uses[name] for name in wing_rooms)).intersection(inside)
        for room, other in reduced({**uses, annex: needs}):
            if room == annex:
                x, y = house.at[other] + house.box[other] / 2 - 20, house.tops[house.floor[other]]
                path = f"M{wall} {y - 32:.0f}H{x + 12:.0f}q-12 0 -12 12V{y - 6:.0f}"
                out += arrow(path, x, y, colour[annex])
        out += arrows(wing, colour) + boxes(wing, plan, colour)

    width, height = width + EDGE, bottom + 2 * EDGE
    for line in textwrap.wrap(CAPTION, int((width - 2 * EDGE) / 6.8)):
        height += 17
        out.append(text(EDGE, height, line, 'fill="#555"'))
    head = (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:.0f} {height + EDGE:.0f}" '
        f'width="{width:.0f}" font-family="sans-serif" font-size="13" fill="#222">\n'
        f"<title>The rooms of {core} and the imports between them</title>\n"
        '<rect width="100%" height="100%" rx="8" fill="white"/>'
    )
    return "\n".join([head, *out, "</svg>"]) + "\n"


def table(plan: Plan) -> str:
    """The same facts in words, with every arrow."""
    core = next(iter(plan.houses))
    order = [*plan.guests, *(n for floors in plan.houses.values() for row in floors for n in row)]
    short = {name: f"`{name.removeprefix(f'{core}.')}`" for name in order}
    rows = ["| room | what it is | uses |", "|---|---|---|"]
    for name in order:
        uses = ", ".join(short[other] for other in order if other in plan.uses[name])
        sentence = plan.rooms[name].sentence.replace("|", r"\|")
        rows.append(f"| {short[name]} | {sentence} | {uses or 'nothing'} |")
    return "\n".join(rows)


def main() -> None:
    """Write the picture and the table, or check them."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--root", type=Path, default=Path(__file__).parent.parent)
    parser.add_argument("--check", action="store_true", help="write nothing, fail if out of date")
    options = parser.parse_args()
    plan = read_plan(options.root)
    if wrong := running_up(plan):
        sys.exit("\n".join(["The house does not stand:", *(f"  {each}" for each in wrong)]))

    picture, page = (options.root / "docs" / f"architecture.{kind}" for kind in ("svg", "md"))
    old = page.read_text() if page.exists() else PAGE
    if not 0 <= old.find(BEGIN) < old.find(END):
        sys.exit(f"{page}: the table belongs between {BEGIN} and {END}, which are not there")
    before, after = old.split(BEGIN)[0], old.split(END)[1]
    drawn = {picture: draw(plan), page: f"{before}{BEGIN}\n{table(plan)}\n{END}{after}"}
    stale = [file for file, new in drawn.items() if not file.exists() or file.read_text() != new]
    if options.check and stale:
        names = " and ".join(file.relative_to(options.root).as_posix() for file in stale)
        sys.exit(f"{names}: not what the imports say; run `python .ci/draw_house.py` and commit")
    for file in stale:
        file.write_text(drawn[file])


if __name__ == "__main__":
    main()
