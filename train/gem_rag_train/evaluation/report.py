"""The report: ``eval.json``, a Markdown table, and plots."""

from __future__ import annotations

import dataclasses
import itertools
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gem_rag.files import atomic_write
from gem_rag_train.evaluation.measures import Measure
from gem_rag_train.evaluation.statistics import Score
from gem_rag_train.evaluation.systems import (
    BASE,
    CHECKPOINT,
    HYBRID,
    MEAN_POOLED,
    MINILM,
    MINILM_WORDS,
    VECTORS,
    WORDS,
)

COLOURS = {
    BASE: "#9a9a9a",
    MEAN_POOLED: "#c9b458",
    WORDS: "#8a7aa8",
    MINILM: "#5b8db8",
    MINILM_WORDS: "#2f5d86",
    VECTORS: "#e0a19f",
    HYBRID: "#d17572",
    CHECKPOINT: "#c0504d",
}
SYSTEMS = tuple(COLOURS)
JSON_FILE, TABLE_FILE = "eval.json", "eval.md"
PART = {"stsb": "sts", "mteb": "mteb"}  # settings of one part, of no matter to the others
OF_ONE_PART = {"only": None, **dict.fromkeys(PART)}
NOTHING = "–"


@dataclass(frozen=True)
class Report:
    """What was measured, of what, and how.

    Attributes:
        facts: Checkpoint, fingerprint, base, scope, versions.
        settings: Sizes and seed.
        measures: The lines of the table.
    """

    facts: dict[str, Any]
    settings: dict[str, Any]
    measures: list[Measure]

    @property
    def systems(self) -> list[str]:
        """The systems that have a score anywhere."""
        return [s for s in SYSTEMS if any(s in m.scores for m in self.measures)]

    def after(self, folder: Path) -> Report:
        """With what a folder's report of the same checkpoint and sizes has beyond these parts.

        Any other report there is set aside, as ``eval-1.json`` and so on.
        """
        try:
            stored = json.loads((folder / JSON_FILE).read_text(encoding="utf-8"))
            told = [stored["facts"], {**stored["settings"], **OF_ONE_PART}]
            measures = [Measure.from_dict(m) for m in stored["measures"]]
        except FileNotFoundError:
            return self
        except (OSError, ValueError, KeyError, TypeError):  # another version's
            _set_aside(folder)
            return self
        mine = json.loads(json.dumps([self.facts, {**self.settings, **OF_ONE_PART}]))
        if told != mine:
            _set_aside(folder)
            return self
        now = self.settings["only"]
        other = [m for m in measures if m.part not in now]
        kept = {name: stored["settings"][name] for name, part in PART.items() if part not in now}
        parts = [*dict.fromkeys(m.part for m in other), *now]
        return Report(self.facts, {**self.settings, **kept, "only": parts}, other)

    def to_dict(self) -> dict[str, Any]:
        """As JSON has it."""
        return dataclasses.asdict(self)

    def write(self, folder: Path, draw: Sequence[str] | None = None) -> None:
        """``eval.json``, ``eval.md`` and a plot for each part, in a folder.

        Args:
            folder: Where.
            draw: Parts whose plots are drawn; the others' are there. None is all.
        """
        atomic_write(folder / JSON_FILE, json.dumps(self.to_dict(), indent=2) + "\n")
        for part, measures in self.parts().items():
            if draw is None or part in draw:
                _plot(part, measures, folder / f"{part}.svg")
        atomic_write(folder / TABLE_FILE, self.markdown())

    def parts(self) -> dict[str, list[Measure]]:
        """The measures of each part."""
        parts: dict[str, list[Measure]] = {}
        for line in self.measures:
            parts.setdefault(line.part, []).append(line)
        return parts

    def markdown(self) -> str:
        """Facts, one table with all systems side by side, notes, plots."""
        notes = list(dict.fromkeys(m.note for m in self.measures if m.note))
        lines = [
            f"# Evaluation of {self.facts['checkpoint']}",
            "",
            *(f"- {name}: {value}" for name, value in {**self.facts, **self.settings}.items()),
            "",
            *table(self.measures, notes),
            "",
            "Brackets: 95 % bootstrap intervals over items; the difference is paired, and bold "
            "where its interval does not hold zero.",
            "",
            *(f"{number}. {note}" for number, note in enumerate(notes, 1)),
            "",
            *(f"![{part}]({part}.svg)" for part in self.parts()),
        ]
        return "\n".join(lines) + "\n"


