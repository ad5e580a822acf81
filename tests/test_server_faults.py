"""The server when something goes wrong, or somebody goes away."""

import asyncio
import errno
import json
import os
import signal
import socket
import sqlite3
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest

pytest.importorskip("fastapi")

from serving import events, running, settings_for, until

from gem_rag.engine.scheduler import Limits as EngineLimits
from gem_rag.index.gem_index import GemIndex
from gem_rag.server.settings import Limits

LONG = {"question": "Who wrote it?", "threshold": None, "max_tokens": 900}


@pytest.fixture
def settings(tmp_path, tiny_checkpoint):
    notes = tmp_path / "notes"
    notes.mkdir()
    (notes / "kettle.md").write_text("# Kettle\n\nThe kettle has a warranty of seven years.\n")
    return settings_for(tmp_path / "home", tiny_checkpoint, paths=[notes])


def chat(server, **more):
    messages = [{"role": "user", "content": "Who wrote it?"}]
    return {"model": server.name, "messages": messages, "max_tokens": 900, **more}


def is_idle(server):
    stats = server.service.loaded.model.engine.stats()
    return (stats.rows, stats.queued, server.service.admission.taken) == (0, 0, 0)


# Those who go away


@pytest.mark.parametrize("kind", ["ask", "docs", "chat", "several"])
def test_a_client_that_leaves_a_stream_frees_its_place(settings, kind):
    with running(settings) as server:
        server.all_ready(1)
        body = {
            "ask": LONG,
            "docs": chat(server, model="tiny:docs", threshold=None, stream=True),
            "chat": chat(server, stream=True),
            "several": chat(server, stream=True, n=3),
        }[kind]
        path = "/api/ask" if kind == "ask" else "/v1/chat/completions"
        with server.http.stream("POST", path, json=body) as response:
            found = events(response.iter_lines())
            for _ in range(6):
                next(found)
            assert server.service.loaded.model.engine.stats().rows > 0
        until(lambda: is_idle(server), seconds=3)


def test_a_client_that_does_not_wait_for_a_whole_answer_frees_its_place(settings):
    with running(settings) as server:
        server.all_ready(1)
        docs = chat(server, model="tiny:docs", threshold=None)
        for body in (chat(server), chat(server, n=2), docs):
            with pytest.raises(httpx.ReadTimeout):
                server.http.post("/v1/chat/completions", json=body, timeout=0.2)
            until(lambda: is_idle(server), seconds=3)


def test_a_client_that_does_not_read_is_not_waited_for(settings):
    with running(settings, limits=Limits(stall_seconds=0.5)) as server:
        host, port = server.url.removeprefix("http://").split(":")
        slow = socket.socket()
        slow.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1)
        slow.connect((host, int(port)))
        body = json.dumps(chat(server, stream=True, n=8, max_tokens=1000)).encode()
        head = f"POST /v1/chat/completions HTTP/1.1\r\nHost: {host}:{port}\r\n"
        head += f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
        slow.sendall(head.encode() + body)
        until(lambda: server.service.admission.taken == 1)
        until(lambda: is_idle(server), seconds=20)
        slow.close()


# Those who are too many


def test_who_finds_no_place_is_told_when_to_come_again(settings):
    with running(settings, limits=Limits(requests=2)) as server:
        server.all_ready(1)
        places = server.service.admission
        with places.place(), places.place():  # as two answers that take long
            for path, body in (
                ("/api/ask", LONG),
                ("/api/search", {"question": "a"}),
                ("/v1/chat/completions", chat(server)),
                ("/v1/embeddings", {"model": "tiny", "input": "a"}),
                ("/v1/rerank", {"query": "a", "documents": ["b"]}),
            ):
                answer = server.http.post(path, json=body)
                assert (answer.status_code, answer.json()["error"]["code"]) == (429, "queue_full")
                assert int(answer.headers["retry-after"]) >= 1
            assert server.http.get("/healthz").status_code == 200
        until(lambda: is_idle(server))
        assert server.http.post("/v1/embeddings", json={"model": "tiny", "input": "a"}).is_success


def test_a_full_engine_answers_429_before_a_stream_begins(settings):
    with running(settings) as server:
        engine = server.service.loaded.model.engine
        limits = engine.limits
        engine.limits = EngineLimits(rows=1, queued=0)
        try:
            for stream in (True, False):
                answer = server.http.post("/v1/chat/completions", json=chat(server, stream=stream))
                assert (answer.status_code, answer.json()["error"]["code"]) == (429, "queue_full")
        finally:
            engine.limits = limits


