"""A run's report: one HTML file with its curves, checks, numbers and recipe, readable offline."""

from __future__ import annotations

import io
import json
import re
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from jinja2 import Environment
from markupsafe import Markup, escape

from gem_rag.errors import GemError, MissingExtraError
from gem_rag.files import atomic_write
from gem_rag_train.monitor.heldout import CHECKS
from gem_rag_train.recipes.config import LOG, RECIPE

if TYPE_CHECKING:
    from matplotlib.axes import Axes

REPORT = "report.html"
BEST_BY = "heldout_ndcg10"  # where the recipe names no best_metric
TEMPLATE = Path(__file__).with_name("report.html.jinja")

STROKES = {"before": "--", "if spread evenly": ":"}
COLOURS = ("#3b82f6", "#f97316", "#10b981", "#a855f7", "#ef4444", "#94a3b8")  # on light and dark
INK = "#010203"  # stands for the page's text colour until the SVG is in the page
MOST_POINTS = 400  # of a curve; of a longer run neighbouring steps are averaged
MANY_POINTS = 100  # from here on a curve is drawn faint, and its running mean over it

Row = Mapping[str, float]
Curve = tuple[Sequence[float], Sequence[float]]


@dataclass(frozen=True)
class Panel:
    """Curves that share an axis.

    Attributes:
        title: What is shown.
        unit: Label of the y axis.
        keys: Names in the log; ``loss`` takes ``loss_ntp`` as well.
        log_scale: Of the y axis.
    """

    title: str
    unit: str
    keys: tuple[str, ...]
    log_scale: bool = False

    def takes(self, key: str) -> bool:
        """Whether this log key is one of the panel's curves."""
        return any(key == k or key.startswith(f"{k}_") for k in self.keys)


PANELS = (
    Panel("Held-out retrieval", "share", ("heldout_ndcg10", "heldout_recall1")),
    Panel(
        "Loss",
        "nats",
        ("loss", "contrastive", "alignment", "neighbourhood", "distillation", "ranking", "ntp"),
    ),
    Panel("Accuracy within the batch", "share", ("accuracy",)),
    Panel("Held-out next-token loss", "nats per token", ("heldout_ntp_loss",)),
    Panel("Alignment: distance of positives", "squared distance", ("heldout_alignment",)),
    Panel("Uniformity: evenness of the space", "log potential", ("heldout_uniformity",)),
    Panel("Temperature", "1 / scale of similarities", ("temperature",)),
    Panel("Gradient norm", "norm before clipping", ("grad_norm",), log_scale=True),
    Panel("Learning rate", "size of a step", ("lr",)),
    Panel("Weight of the contrastive loss", "alpha", ("alpha",)),
    Panel("Speed", "tokens per second", ("tokens_per_second",)),
)


def write_report(run_folder: str | Path, checkpoint_folder: str | Path) -> Path:
    """Write ``report.html`` beside a checkpoint's weights.

    Args:
        run_folder: Holds ``log.jsonl``, and ``checks.json`` where `HeldOut.record_checks` made it.
        checkpoint_folder: Holds ``recipe.toml``, the resolved recipe; the report goes there.

    Returns:
        The report's path.

    Raises:
        GemError: The run has no log.
        MissingExtraError: matplotlib is not installed.
    """
    run, checkpoint = Path(run_folder), Path(checkpoint_folder)
    log = run / LOG
    if not log.exists():
        raise GemError(f"{run} has no {LOG}; expected the folder of a run that made steps")
    rows = [json.loads(line) for line in log.read_text(encoding="utf-8").splitlines()]
    if not rows:
        raise GemError(f"{log} is empty; expected the folder of a run that made steps")
    checks = json.loads(_text(run / CHECKS) or "{}")
    recipe = tomllib.loads(_text(checkpoint / RECIPE))
    metric = recipe.get("best_metric", BEST_BY)
    best = best_step(rows, metric)
    page = Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True).from_string(
        TEMPLATE.read_text(encoding="utf-8")
    )
    html = page.render(
        name=checkpoint.name,
        base=recipe.get("base", ""),
        steps=rows[-1]["step"],
        best=best,
        metric=metric,
        highlights=highlights(rows, best),
        measures=measures(rows, best),
        curves=[Markup(svg) for svg in curves(rows, best)],
        checks=check_rows(checks),
        check_plots=[Markup(svg) for svg in check_plots(checks)],
        recipe=dict(flat(recipe)),
    )
    atomic_write(checkpoint / REPORT, html)
    return checkpoint / REPORT


def best_step(rows: Sequence[Row], metric: str = BEST_BY) -> int | None:
    """The first step with the best value: the highest, of a loss the lowest; None without any."""
    sign = -1 if metric.endswith("_loss") else 1
    measured = [row for row in rows if metric in row]
    return int(max(measured, key=lambda r: sign * r[metric])["step"]) if measured else None


