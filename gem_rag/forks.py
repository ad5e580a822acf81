"""Forked children: locks, connections and thread pools of the parent that they cannot use."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from itertools import count
from typing import Any, TypeVar
from weakref import WeakMethod

_starting: dict[int, WeakMethod[Callable[[], None]]] = {}
_numbers = count()
T = TypeVar("T")


def in_child(start_anew: Callable[[], None]) -> None:
    """Have a bound method called in every process that is forked, while its object lives.

    It must wait for nothing: locks may be held by threads that the child does not have.
    """
    number = next(_numbers)
    _starting[number] = WeakMethod(start_anew, lambda _: _starting.pop(number, None))


def _after_fork() -> None:
    for method in list(_starting.values()):
        if (start_anew := method()) is not None:
            start_anew()
    _forget_thread_pools()


def _forget_thread_pools() -> None:
    """The thread that forked must not wait for OpenMP threads, which stayed in the parent.

    Threads that the child starts have pools of their own: they compute as those of the parent did.
    """
    if (torch := _module("torch")) is not None:
        threads = _in_new_thread(torch.get_num_threads)
        torch.set_num_threads(1)  # for this thread, and for all that have computed nothing yet
        _in_new_thread(lambda: torch.set_num_threads(threads))
    if (faiss := _module("faiss")) is not None:
        faiss.omp_set_num_threads(1)  # for this thread alone


def _in_new_thread(call: Callable[[], T]) -> T:
    with ThreadPoolExecutor(1) as thread:
        return thread.submit(call).result()


def _module(name: str) -> Any:
    """A module, if somebody has imported it."""
    return sys.modules.get(name)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