def test_an_embedding_is_not_kept_waiting_by_streams(settings):
    with running(settings) as server, ThreadPoolExecutor(8) as threads:
        stop = threading.Event()

        def read():
            with server.http.stream(
                "POST", "/v1/chat/completions", json=chat(server, stream=True)
            ) as response:
                for _ in events(response.iter_lines()):
                    if stop.is_set():
                        return

        reading = [threads.submit(read) for _ in range(8)]
        until(lambda: server.service.loaded.model.engine.stats().rows == 8)
        started = time.perf_counter()
        body = {"model": "tiny", "input": "A sentence."}
        assert server.http.post("/v1/embeddings", json=body).is_success
        assert time.perf_counter() - started < 5
        assert not any(one.done() for one in reading)  # it came between their tokens
        stop.set()


# The server's end


def test_streams_end_with_a_reason_and_the_index_is_sound(settings):
    with running(settings) as server:
        server.all_ready(1)
        new = server.http.post("/api/conversations", json={}).json()["id"]
        server.upload(*((f"{number}.txt", b"Words. " * 200) for number in range(20)))
        told, chunks, news = [], [], []

        def read(path, body, into):
            with server.http.stream("POST" if body else "GET", path, json=body) as response:
                into += events(response.iter_lines())

        threads = [
            threading.Thread(target=read, args=args)
            for args in (
                ("/api/ask", {**LONG, "conversation": new}, told),
                ("/v1/chat/completions", chat(server, stream=True), chunks),
                ("/api/events", None, news),
            )
        ]
        for thread in threads:
            thread.start()
        until(lambda: server.service.loaded.model.engine.stats().rows == 2)
        server.end()
        for thread in threads:
            thread.join(10)
    assert (told[-1][0], told[-1][1]["error"]["code"]) == ("error", "stopping")
    assert chunks[-1][1]["error"]["code"] == "stopping"
    assert ("state", {"state": "stopping"}) in news
    with running(settings) as again:
        assert len(again.all_ready(21)) == 21
        kept = again.http.get(f"/api/conversations/{new}").json()["messages"][1]
        assert (kept["finish_reason"], bool(kept["content"])) == ("cancelled", True)


# Processes


def process(settings, port, **environment):
    """The command, as it is typed."""
    command = [sys.executable, "-m", "gem_rag.cli", "serve", *map(str, settings.paths)]
    options = ["--index", settings.home, "--model", settings.model, "--port", port, "--no-open"]
    return subprocess.Popen(
        [*command, *map(str, options)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, **environment},
    )


def free_port():
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


def is_ready(url):
    try:
        return httpx.get(f"{url}/readyz").status_code == 200
    except httpx.TransportError:
        return False


def test_what_was_answered_is_there_after_kill_9(settings):
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    answered = []

    def load(number):
        with httpx.Client(base_url=url, timeout=10) as http:
            for count in range(100):
                name = f"{number}-{count}.txt"
                try:
                    answer = http.post(
                        "/api/documents", files=[("files", (name, f"Words of {name}. " * 30))]
                    )
                except httpx.TransportError:
                    return
                if answer.status_code == 202:
                    answered.append(name)

    with process(settings, port) as server:
        try:
            until(lambda: is_ready(url), seconds=60)
            new = httpx.post(f"{url}/api/conversations", json={}).json()["id"]
            threads = [threading.Thread(target=load, args=(number,)) for number in range(4)]
            for thread in threads:
                thread.start()
            ask = {**LONG, "conversation": new}
            with httpx.stream("POST", f"{url}/api/ask", json=ask, timeout=30) as response:
                until(lambda: len(answered) > 30, seconds=60)
                server.send_signal(signal.SIGKILL)
                response.close()
            for thread in threads:
                thread.join(20)
        finally:
            server.kill()
    for name in answered:
        assert (settings.uploads / name).read_text() == f"Words of {name}. " * 30
    with GemIndex(settings.home, create=False) as index:  # sound, as far as it came
        assert all(index.documents.text(d.source) for d in index.documents.all())
    with running(settings) as again:
        until(lambda: again.documents(limit=10_000, state="queued") == [])
        until(lambda: not again.documents(limit=10_000, state="indexing"), seconds=60)
        ready = {d["name"] for d in again.documents(limit=10_000, state="ready")}
        assert ready >= {*answered, "kettle.md"}
        kept = again.http.get(f"/api/conversations/{new}").json()["messages"]
        assert [message["role"] for message in kept] == ["user", "assistant"]