def table(measures: Sequence[Measure], notes: Sequence[str] = ()) -> list[str]:
    """The lines of a Markdown table."""
    present = [s for s in SYSTEMS if any(s in m.scores for m in measures)]
    rows = [["task", "metric", "items", *present, f"{CHECKPOINT} minus"]]
    for m in measures:
        mark = f" ({notes.index(m.note) + 1})" if m.note in notes else ""
        scores = [shown(m.scores[s]) if s in m.scores else NOTHING for s in present]
        rows.append(
            [
                m.task + mark,
                m.metric,
                NOTHING if m.items is None else f"{m.items:,}",
                *scores,
                _difference(m),
            ]
        )
    cells = ["| " + " | ".join(row) + " |" for row in rows]
    return [cells[0], "|" + "---|" * len(rows[0]), *cells[1:]]


def shown(score: Score, sign: str = "") -> str:
    """A number with its interval."""
    if score.low is None or score.high is None:
        return f"{score.value:{sign}.3f}"
    return f"{score.value:{sign}.3f} [{score.low:{sign}.3f}, {score.high:{sign}.3f}]"


def _difference(m: Measure) -> str:
    if m.difference is None:
        return NOTHING
    text = shown(m.difference, "+")
    low, high = m.difference.low, m.difference.high
    clear = low is not None and high is not None and low * high > 0
    return f"{m.against}: " + (f"**{text}**" if clear else text)


def _set_aside(folder: Path) -> None:
    """Rename the table and its JSON: they took hours, and are of something else."""
    number = next(n for n in itertools.count(1) if not (folder / f"eval-{n}.json").exists())
    for name in (JSON_FILE, TABLE_FILE):
        file = folder / name
        if file.exists():
            file.replace(file.with_stem(f"{file.stem}-{number}"))


def _plot(part: str, measures: Sequence[Measure], file: Path) -> None:
    """Bars with intervals, one group for each measure, one panel for each metric."""
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    metrics = list(dict.fromkeys(m.metric for m in measures))
    figure = Figure(figsize=(9, 1.2 + 0.85 * len(measures)), layout="constrained")
    FigureCanvasSVG(figure)
    sizes = [sum(m.metric == metric for m in measures) for metric in metrics]
    panels = figure.subplots(len(metrics), 1, squeeze=False, height_ratios=sizes)[:, 0]
    for panel, metric in zip(panels, metrics, strict=True):
        _bars(panel, [m for m in measures if m.metric == metric], metric)
    panels[0].set_title(part)
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=len(SYSTEMS))
    figure.savefig(file, metadata={"Date": None})


def _bars(panel: Any, measures: Sequence[Measure], metric: str) -> None:
    present = [s for s in SYSTEMS if any(s in m.scores for m in measures)]
    height = 0.8 / len(present)
    for i, system in enumerate(present):
        rows = [(y, m.scores[system]) for y, m in enumerate(measures) if system in m.scores]
        values = [score.value for _, score in rows]
        below = [s.value - (s.value if s.low is None else s.low) for _, s in rows]
        above = [(s.value if s.high is None else s.high) - s.value for _, s in rows]
        panel.barh(
            [y + (i - (len(present) - 1) / 2) * height for y, _ in rows],
            values,
            height=height * 0.9,
            xerr=[[max(0.0, b) for b in below], [max(0.0, a) for a in above]],
            color=COLOURS[system],
            error_kw={"elinewidth": 0.8, "capsize": 2},
            label=system,
        )
    panel.set_yticks(range(len(measures)), [m.task for m in measures], fontsize=8)
    panel.invert_yaxis()
    panel.set_xlabel(metric)
    panel.grid(axis="x", alpha=0.3)
