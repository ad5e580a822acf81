"""Ctrl-C during a run: the step that is at work is finished, and the state saved."""

from __future__ import annotations

import signal
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType


class Interrupt:
    """Whether Ctrl-C was pressed."""

    def __init__(self) -> None:
        self.came = False

    def __call__(self, *_: int | FrameType | None) -> None:
        """Take note of the first; the second stops at once."""
        if self.came:
            raise KeyboardInterrupt
        self.came = True
        warnings.warn("stopping after this step; Ctrl-C again stops at once", stacklevel=2)


@contextmanager
def noting_interrupts() -> Iterator[Interrupt]:
    """Inside the block the first SIGINT is noted instead of raised, where signals can be taken."""
    interrupt = Interrupt()
    if threading.current_thread() is not threading.main_thread():
        yield interrupt
        return
    before = signal.signal(signal.SIGINT, interrupt)
    try:
        yield interrupt
    finally:
        signal.signal(signal.SIGINT, before)
