"""A real server on a free port of this machine, in a thread, for tests."""

from __future__ import annotations

import json
import threading
import time
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import httpx

from gem_rag.server.run import bound, server_of
from gem_rag.server.service import Service
from gem_rag.server.settings import Settings


@dataclass
class Running:
    url: str
    service: Service
    http: httpx.Client
    end: object  # called: ends it, as Ctrl-C would

    @property
    def name(self) -> str:
        return self.service.loaded.name

    def ask(self, question="Who wrote it?", **more):
        """The events of an answer: [(name, data)]."""
        body = {"question": question, "threshold": None, "max_tokens": 8, **more}
        with self.http.stream("POST", "/api/ask", json=body) as response:
            if response.status_code != 200:
                response.read()
                raise AssertionError(response.text)
            return list(events(response.iter_lines()))

    def upload(self, *files, **more):
        parts = [("files", (name, content)) for name, content in files]
        return self.http.post("/api/documents", files=parts, **more)

    def documents(self, **query):
        return self.http.get("/api/documents", params=query).json()

    def all_ready(self, count):
        """Wait until so many documents are indexed."""
        until(lambda: [d["state"] for d in self.documents()] == ["ready"] * count)
        return self.documents()


def events(lines):
    """(name, data) of server-sent events; a name that is not said is None."""
    name = None
    for line in lines:
        kind, _, value = line.partition(": ")
        if kind == "event":
            name = value
        elif kind == "data":
            yield name, value if value == "[DONE]" else json.loads(value)
            name = None


def until(condition, seconds=20.0):
    """Wait for something to be so."""
    end = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < end, "it did not happen in time"
        time.sleep(0.02)
    return found


def settings_for(home: Path, model: str, **more) -> Settings:
    return Settings(home=home, model=model, settle=0.1, **more)


@contextmanager
def running(settings: Settings, *, headers=None, ready=True, **changes):
    """A server that runs until the block ends."""
    listener = bound("127.0.0.1", 0)
    server, service = server_of(replace(settings, **changes))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
    thread.start()
    url = f"http://127.0.0.1:{listener.getsockname()[1]}"

    def end():
        server.should_exit = True
        thread.join(20)
        assert not thread.is_alive(), "it does not end"

    with httpx.Client(base_url=url, timeout=30, headers=headers) as http:
        try:
            if ready:
                until(lambda: service.state == "ready")
            yield Running(url, service, http, end)
        finally:
            end()
