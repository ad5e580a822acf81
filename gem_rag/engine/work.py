"""A piece of work and its two ways of being waited for."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Generator
from typing import Any, Generic, TypeVar

T = TypeVar("T")


class Work(Generic[T]):
    """Done once somebody waits for it: here, or in a worker thread while an event loop goes on.

    Args:
        run: Does it.
    """

    def __init__(self, run: Callable[[], T]) -> None:
        self._run = run

    def result(self) -> T:
        """Do it here."""
        return self._run()

    def __await__(self) -> Generator[Any, None, T]:
        return asyncio.to_thread(self._run).__await__()
