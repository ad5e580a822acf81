"""What `speed.py` and `scaling.py` found, as Markdown and plots, to print or for the docs."""

from __future__ import annotations

import os
import platform
import statistics
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sides import ROOT
from speed_rows import (
    AIMS,
    FORMATS,
    LLAMA,
    MINILM,
    SAME_BASE,
    TODAY,
    TWO_MODELS,
    TWO_MODELS_BF16,
    Verdict,
    more_is_better,
    verdict,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes

DOCS = ROOT / "docs"
PAGE = DOCS / "speed.md"
ORDER = (*FORMATS, TODAY, TWO_MODELS, TWO_MODELS_BF16, MINILM, SAME_BASE, LLAMA)
OWN, OLD, PEER = "#2a7ab9", "#8a8a8a", "#d08a2e"


def machine() -> str:
    """Which one this is."""
    name = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.exists():
        lines = info.read_text().splitlines()
        name = next((line.split(":")[1].strip() for line in lines if "model name" in line), name)
    return f"{name}, {os.cpu_count()} cores"


def middles(report: Mapping[str, Any]) -> dict[str, dict[str, float]]:
    """Medians, by measurement and side."""
    return {
        what: {side: statistics.median(values) for side, values in sides.items()}
        for what, sides in report["samples"].items()
    }


def tables(report: Mapping[str, Any]) -> str:
    """Aims, all numbers, and who took part."""
    values = middles(report)
    verdicts = [found for aim in AIMS if (found := verdict(aim, values, report["default"]))]
    sides = [side for side in ORDER if any(side in found for found in values.values())]
    parts = [
        markdown(
            ("what", "now", "beside", "ratio", "floor", "goal", "reached"),
            [_line(found) for found in verdicts],
        ),
        markdown(
            ("median", *sides),
            [
                (what, *(number(found[s]) if s in found else "" for s in sides))
                for what, found in values.items()
            ],
        ),
        "\n".join(_notes(report)),
    ]
    return "\n\n".join(parts)


def _line(found: Verdict) -> tuple[str, ...]:
    aim = found.aim
    return (
        aim.what,
        f"{number(found.value)} ({found.side})",
        f"{number(found.beside)} ({aim.other})",
        f"{found.ratio:.2f}",
        _bound(aim.what, aim.floor),
        _bound(aim.what, aim.goal),
        found.reached,
    )


def _bound(what: str, bound: float | None) -> str:
    if bound is None:
        return ""
    return f"{'>=' if more_is_better(what) else '<='} {bound:.2f}"


def _notes(report: Mapping[str, Any]) -> Iterable[str]:
    yield f"{report['machine']}; {report['threads']} threads, {report['rounds']} rounds."
    yield f"The default format is {report['default']}."
    if report["quick"]:
        yield "**A quick run: the numbers mean nothing.**"
    # Where a side is installed says nothing to a reader: the folder is left out.
    yield from (f"{side}: {_without_folders(what)}." for side, what in report["sides"].items())
    yield from (f"Left out: {who}: {why}." for who, why in report["left_out"].items())


def _without_folders(what: str) -> str:
    return ", ".join(part for part in what.split(", ") if not part.startswith("/"))


def number(value: float) -> str:
    """Three digits."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def markdown(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def put_into_docs(name: str, text: str) -> None:
    """Between the page's marks of that name."""
    begin, end = f"<!-- {name}:begin -->", f"<!-- {name}:end -->"
    page = PAGE.read_text(encoding="utf-8")
    before, _, rest = page.partition(begin)
    _, _, after = rest.partition(end)
    PAGE.write_text(f"{before}{begin}\n{text}\n{end}{after}", encoding="utf-8")


def plot(report: Mapping[str, Any]) -> None:
    """A panel for each measurement, a bar for each side."""
    values = middles(report)
    columns = 3
    lines = -(-len(values) // columns)
    with figure(DOCS / "speed.svg", (4.4 * columns, 2.1 * lines), lines, columns) as panels:
        for panel, (what, found) in zip(panels, values.items(), strict=False):
            _bars(panel, what, found)
        for panel in panels[len(values) :]:
            panel.set_visible(False)


def _bars(panel: Axes, what: str, found: Mapping[str, float]) -> None:
    sides = [side for side in ORDER if side in found][::-1]
    colours = [OWN if side in FORMATS else OLD if side == TODAY else PEER for side in sides]
    bars = panel.barh(sides, [found[side] for side in sides], color=colours)
    panel.bar_label(bars, [number(found[side]) for side in sides], padding=3, fontsize=7)
    panel.set_title(what, fontsize=8, loc="left")
    panel.tick_params(labelsize=7)
    panel.set_xticks([])
    panel.margins(x=0.2)
    panel.spines[["top", "right", "bottom"]].set_visible(False)


class figure:  # noqa: N801 - used as a function
    """Panels that are written to a file as SVG."""

    def __init__(self, file: Path, size: tuple[float, float], lines: int, columns: int) -> None:
        from matplotlib.backends.backend_svg import FigureCanvasSVG
        from matplotlib.figure import Figure

        self._file = file
        self._figure = Figure(figsize=size, layout="constrained")
        FigureCanvasSVG(self._figure)
        self._panels = list(self._figure.subplots(lines, columns, squeeze=False).flat)

    def __enter__(self) -> list[Axes]:
        return self._panels

    def __exit__(self, failed: type[BaseException] | None, *_: object) -> None:
        if failed is None:
            import matplotlib as mpl

            with mpl.rc_context({"svg.fonttype": "none", "svg.hashsalt": self._file.stem}):
                self._figure.savefig(self._file, metadata={"Date": None})