def highlights(rows: Sequence[Row], best: int | None) -> list[tuple[str, str]]:
    """The few numbers a reader wants first."""
    at = next((row for row in rows if row["step"] == best), rows[-1])
    names = {
        "heldout_ndcg10": "held-out nDCG@10",
        "heldout_recall1": "held-out recall@1",
        "heldout_ntp_loss": "next-token loss",
        "loss": "loss",
    }
    shown = [(label, number(at[key])) for key, label in names.items() if key in at]
    speeds = [row["tokens_per_second"] for row in rows if "tokens_per_second" in row]
    return [*shown, ("tokens/s, median", f"{np.median(speeds):,.0f}")] if speeds else shown


def measures(rows: Sequence[Row], best: int | None) -> list[tuple[str, list[str]]]:
    """Everything logged, at the first step it was, at the best one and at the last one."""
    table = []
    for key in keys_of(rows):
        of_key = [row for row in rows if key in row]
        at_best = [number(row[key]) for row in of_key if row["step"] == best] or [""]
        table.append((key, [number(of_key[0][key]), *at_best, number(of_key[-1][key])]))
    return table


def keys_of(rows: Sequence[Row]) -> list[str]:
    """The log's curves, in the order in which they first appear."""
    found = dict.fromkeys(k for row in rows for k, v in row.items() if isinstance(v, int | float))
    return [key for key in found if key != "step"]


def curves(rows: Sequence[Row], best: int | None) -> Iterator[str]:
    """SVGs of all that was logged; what no panel takes has one of its own."""
    keys = keys_of(rows)
    others = [k for k in keys if not any(panel.takes(k) for panel in PANELS)]
    for panel in (*PANELS, *(Panel(label(k), "", (k,)) for k in others)):
        lines = {label(k): curve(rows, k) for k in keys if panel.takes(k)}
        if lines:
            yield draw(panel.title, "step", panel.unit, lines, best, log_y=panel.log_scale)


def curve(rows: Sequence[Row], key: str) -> Curve:
    """Steps and values, neighbours averaged where there are more than can be seen."""
    points = np.array([(row["step"], row[key]) for row in rows if key in row], dtype=np.float64)
    parts = np.array_split(points, min(len(points), MOST_POINTS))
    steps, values = np.array([part.mean(0) for part in parts]).T
    return steps.tolist(), values.tolist()


