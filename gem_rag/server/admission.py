"""How many may want the model at once, and what happens to those who go away."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

from fastapi import Request

from gem_rag.server.errors import ClientGone, queue_full

T = TypeVar("T")


class Place:
    """One of the places in the queue; freed once, however often it is told to.

    Args:
        admission: Whose.
    """

    def __init__(self, admission: Admission) -> None:
        self._admission: Admission | None = admission

    def free(self) -> None:
        """Give it back."""
        if self._admission is not None:
            self._admission.taken -= 1
            self._admission = None

    def __enter__(self) -> Place:
        return self

    def __exit__(self, *_: object) -> None:
        self.free()


class Admission:
    """Counts those who want the model; lives on the event loop.

    Args:
        most: How many at once.

    Attributes:
        taken: How many there are.
        refused: How many were sent away.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self.taken = 0
        self.refused = 0

    def place(self) -> Place:
        """Take a place.

        Raises:
            ApiError: 429, there is none.
        """
        if self.taken >= self._most:
            self.refused += 1
            raise queue_full(f"{self.taken} requests are waiting, as many as may; ask again soon")
        self.taken += 1
        return Place(self)


async def unless_gone(request: Request, work: Coroutine[Any, Any, T]) -> T:
    """Await something for a client, and give it up when the client goes away.

    Raises:
        ClientGone: It did.
    """
    task = asyncio.ensure_future(work)
    gone = asyncio.ensure_future(_gone(request))
    try:
        await asyncio.wait({task, gone}, return_when=asyncio.FIRST_COMPLETED)
        if not task.done():
            raise ClientGone
        return task.result()
    finally:
        for one in (task, gone):
            one.cancel()
        await asyncio.gather(task, gone, return_exceptions=True)


async def _gone(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass
