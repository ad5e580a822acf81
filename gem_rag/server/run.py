"""Listening, serving, and ending well."""

from __future__ import annotations

import errno
import signal
import socket
import sys
from collections.abc import Callable
from types import FrameType
from typing import Any

import uvicorn

from gem_rag.errors import GemError
from gem_rag.server.app import create_app
from gem_rag.server.service import Service
from gem_rag.server.settings import Settings

GRACE_SECONDS = 10  # for streams to say why they end


class Server(uvicorn.Server):
    """Tells the service that it ends before it waits for those who are connected.

    Args:
        config: How it runs.
        service: What is served.
        on_started: Called once it listens.
    """

    def __init__(
        self, config: uvicorn.Config, service: Service, on_started: Callable[[], object]
    ) -> None:
        super().__init__(config)
        self._service = service
        self._on_started = on_started

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Listen."""
        await super().startup(sockets)
        if self.started:
            self._on_started()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """End all streams, then everything else."""
        self._service.stop()
        await super().shutdown(sockets)


def bound(host: str, port: int) -> socket.socket:
    """A socket to listen at; 0 is any free port.

    Raises:
        GemError: The port is taken, or the host is none of this machine's.
    """
    try:
        family, *_, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        found = socket.socket(family, socket.SOCK_STREAM)
    except OSError as error:
        raise GemError(f"cannot listen at {host!r}: {error}") from error
    try:
        if sys.platform != "win32":
            found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        found.bind(address)
        found.listen(1024)
    except OSError as error:
        found.close()
        if error.errno == errno.EADDRINUSE:
            raise GemError(
                f"port {port} of {host} is taken, maybe by another gem-rag; end that, or choose "
                "another one (--port)"
            ) from error
        raise GemError(f"cannot listen at {host}:{port}: {error.strerror}") from error
    return found


def server_of(
    settings: Settings, on_started: Callable[[], object] = lambda: None
) -> tuple[Server, Service]:
    """A server that is not running yet, and its service."""

    def failed() -> None:
        server.should_exit = True

    service = Service(settings, on_failed=failed)
    config = uvicorn.Config(
        create_app(service),
        log_level="warning",
        access_log=False,
        server_header=False,
        timeout_graceful_shutdown=GRACE_SECONDS,
        timeout_keep_alive=30,
        lifespan="on",
        ws="none",
    )
    server = Server(config, service, on_started)
    return server, service


def serve(settings: Settings, listener: socket.socket, on_started: Callable[[], object]) -> None:
    """Serve until the process is told to end (Ctrl-C, SIGTERM).

    Raises:
        Exception: What kept the model from being loaded.
    """
    server, service = server_of(settings, on_started)
    before = signal.signal(signal.SIGTERM, _leave)
    try:
        server.run(sockets=[listener])
    except KeyboardInterrupt:
        pass  # it has ended well
    finally:
        signal.signal(signal.SIGTERM, before)
    if service.failure is not None:
        raise service.failure


def _leave(number: int, frame: FrameType | None) -> Any:
    """What uvicorn calls once it has ended: there is nothing left to kill."""
    del number, frame
