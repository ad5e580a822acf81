"""What a process holds in memory, and work in a process of its own."""

from __future__ import annotations

import multiprocessing
import resource
import sys
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any


def resident_mb() -> float:
    """Memory in use now; where the system does not tell, its highest so far."""
    status = Path("/proc/self/statm")
    if status.exists():
        return int(status.read_text().split()[1]) * resource.getpagesize() / 1e6
    return peak_mb()


def peak_mb() -> float:
    """The most this process has had in memory.

    Where the system tells, not by ``getrusage``: Linux counts in what the process that started this
    one had, which made a child of a large parent look as large.
    """
    status = Path("/proc/self/status")
    if status.exists():
        for line in status.read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024 / 1e6
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (1e6 if sys.platform == "darwin" else 1e3)


def in_own_process(function: Callable[..., Any], *arguments: Any) -> Any:
    """What a function returns in a fresh process; it leaves no memory behind in this one."""
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=spawn) as pool:  # whose children may have children
        return pool.submit(function, *arguments).result()
