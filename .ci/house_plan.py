"""The plan of the house: its rooms, floors and arrows, from pyproject.toml and the imports."""

from __future__ import annotations

import ast
import sys
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import grimp

STEPS = (1, 1.5, 2, 3, 4, 5, 7)
SIZES = sorted(int(step * scale) for step in STEPS for scale in (10, 100, 1_000, 10_000))
Uses = Mapping[str, set[str]]


@dataclass(frozen=True)
class Room:
    """A folder or module of a house, or a whole package that stands beside it."""

    name: str
    title: str
    sentence: str
    size: str


@dataclass(frozen=True)
class Plan:
    """Every room, the floors of each house from the top, and which rooms each one imports."""

    rooms: dict[str, Room]
    houses: dict[str, list[list[str]]]  # package -> floors; the first is the core
    guests: list[str]  # packages without floors
    uses: dict[str, set[str]]
    unplaced: list[str]


def read_room(name: str, title: str, at: Path) -> Room:
    """Name, size and first sentence of what is at a path without its suffix."""
    files = sorted(at.rglob("*.py")) if at.is_dir() else [at.with_suffix(".py")]
    lines = sum(len(file.read_text().splitlines()) for file in files)
    about = min(SIZES, key=lambda size: abs(size - lines))  # coarse, or each commit would redraw
    text = (at / "__init__.py" if at.is_dir() else files[0]).read_text()
    first = " ".join((ast.get_docstring(ast.parse(text)) or "").split("\n\n")[0].split())
    sentence = first.split(". ")[0].rstrip(".").replace("`", "") + "." * bool(first)
    count = f"{len(files)} file" + "s" * (len(files) > 1)
    return Room(name, title, sentence, f"{count}, about {about:,} lines")


def read_plan(root: Path) -> Plan:
    """The plan of a checkout, from pyproject.toml and the imports of its packages."""
    settings = tomllib.loads((root / "pyproject.toml").read_text())["tool"]
    folders = [root / p for p in settings["hatch"]["build"]["targets"]["wheel"]["packages"]]
    homes = {folder.name: folder for folder in folders}
    sys.path[:0] = [str(folder.parent) for folder in folders]
    graph = grimp.build_graph(*homes, cache_dir=None, exclude_type_checking_imports=False)

    houses = {}
    for contract in settings["importlinter"]["contracts"]:
        layered = contract["type"] == "layers" and homes.keys() & contract.get("containers", [])
        for package in sorted(layered or []):
            floors = [layer.replace(":", "|").split("|") for layer in contract["layers"]]
            named = [[f"{package}.{name.strip(' ()')}" for name in floor] for floor in floors]
            houses[package] = [[n for n in f if n in graph.modules] for f in named]
    if not houses:
        sys.exit("pyproject.toml: no `layers` contract with containers, so there are no floors")
    houses = {package: [f for f in floors if f] for package, floors in houses.items()}

    guests = [package for package in homes if package not in houses]
    rooms = {name: read_room(name, name, homes[name]) for name in guests}
    for package, floors in houses.items():
        for name in (name for floor in floors for name in floor):
            title = name.rpartition(".")[2]
            rooms[name] = read_room(name, title, homes[package] / title)
    uses: dict[str, set[str]] = {name: set() for name in rooms}
    for module in graph.modules:
        for other in graph.find_modules_directly_imported_by(module):
            here, there = room_of(module, rooms), room_of(other, rooms)
            if here and there and here != there:
                uses[here].add(there)
    children = {child for package in houses for child in graph.find_children(package)}
    return Plan(rooms, houses, guests, uses, sorted(children - rooms.keys()))


def room_of(module: str, rooms: Mapping[str, Room]) -> str | None:
    """The room that a module stands in; a house's own ``__init__``, its door, is in none."""
    parts = module.split(".")
    return next((r for r in (parts[0], ".".join(parts[:2])) if r in rooms), None)


def running_up(plan: Plan) -> list[str]:
    """Arrows that do not lead to a lower floor, rooms on no floor, and packages in a circle."""
    core, *annexes = plan.houses
    level = {n: i for floors in plan.houses.values() for i, f in enumerate(floors) for n in f}
    package = {name: name.split(".")[0] for name in plan.rooms}
    pairs = [(room, other) for room in plan.uses for other in sorted(plan.uses[room])]
    wrong = [f"{room} is on no floor of the contract" for room in plan.unplaced]
    for room, other in pairs:
        here, there = package[room], package[other]
        if here == there and level[room] >= level[other]:
            wrong.append(f"{room} -> {other} runs up")
        elif here != there and (there in plan.guests or (there in annexes and here != core)):
            wrong.append(f"{room} -> {other}: nothing may stand on {there}")
    for annex in annexes:
        callers = [a for a, b in pairs if package[a] == core and package[b] == annex]
        used = [b for a, b in pairs if package[a] == annex and package[b] == core]
        wrong += [
            f"{low} -> {annex} -> {high} runs up"
            for low in sorted(set(callers))
            for high in sorted(set(used))
            if level[low] >= level[high]
        ]
    return wrong


def reduced(uses: Uses) -> list[tuple[str, str]]:
    """The arrows that no longer path implies."""

    @cache
    def below(room: str) -> set[str]:
        return uses[room].union(*(below(other) for other in uses[room]))

    return [
        (room, other)
        for room in uses
        for other in sorted(uses[room])
        if not any(other in below(via) for via in uses[room] - {other})
    ]
