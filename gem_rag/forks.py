"""Forked children: locks, connections and thread pools of the parent that they cannot use."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from itertools import count
from typing import Any, TypeVar
from weakref import WeakMethod

Method = Callable[[], None]
Methods = dict[int, WeakMethod[Method]]
_before: Methods = {}
_in_parent: Methods = {}
_in_child: Methods = {}
_numbers = count()
T = TypeVar("T")


def around_fork(before: Method, in_parent: Method) -> None:
    """Have bound methods called around every fork, while their object lives.

    Args:
        before: What must not be halfway in the child comes to an end.
        in_parent: And goes on in the parent.
    """
    _hold(_before, before)
    _hold(_in_parent, in_parent)


def in_child(start_anew: Method) -> None:
    """Have a bound method called in every process that is forked, while its object lives.

    It must wait for nothing: locks may be held by threads that the child does not have.
    """
    _hold(_in_child, start_anew)


def _hold(methods: Methods, method: Method) -> None:
    number = next(_numbers)
    methods[number] = WeakMethod(method, lambda _: methods.pop(number, None))


def _call(methods: Methods) -> None:
    for held in list(methods.values()):
        if (method := held()) is not None:
            method()


def _after_fork() -> None:
    _call(_in_child)
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
    os.register_at_fork(
        before=lambda: _call(_before),
        after_in_parent=lambda: _call(_in_parent),
        after_in_child=_after_fork,
    )
