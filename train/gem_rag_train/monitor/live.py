"""What a run shows while it goes on: a live line on the terminal, and TensorBoard."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from gem_rag.errors import MissingExtraError

Facts = dict[str, float]
Report = Callable[[Facts], None]

LABELS = {
    "loss": "loss {:.3f}",
    "ntp": "ntp {:.3f}",
    "contrastive": "contrastive {:.3f}",
    "alignment": "alignment {:.3f}",
    "neighbourhood": "neighbourhood {:.3f}",
    "distillation": "distillation {:.3f}",
    "ranking": "ranking {:.3f}",
    "alpha": "alpha {:.2f}",
    "accuracy": "acc {:.2f}",
    "temperature": "T {:.3f}",
    "grad_norm": "|g| {:.2f}",
    "tokens_per_second": "{:.0f} tokens/s",
}


@contextmanager
def reports(
    steps: int, start: int, *, show: bool, tensorboard: Path | None
) -> Iterator[Callable[[Facts], None]]:
    """Everything that wants a step's facts, as one function.

    Args:
        steps: Of the whole run.
        start: The step it goes on from.
        show: A live line on the terminal.
        tensorboard: Folder for TensorBoard, or None.

    Raises:
        MissingExtraError: TensorBoard is not installed.
    """
    with ExitStack() as stack:
        to: list[Report] = []
        if tensorboard is not None:
            to.append(stack.enter_context(_tensorboard(tensorboard, start)))
        if show:
            to.append(stack.enter_context(_live_line(steps, start)))

        def report(facts: Facts) -> None:
            for one in to:
                one(facts)

        yield report


@contextmanager
def _live_line(steps: int, start: int) -> Iterator[Report]:
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (
        TextColumn("step {task.completed}/{task.total}"),
        BarColumn(bar_width=20),
        TextColumn("{task.description}"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=Console(stderr=True)) as bar:
        task = bar.add_task("", total=steps, completed=start)
        yield lambda facts: bar.update(task, advance=1, description=line(facts))


def line(facts: Facts) -> str:
    """A step's facts in words: what the step computed, and what was measured last."""
    known = [label.format(facts[name]) for name, label in LABELS.items() if name in facts]
    measured = [f"{k} {v:.3f}" for k, v in facts.items() if k.startswith("heldout_")]
    return "  ".join([*known, *measured])


def summary_writer() -> Any:
    """TensorBoard's writer, a class.

    Raises:
        MissingExtraError: The extra ``tensorboard`` is not installed.
    """
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as error:
        raise MissingExtraError("logging to TensorBoard", "tensorboard") from error
    return SummaryWriter


@contextmanager
def _tensorboard(folder: Path, start: int) -> Iterator[Report]:
    with summary_writer()(str(folder), purge_step=start + 1) as writer:

        def report(facts: Facts) -> None:
            for name, value in facts.items():
                writer.add_scalar(name, value, int(facts["step"]))

        yield report
