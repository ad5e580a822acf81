"""A terminal of so many lines and columns, in which a program runs: what is on it, as text."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable

import pytest

pexpect = pytest.importorskip("pexpect", reason="pip install pexpect pyte")
pyte = pytest.importorskip("pyte", reason="pip install pexpect pyte")

UP, TAB, CTRL_C, CTRL_D = "\x1b[A", "\t", "\x03", "\x04"


def hears_ctrl_c() -> None:
    """In a child: an interrupt counts, though tests that run in the background ignore it."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


class Terminal:
    """What somebody sees who runs a command."""

    def __init__(self, *command: str, rows: int = 40, columns: int = 90, **environment: str):
        self._screen = pyte.HistoryScreen(columns, rows, history=10_000)
        self._stream = pyte.ByteStream(self._screen)
        # A screen that is only written to does not say where its cursor is.
        said = {"TERM": "xterm-256color", "PROMPT_TOOLKIT_NO_CPR": "1", **environment}
        self._child = pexpect.spawn(
            command[0],
            list(command[1:]),
            dimensions=(rows, columns),
            env={**os.environ, **said},
            preexec_fn=hears_ctrl_c,
        )

    @property
    def text(self) -> str:
        """All that was written, what has been scrolled past among it."""
        past = ["".join(line[x].data for x in range(self._screen.columns)) for line in self._past]
        return "\n".join(line.rstrip() for line in [*past, *self._screen.display]).rstrip()

    @property
    def _past(self):
        return list(self._screen.history.top)

    def stressed(self, background: str) -> str:
        """The words on such a background, on what is seen now."""
        lines = (self._screen.buffer[y] for y in range(self._screen.lines))
        cells = (line[x] for line in lines for x in range(self._screen.columns))
        return " ".join("".join(c.data if c.bg == background else " " for c in cells).split())

    def type(self, keys: str) -> None:
        """Press keys."""
        self._child.send(keys)

    def until(self, condition: Callable[[str], object], seconds: float = 60) -> str:
        """Wait for something to be seen; returns all that is there then."""
        end = time.monotonic() + seconds
        while not condition(self.text):
            assert time.monotonic() < end, f"it was never seen:\n{self.text}"
            self._look()
        return self.text

    def _look(self) -> None:
        try:
            self._stream.feed(self._child.read_nonblocking(65536, timeout=0.05))
        except pexpect.TIMEOUT:
            pass
        except pexpect.EOF:
            time.sleep(0.05)

    @property
    def prompts(self) -> int:
        """How often something could be said, or was."""
        return sum(line.startswith(">") for line in self.text.splitlines())

    def at_prompt(self, after: int = 0) -> str:
        """Wait until something can be said, for the time after so many."""
        return self.until(lambda text: text.endswith("\n>") and self.prompts > after)

    def say(self, line: str) -> str:
        """Say something, and wait for its end; returns what was seen since."""
        before, prompts = len(self.at_prompt()), self.prompts
        self.type(line + "\r")
        return self.at_prompt(prompts)[before:]

    def begin_again(self) -> None:
        """Press Ctrl-C, and wait for what it stops."""
        prompts = self.prompts
        self.type(CTRL_C)
        self.at_prompt(prompts)

    def end(self) -> int:
        """Wait for the program's end; its exit code."""
        self._child.expect(pexpect.EOF, timeout=30)
        self._child.close()
        return int(self._child.exitstatus)

    def close(self) -> None:
        """End it, whatever it does."""
        self._child.close(force=True)
