"""Before anything is done: whose site asks, with which key, and how much is sent."""

from __future__ import annotations

import asyncio
from urllib.parse import urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from gem_rag.server.errors import ApiError
from gem_rag.server.keys import Keys
from gem_rag.server.settings import LOOPBACK, Settings, is_loopback

UPLOADS = "/api/documents"
GUARDED = ("/v1", "/api", "/rerank", "/metrics", "/docs", "/openapi.json")
OPEN = {("GET", "/api/settings"), ("POST", "/api/auth"), ("DELETE", "/api/auth")}
# Scripts and styles from here alone; no form goes elsewhere, nobody frames the page.
POLICY = (
    "default-src 'self'; img-src 'self' data:; object-src 'none'; base-uri 'none'; "
    "form-action 'self'; frame-ancestors 'none'"
)
HEADERS = {
    "Content-Security-Policy": POLICY,
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
}


class Guard:
    """Stands before an app (ASGI); what it refuses has the shape of all errors.

    Args:
        app: What is guarded.
        settings: Where it listens, and its limits.
        keys: Who is let in.
    """

    def __init__(self, app: ASGIApp, settings: Settings, keys: Keys) -> None:
        self._app = app
        self._settings = settings
        self._keys = keys
        self._hosts = {*LOOPBACK, settings.host}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Let a request through, or answer it."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        try:
            self._check(scope)
        except ApiError as error:
            await error.response()(scope, receive, _with_headers(send))
            return
        limits = self._settings.limits
        is_upload = (scope["method"], scope["path"]) == ("POST", UPLOADS)
        most = limits.upload_bytes if is_upload else limits.body_bytes
        bounded = _Bounded(receive, most, limits.stall_seconds)
        await self._app(scope, bounded, _with_headers(send))

    def _check(self, scope: Scope) -> None:
        headers, path = Headers(scope=scope), scope["path"]
        self._check_host(headers)
        self._check_origin(headers)
        is_guarded = any(path == part or path.startswith(f"{part}/") for part in GUARDED)
        is_open = (scope["method"], path) in OPEN
        if is_guarded and not is_open and not self._keys.admits(headers):
            raise ApiError(
                401,
                "no key, or a wrong one; send `Authorization: Bearer KEY` (`--api-key` says which)",
                "invalid_api_key",
            )
        length = headers.get("content-length", "0")
        is_upload = (scope["method"], path) == ("POST", UPLOADS)
        limits = self._settings.limits
        require_at_most(
            int(length) if length.isascii() and length.isdigit() else 0,
            limits.upload_bytes if is_upload else limits.body_bytes,
        )

    def _check_host(self, headers: Headers) -> None:
        """A name that an attacker points at this machine is not one of ours (DNS rebinding).

        With a key on a public address any name is fine: the key is what keeps others out.
        """
        host = _name(headers.get("host", ""))
        if self._settings.is_loopback and not (host in self._hosts or is_loopback(host)):
            raise ApiError(
                403,
                f"the host is {host!r}; expected one of {', '.join(sorted(self._hosts))}",
                "foreign_host",
            )

    def _check_origin(self, headers: Headers) -> None:
        """A page of another site may not ask, whatever it sends."""
        origin = headers.get("origin")
        if origin is not None and urlsplit(origin).netloc != headers.get("host"):
            raise ApiError(
                403,
                f"the origin is {origin!r}, another site's than this server's",
                "foreign_origin",
            )


class _Bounded:
    """Receives a body, up to a number of bytes and not for ever."""

    def __init__(self, receive: Receive, most: int, stall_seconds: float) -> None:
        self._receive = receive
        self._most = most
        self._stall_seconds = stall_seconds
        self._taken = 0
        self._is_whole = False

    async def __call__(self) -> Message:
        if self._is_whole:  # what comes now is the client's leaving
            return await self._receive()
        try:
            async with asyncio.timeout(self._stall_seconds):
                message = await self._receive()
        except TimeoutError:
            raise ApiError(408, "the request's body does not arrive; send it again") from None
        self._taken += len(message.get("body", b""))
        self._is_whole = not message.get("more_body", False)
        require_at_most(self._taken, self._most)
        return message


def require_at_most(count: int, most: int) -> None:
    """Refuse a body of more bytes."""
    if count > most:
        raise ApiError(413, f"the request has more than {most:,} bytes; send less", "too_large")


def _with_headers(send: Send) -> Send:
    async def sending(message: Message) -> None:
        if message["type"] == "http.response.start":
            headers = MutableHeaders(scope=message)
            for name, value in HEADERS.items():
                headers.setdefault(name, value)
        await send(message)

    return sending


def _name(host: str) -> str:
    """A host without its port."""
    try:
        return urlsplit(f"//{host}").hostname or ""
    except ValueError:
        return ""
