"""Server-sent events: what is sent, and the response that sends it."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from contextlib import aclosing, suppress
from typing import Any, TypeVar

from fastapi.responses import StreamingResponse
from starlette.types import Message, Receive, Scope, Send

T = TypeVar("T")
PING_SECONDS = 15.0
PING = ": \n\n"
DONE = "data: [DONE]\n\n"


def event(data: Any, name: str | None = None) -> str:
    """One event."""
    head = "" if name is None else f"event: {name}\n"
    return f"{head}data: {json.dumps(data, ensure_ascii=False, separators=(',', ':'))}\n\n"


class EventStream(StreamingResponse):
    """A response of events, with a sign of life where none comes for a while.

    Args:
        events: What is sent; it is closed when the client goes away.
        stall_seconds: That the client may take to take an event.
        headers: Of the response.
    """

    media_type = "text/event-stream"

    def __init__(
        self,
        events: AsyncIterator[str],
        stall_seconds: float,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        # no-transform: what compresses on the way would hold events back.
        own = {"Cache-Control": "no-store, no-transform", "X-Accel-Buffering": "no"}
        super().__init__(_alive(events), headers={**own, **(headers or {})})
        self._stall_seconds = stall_seconds

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the events, until they end or nobody takes them."""

        async def timed(message: Message) -> None:
            async with asyncio.timeout(self._stall_seconds):
                await send(message)

        with suppress(TimeoutError):  # nobody takes the events: the connection is closed
            await super().__call__(scope, receive, timed)


async def _alive(events: AsyncIterator[str]) -> AsyncIterator[str]:
    async with aclosing(alive(events, PING_SECONDS)) as pieces:
        async for piece in pieces:
            yield PING if piece is None else piece


async def alive(items: AsyncIterator[T], seconds: float) -> AsyncGenerator[T | None]:
    """Items as they come, and None where there is none for so many seconds."""
    coming: asyncio.Future[T | None] | None = None
    try:
        while True:
            coming = coming or asyncio.ensure_future(anext(items, None))
            done, _ = await asyncio.wait({coming}, timeout=seconds)
            if not done:
                yield None
                continue
            item, coming = coming.result(), None
            if item is None:
                return
            yield item
    finally:
        if coming is not None:
            coming.cancel()
            await asyncio.gather(coming, return_exceptions=True)
        close = getattr(items, "aclose", None)
        if close is not None:
            await close()
