"""Who takes part in a measurement: this code, an older commit's, other libraries.

Every side is measured in processes of its own. They never see ``OMP_WAIT_POLICY`` (passive waiting
costs a lone process a third of its speed) nor ``GEM_RAG_DTYPE``, and use as many threads as told.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
ROOT = HERE.parent
TODAY = "468d61f"  # what ratios to "today" compare with
UNSEEN = ("OMP_WAIT_POLICY", "GEM_RAG_DTYPE")


class SideError(Exception):
    """A child ended without having measured; holds the last lines of what it said."""


@dataclass
class Side:
    """One of the sides.

    Attributes:
        name: What its column is called.
        command: What runs a measurement of it, but for the measurement's name.
        measures: What can be measured of it.
        own_code: Whether it runs the code that runs this, not an installation of its own.
    """

    name: str
    command: list[str]
    measures: Sequence[str]
    own_code: bool = False
    what: str = field(default="", init=False)  # which code it turned out to be

    def run(self, arguments: Sequence[str], threads: int) -> Any:
        """A measurement in a process of its own; its ``found``.

        Raises:
            SideError: It did not get to its result.
        """
        result = subprocess.run(
            [*self.command, *arguments],
            capture_output=True,
            text=True,
            env=environment(threads, own_code=self.own_code),
            check=False,
        )
        lines = [line for line in result.stdout.splitlines() if line.startswith("{")]
        if not lines:
            said = "\n".join(result.stderr.splitlines()[-12:])
            raise SideError(f"{self.name}: status {result.returncode}\n{said}")
        if result.returncode:  # after it had measured
            say(f"{self.name}: ended with status {result.returncode}")
        report = json.loads(lines[-1])
        self.what = report["what"]
        return report["found"]


def environment(threads: int, *, own_code: bool) -> dict[str, str]:
    """What a child sees."""
    seen = {name: value for name, value in os.environ.items() if name not in UNSEEN}
    if not own_code:
        seen.pop("PYTHONPATH", None)
    return seen | {"OMP_NUM_THREADS": str(threads)}


def today(folder: Path) -> Path:
    """The interpreter of an environment with commit `TODAY`, made in a folder if it is not there.

    Everything it shares with this environment has the same version.
    """
    code, python = folder / "code", folder / "env" / "bin" / "python"
    ready = folder / "ready"
    folder.mkdir(parents=True, exist_ok=True)
    if not code.exists():
        say(f"making {code}: commit {TODAY}")
        _do("git", "-C", str(ROOT), "worktree", "add", "-f", "--detach", str(code.resolve()), TODAY)
    if ready.exists():
        return python
    say(f"making {python.parent.parent}: minutes")
    _do(sys.executable, "-m", "venv", str(python.parent.parent))
    frozen = subprocess.run(
        [sys.executable, "-m", "pip", "freeze", "--exclude-editable"],
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    versions = [line for line in frozen.splitlines() if "==" in line]
    (folder / "versions.txt").write_text("\n".join(versions) + "\n")
    torch = next(line for line in versions if line.startswith("torch=="))
    install = [str(python), "-m", "pip", "install", "-q", "-c", str(folder / "versions.txt"), torch]
    _do(*install, "-e", f"{code}[train]")
    ready.touch()
    return python


def _do(*command: str) -> None:
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)


def has(python: str, module: str) -> bool:
    """Whether an interpreter has a module."""
    code = f"import importlib.util, sys; sys.exit(importlib.util.find_spec('{module}') is None)"
    return subprocess.run([python, "-c", code], capture_output=True, check=False).returncode == 0


def say(what: str) -> None:
    """Tell how far it is, apart from results."""
    print(what, file=sys.stderr, flush=True)
