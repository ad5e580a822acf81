"""Progress bars for long work: on a terminal, and nowhere else."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

MANY = 64  # fewer than this is over before a bar is read


@contextmanager
def progress(
    what: str, total: int, show: bool | None = None, *, many: int = MANY
) -> Iterator[Callable[[float], None]]:
    """A bar on stderr that the yielded function advances.

    Args:
        what: What is being done, for the label.
        total: How many units there are.
        show: None decides: a terminal, and enough to do.
        many: What is enough.
    """
    if not (sys.stderr.isatty() and total >= many if show is None else show):
        yield lambda _: None
        return
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeRemainingColumn,
    )

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    with Progress(*columns, TimeRemainingColumn(), console=Console(stderr=True)) as bar:
        task = bar.add_task(what, total=total)
        yield lambda n: bar.advance(task, n)


@contextmanager
def status(what: str) -> Iterator[None]:
    """A spinner on stderr while something of unknown length goes on; nothing where none is seen."""
    from rich.console import Console

    console = Console(file=sys.stderr)  # also while the block sends stderr elsewhere
    if console.is_terminal:
        with console.status(what):
            yield
    else:
        yield


@contextmanager
def quiet_transformers() -> Iterator[None]:
    """Without transformers' own bars, which are drawn whether or not there is a terminal."""
    from transformers.utils import logging

    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()