def smooth(values: Sequence[float]) -> list[float]:
    """The running mean over a twentieth of the curve; fewer values at its ends."""
    window = np.ones(len(values) // 20 | 1)
    counts = np.convolve(np.ones(len(values)), window, "same")
    smoothed: list[float] = (np.convolve(values, window, "same") / counts).tolist()
    return smoothed


def check_plots(checks: Mapping[str, Any]) -> Iterator[str]:
    """SVGs of the checks that are a curve: attention by layer, stability by length."""
    if not checks:
        return
    for task in ("reconstruction", "continuation"):
        looks = {w: check["bottleneck"][task]["gem"]["attention"] for w, check in checks.items()}
        lines: dict[str, Curve] = {
            when: (range(1, len(look["special"]) + 1), look["special"])
            for when, look in looks.items()
        }
        look = next(iter(looks.values()))
        lines["if spread evenly"] = [1, len(look["special"])], [look["even"]] * 2
        title = f"Attention on the specials, {task}"
        yield draw(title, "layer", "share of the suffix's attention", lines)
    for key, what in (("cosine", "cosine with the whole"), ("recall1", "own text found first")):
        by_length: dict[str, Curve] = {
            when: ([int(n) for n in found], [values[key] for values in found.values()])
            for when, found in ((w, check["stability"]) for w, check in checks.items())
        }
        yield draw(f"A text's start: {what}", "tokens of the start", what, by_length, log_x=True)


def check_rows(checks: Mapping[str, Any]) -> list[tuple[str, list[str]]]:
    """The checks' numbers, before and after."""
    found = {when: dict(check_numbers(values)) for when, values in checks.items()}
    names = dict.fromkeys(name for values in found.values() for name in values)
    whens = ("before", "after")
    return [
        (name, [number(found[w][name]) if name in found.get(w, {}) else "" for w in whens])
        for name in names
    ]


def check_numbers(check: Mapping[str, Any]) -> Iterator[tuple[str, float]]:
    """One `HeldOut.check` as named numbers."""
    notes = {"alignment": " (lower: positives are nearer)", "uniformity": " (lower: more even)"}
    for key, value in check["heldout"].items():
        yield f"held-out {label(key)}{notes.get(label(key), '')}", value
    for task, rules in check["bottleneck"].items():
        for rule, values in rules.items():
            sees = "through the specials" if rule == "gem" else "control: prefix in sight"
            yield f"{task}, {sees}: next-token accuracy", values["accuracy"]
            yield f"{task}, {sees}: loss, nats per token", values["loss"]
            attention = values["attention"]
            yield f"{task}, {sees}: attention on the specials", np.mean(attention["special"])
            yield f"{task}, {sees}: the same if spread evenly", attention["even"]
    for length, values in check["stability"].items():
        start = f"first {length} tokens ({values['texts']} texts)"
        yield f"{start}: cosine with the whole", values["cosine"]
        yield f"{start}: own text found first", values["recall1"]


def draw(
    title: str,
    x_label: str,
    y_label: str,
    lines: Mapping[str, Curve],
    mark: int | None = None,
    *,
    log_x: bool = False,
    log_y: bool = False,
) -> str:
    """A plot as an SVG element in the page's own colours and type.

    Args:
        title: Of the plot.
        x_label: Of the x axis.
        y_label: Of the y axis, with its unit.
        lines: Curves by their name in the legend.
        mark: Where a vertical line shows the best step.
        log_x: Powers of two on the x axis.
        log_y: A logarithmic y axis.

    Raises:
        MissingExtraError: matplotlib is not installed.
    """
    try:
        import matplotlib as mpl
        from matplotlib.figure import Figure
    except ImportError as error:
        raise MissingExtraError("the training report", "train") from error
    style: dict[Any, Any] = {
        "svg.fonttype": "none",
        "svg.hashsalt": title,  # ids that differ between the plots of a page, not between runs
        "font.size": 10,
        **dict.fromkeys(("text.color", "axes.labelcolor", "xtick.color", "ytick.color"), INK),
    }
    with mpl.rc_context(style):
        figure = Figure(figsize=(4.8, 3.1), layout="constrained")
        axes = figure.add_subplot()
        for i, (name, (x, y)) in enumerate(lines.items()):
            dots = "o" if len(x) <= 40 else None
            colour = COLOURS[i % len(COLOURS)]
            stroke = STROKES.get(name, "-")
            if len(x) > MANY_POINTS:
                axes.plot(x, y, color=colour, alpha=0.3, lw=0.8)
                y = smooth(y)
            axes.plot(x, y, color=colour, label=name, ls=stroke, lw=1.6, marker=dots, ms=3.5)
        if mark is not None:
            axes.axvline(mark, color=INK, alpha=0.8, lw=1, ls=":", label=f"best step, {mark}")
        _dress(axes, title, x_label, y_label)
        columns = min(3, len(axes.get_legend_handles_labels()[0]))
        figure.legend(loc="outside lower center", ncols=columns, frameon=False, fontsize=9)
        if log_x:
            axes.set_xscale("log", base=2)
            axes.xaxis.set_major_formatter("{x:.0f}")
        if log_y:
            axes.set_yscale("log")
        file = io.StringIO()
        nothing = dict.fromkeys(("Creator", "Date", "Format", "Type"))
        figure.savefig(file, format="svg", transparent=True, metadata=nothing)
    return _for_page(file.getvalue(), title)


def _dress(axes: Axes, title: str, x_label: str, y_label: str) -> None:
    axes.set_title(title, loc="left", fontsize=11, fontweight="bold")
    axes.set_xlabel(x_label)
    axes.set_ylabel(y_label)
    axes.grid(color=INK, alpha=0.12, lw=0.8)
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set(color=INK, alpha=0.4)


def _for_page(svg: str, title: str) -> str:
    """The element alone, without namespaces (HTML knows them), fixed size and generic ids."""
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r'\s+xmlns(:\w+)?="[^"]*"', "", svg)
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    svg = re.sub(r'<g id="[^"]*"', "<g", svg)
    svg = re.sub(r' (width|height)="[\d.]+pt"', "", svg, count=2)
    svg = svg.replace("<svg", f'<svg role="img" aria-label="{escape(title)}"', 1)
    return svg.replace(INK, "currentColor")


def label(key: str) -> str:
    """A log key as words."""
    words = {
        "heldout_ndcg10": "nDCG@10",
        "heldout_recall1": "recall@1",
        "heldout_ntp_loss": "next-token loss",
        "lr": "learning rate",
        "grad_norm": "gradient norm",
    }
    return words.get(key, key.removeprefix("heldout_").replace("_", " "))


def number(value: float) -> str:
    """Four significant digits; whole numbers whole."""
    return f"{value:,}" if isinstance(value, int) else f"{value:.4g}"


def flat(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Nested settings as ``shares.crops``."""
    for key, value in values.items():
        if isinstance(value, Mapping):
            yield from flat(value, f"{prefix}{key}.")
        else:
            yield prefix + key, value


def _text(path: Path) -> str:
    return path.read_text(encoding="utf-8") if path.exists() else ""
