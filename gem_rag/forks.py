"""Forked children: locks, connections and thread pools of the parent that they cannot use."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from typing import Any
from weakref import WeakMethod

_starting: list[WeakMethod[Callable[[], None]]] = []
_threads: int | None = None  # of torch in the parent


def in_child(start_anew: Callable[[], None]) -> None:
    """Have a bound method called in every process that is forked, while its object lives.

    It must wait for nothing: locks may be held by threads that the child does not have.
    """
    _starting[:] = [known for known in _starting if known() is not None]
    _starting.append(WeakMethod(start_anew))


def use_parents_threads() -> None:
    """In a thread that a forked child started: compute with as many threads as the parent did."""
    if _threads is not None:
        _module("torch").set_num_threads(_threads)


def _after_fork() -> None:
    _forget_thread_pools()
    for method in _starting:
        if (start_anew := method()) is not None:
            start_anew()


def _forget_thread_pools() -> None:
    """The thread that forked must not wait for OpenMP threads, which stayed in the parent.

    Threads that the child starts have pools of their own, so that only this one is kept to itself.
    """
    global _threads
    if (torch := _module("torch")) is not None:
        _threads = _threads or torch.get_num_threads()
        torch.set_num_threads(1)
    if (faiss := _module("faiss")) is not None:
        faiss.omp_set_num_threads(1)


def _module(name: str) -> Any:
    """A module, if somebody has imported it."""
    return sys.modules.get(name)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
