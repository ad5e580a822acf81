"""`GET /api/events`: what is going on, as it happens."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import aclosing
from typing import Any

from fastapi import APIRouter
from fastapi.responses import StreamingResponse

from gem_rag.server.depends import Served
from gem_rag.server.service import Service
from gem_rag.server.sse import EventStream, event

router = APIRouter(tags=["events"])
STREAM: dict[int | str, dict[str, Any]] = {
    200: {
        "description": "Events: `state`, `indexing`, `documents`, `folders`, again and again.",
        "content": {"text/event-stream": {"schema": {"type": "string"}}},
    }
}


@router.get("/api/events", response_class=StreamingResponse, responses=STREAM)
async def events(service: Served) -> EventStream:
    """State of the server, of indexing, of documents and folders: each at once and when it is new.

    The stream ends when the server does.
    """
    return EventStream(_events(service), service.settings.limits.stall_seconds)


async def _events(service: Service) -> AsyncIterator[str]:
    async with aclosing(service.hub.listen()) as news:
        async for kind, data in news:
            yield event(data, kind)