def test_the_command_says_where_it_is_and_ends_well(settings):
    with process(settings, 0) as server:
        try:
            url = server.stdout.readline().split()[0]
            until(lambda: is_ready(url), seconds=60)
            server.send_signal(signal.SIGTERM)
            out, err = server.communicate(timeout=30)
        finally:
            server.kill()
    assert (server.returncode, out) == (0, "")
    assert err == f"index and conversations: {settings.home}\n"


def test_a_model_that_is_not_there_ends_it_with_one_line(settings, tmp_path):
    from dataclasses import replace

    wrong = replace(settings, model=str(tmp_path / "nothing"))
    with process(wrong, 0) as server:
        _, err = server.communicate(timeout=60)
    assert server.returncode == 1
    assert "error: no model" in err.splitlines()[-1]


@pytest.fixture
def command(monkeypatch, capsys):
    from gem_rag import cli

    def call(*args):
        monkeypatch.setattr(sys, "argv", ["gem-rag", "serve", "--no-open", *map(str, args)])
        with pytest.raises(SystemExit) as stop:
            cli.main()
        out, err = capsys.readouterr()
        return stop.value.code, out, err

    return call


def test_what_cannot_be_served_is_said_in_one_line(command, tmp_path):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        code, out, err = command("--port", port, "--index", tmp_path)
        assert (code, out, f"port {port} of 127.0.0.1 is taken" in err) == (1, "", True)
    for args, expected, says in (
        (["--host", "0.0.0.0"], 2, "--api-key"),
        (["--api-key", " "], 2, "--api-key is empty"),
        ([tmp_path / "nowhere"], 1, "no file or folder"),
        (["--host", "192.0.2.1", "--api-key", "k", "--index", tmp_path], 1, "cannot listen"),
    ):
        code, out, err = command(*args)
        assert (code, out, len(err.splitlines())) == (expected, "", 1)
        assert says in err


def test_one_folder_is_served_by_one_process(settings, command):
    with running(settings):
        code, out, err = command("--port", 0, "--index", settings.home)
    assert (code, out, "another gem-rag serves" in err) == (1, "", True)


def test_each_set_of_paths_has_one_data_folder(monkeypatch, tmp_path):
    from gem_rag.server.settings import home_of

    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    one, two = tmp_path / "a", tmp_path / "b"
    assert home_of([one, two]) == home_of([two, one]) != home_of([one])
    assert home_of([]) != home_of([one])


# The disk


def test_a_full_disk_is_said_and_what_was_there_stays(settings, monkeypatch):
    with running(settings) as server:
        server.all_ready(1)
        server.upload(("a.txt", b"Words."))
        server.all_ready(2)
        sync = os.fsync

        def full(handle):
            raise OSError(errno.ENOSPC, "No space left on device")

        monkeypatch.setattr(os, "fsync", full)
        for name in ("a.txt", "b.txt"):
            answer = server.upload((name, b"Other words."))
            assert (answer.status_code, answer.json()["error"]["code"]) == (507, "disk_full")
        monkeypatch.setattr(os, "fsync", sync)
        assert [p.name for p in settings.uploads.iterdir()] == ["a.txt"]
        assert (settings.uploads / "a.txt").read_text() == "Words."
        records = type(server.service.records)

        def no_room(*_):
            raise sqlite3.OperationalError("database or disk is full")

        monkeypatch.setattr(records, "new_conversation", no_room)
        answer = server.http.post("/api/conversations", json={})
        assert (answer.status_code, answer.json()["error"]["code"]) == (507, "disk_full")
        assert server.ask()[-1][0] == "done"


def test_what_a_crash_left_half_written_is_cleaned_away(settings):
    settings.uploads.mkdir(parents=True)
    (settings.uploads / ".0123456789abcdef.txt").write_text("half")
    (settings.uploads / "whole.txt").write_text("Whole words.")
    with running(settings) as server:
        assert {d["name"] for d in server.all_ready(2)} == {"kettle.md", "whole.txt"}
    assert [p.name for p in settings.uploads.iterdir()] == ["whole.txt"]


def test_an_upload_deleted_while_nobody_looked_leaves_the_index(settings):
    with running(settings) as server:
        server.upload(("a.txt", b"Words."))
        server.all_ready(2)
    Path(settings.uploads / "a.txt").unlink()
    with running(settings) as server:
        assert [d["name"] for d in server.all_ready(1)] == ["kettle.md"]


def test_a_bug_is_an_error_in_the_same_shape(settings, monkeypatch):
    with running(settings) as server:
        monkeypatch.setattr(
            type(server.service.records), "conversations", lambda *_: asyncio.nothing
        )
        answer = server.http.get("/api/conversations")
        assert (answer.status_code, answer.json()["error"]["code"]) == (500, "bug")
        assert "nothing" not in answer.text
