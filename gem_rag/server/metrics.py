"""`/metrics` for Prometheus, `/healthz` and `/readyz`."""

from __future__ import annotations

import time
from typing import Any

from fastapi import APIRouter, Response
from prometheus_client import generate_latest
from pydantic import BaseModel
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from gem_rag.server.depends import Served
from gem_rag.server.errors import RESPONSES
from gem_rag.server.service import Service

router = APIRouter(tags=["state"])
METHODS = {"DELETE", "GET", "HEAD", "OPTIONS", "PATCH", "POST", "PUT"}
TEXT = "text/plain; version=0.0.4; charset=utf-8"
PLAIN: dict[int | str, dict[str, Any]] = {
    200: {"content": {"text/plain": {"schema": {"type": "string"}}}}
}


class State(BaseModel):
    """What the server is doing."""

    state: str


@router.get("/healthz", response_model=State)
async def healthz(service: Served) -> State:
    """200 as soon as the process listens."""
    return State(state=service.state)


@router.get("/readyz", response_model=State, responses=RESPONSES)
async def readyz(service: Served) -> State:
    """200 once the model is loaded, 503 until then and when the server ends."""
    _ = service.loaded
    return State(state=service.state)


@router.get("/metrics", response_class=Response, responses=PLAIN)
async def metrics(service: Served) -> Response:
    """Counts and times."""
    return Response(generate_latest(service.metrics.registry), media_type=TEXT)


class Measured:
    """Counts requests and how long they took, by route and status (ASGI).

    Args:
        app: What is measured.
        service: Whose metrics.
    """

    def __init__(self, app: ASGIApp, service: Service) -> None:
        self._app = app
        self._metrics = service.metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Measure a request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started, status = time.perf_counter(), 500

        async def noting(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await self._app(scope, receive, noting)
        finally:
            route = getattr(scope.get("route"), "path", "other")  # not a path: there are too many
            method = scope["method"] if scope["method"] in METHODS else "other"
            self._metrics.requests.labels(route, method, str(status)).inc()
            self._metrics.seconds.labels(route).observe(time.perf_counter() - started)
