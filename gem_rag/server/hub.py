"""What is going on, told to all who listen."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from typing import Any


class Hub:
    """Keeps the last news of each kind; a slow listener gets the newest, not all of them.

    Used from the event loop alone.
    """

    def __init__(self) -> None:
        self._last: dict[str, Any] = {}
        self._listeners: set[_Listener] = set()
        self._is_closed = False

    def publish(self, kind: str, news: Any) -> None:
        """Tell everybody."""
        self._last[kind] = news
        for listener in self._listeners:
            listener.tell(kind, news)

    async def listen(self) -> AsyncGenerator[tuple[str, Any]]:
        """What is known, and then what is new, until the hub is closed."""
        listener = _Listener(dict(self._last), self._is_closed)
        self._listeners.add(listener)
        try:
            async for news in listener.news():
                yield news
        finally:
            self._listeners.discard(listener)

    def close(self) -> None:
        """There is nothing more to tell."""
        self._is_closed = True
        for listener in self._listeners:
            listener.close()


class _Listener:
    def __init__(self, untold: dict[str, Any], is_closed: bool) -> None:
        self._untold = untold
        self._is_closed = is_closed
        self._changed = asyncio.Event()

    def tell(self, kind: str, news: Any) -> None:
        self._untold[kind] = news
        self._changed.set()

    def close(self) -> None:
        self._is_closed = True
        self._changed.set()

    async def news(self) -> AsyncIterator[tuple[str, Any]]:
        while True:
            while self._untold:
                kind = next(iter(self._untold))
                yield kind, self._untold.pop(kind)
            if self._is_closed:
                return
            self._changed.clear()
            await self._changed.wait()
