"""A server that says what a test wants it to say: the page's `/api` without a model behind it."""

from __future__ import annotations

import asyncio
import itertools
import json
import socket
import threading
import time
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles

import gem_rag

PAGE = Path(gem_rag.__file__).parent / "server" / "page"
QUESTION = "How long is the warranty of the kettle?"
ANSWER = "The kettle has a warranty of **seven years**, counted from the day it was bought."
KETTLE = """# Kettle

The kettle \U0001fad6 holds 1.7 litres and boils them in four minutes. It switches itself off.

## Warranty

The kettle has a warranty of seven years from the day it was bought. Keep the receipt as a proof.
The warranty does not cover limescale.

| part | replaced within |
|---|---:|
| lid | 3 days |
| heating plate | 12 days |

## Care

Descale it once a month with vinegar. Rinse it twice afterwards, and boil it empty once.
"""
SENTENCE = "The kettle has a warranty of seven years from the day it was bought."


def now() -> str:
    return datetime.now(UTC).isoformat().replace("+00:00", "Z")


@dataclass
class Stub:
    """What it knows, and how it is to behave; a test changes either at any time."""

    state: str = "ready"
    key: str | None = None
    answer: str = ANSWER
    citations: list[dict[str, Any]] | None = None
    nothing: bool = False
    queue_full: int = 0
    """How many questions are turned away before one is taken."""
    break_after: int | None = None
    """After how many pieces the connection breaks, once."""
    delay: float = 0.0
    """Seconds between pieces."""
    before_sources: float = 0.0
    finish: str = "stop"
    error: dict[str, Any] | None = None
    texts: dict[str, str] = field(default_factory=dict)
    documents: list[dict[str, Any]] = field(default_factory=list)
    folders: list[dict[str, Any]] = field(default_factory=list)
    conversations: dict[str, dict[str, Any]] = field(default_factory=dict)
    indexing: dict[str, Any] | None = None
    asked: list[dict[str, Any]] = field(default_factory=list)
    """The bodies of all questions."""
    removed: list[str] = field(default_factory=list)
    ids: Any = field(default_factory=lambda: itertools.count(1))

    def add(self, name: str, text: str | None, state: str = "ready", **more: Any) -> dict[str, Any]:
        """A document; without a text it cannot be shown."""
        document = {
            "id": f"d_{next(self.ids)}",
            "source": f"/home/me/notes/{name}",
            "name": name,
            "folder": None,
            "state": state,
            "chunks": 0 if text is None else max(1, len(text) // 400),
            "error": None,
            **more,
        }
        self.documents.append(document)
        if text is not None:
            self.texts[document["id"]] = text
        return document

    def citation(
        self, document: dict[str, Any], text: str, quote: str | None, **more: Any
    ) -> dict[str, Any]:
        """A passage of a document, the answering sentence in it."""
        whole = self.texts[document["id"]]
        start = whole.index(text)
        at = None if quote is None else whole.index(quote)
        return {
            "source": document["source"],
            "document": document["id"],
            "name": document["name"],
            "start": start,
            "end": start + len(text),
            "text": text,
            "heading": "Kettle > Warranty",
            "page": None,
            "id": f"p_{start}",
            "score": 0.71,
            "rank_score": 1.9,
            "word_score": 0.62,
            "fused_score": 0.7,
            "sources": [document["source"]],
            "metadata": {},
            "quote_start": at,
            "quote_end": None if at is None else at + len(quote),
            **more,
        }

    def with_kettle(self) -> Stub:
        """One document, and a citation from it."""
        document = self.add("kettle.md", KETTLE)
        passage = KETTLE[KETTLE.index("## Warranty") : KETTLE.index("| part")].rstrip()
        self.citations = [self.citation(document, passage, SENTENCE)]
        return self


def error(status: int, message: str, code: str, **headers: str) -> JSONResponse:
    body = {
        "error": {"message": message, "type": "invalid_request_error", "param": None, "code": code}
    }
    return JSONResponse(body, status, headers)


def event(name: str, data: Any) -> str:
    return f"event: {name}\ndata: {json.dumps(data)}\n\n"


class Api:
    """The routes over a `Stub`."""

    def __init__(self, stub: Stub) -> None:
        self.stub = stub
        self.closing = False

    def app(self) -> Starlette:
        routes = [
            Route("/api/settings", self.settings),
            Route("/api/auth", self.auth, methods=["POST"]),
            Route("/api/events", self.guarded(self.events)),
            Route("/api/ask", self.guarded(self.ask), methods=["POST"]),
            Route("/api/documents", self.guarded(self.list_documents)),
            Route("/api/documents", self.guarded(self.upload), methods=["POST"]),
            Route("/api/documents/reindex", self.guarded(self.again), methods=["POST"]),
            Route("/api/documents/{id}", self.guarded(self.document), methods=["GET", "DELETE"]),
            Route("/api/folders", self.guarded(self.add_folder), methods=["POST"]),
            Route("/api/conversations", self.guarded(self.list_conversations)),
            Route("/api/conversations", self.guarded(self.create), methods=["POST"]),
            Route(
                "/api/conversations/{id}",
                self.guarded(self.conversation),
                methods=["GET", "PATCH", "DELETE"],
            ),
            Route("/api/conversations/{id}/export", self.guarded(self.export)),
            Mount("/", StaticFiles(directory=PAGE, html=True)),
        ]
        return Starlette(routes=routes)

    def guarded(self, handler):
        async def handle(request: Request) -> Response:
            if self.stub.key is not None and request.cookies.get("key") != self.stub.key:
                return error(401, "a key is needed", "invalid_api_key")
            return await handler(request)

        return handle

    async def settings(self, request: Request) -> Response:
        stub = self.stub
        open_ = stub.key is None or request.cookies.get("key") == stub.key
        said: dict[str, Any] = {"key_needed": not open_, "state": stub.state}
        if open_:
            ready = stub.state == "ready"
            said |= {
                "version": "0.1.0",
                "model": {"name": "smollm2-135m-instruct", "max_context": 2048} if ready else None,
                "defaults": {
                    "k": 16,
                    "context": 1,
                    "mode": "hybrid",
                    "rank": True,
                    "temperature": 0.0,
                    "max_tokens": 256,
                    "threshold": 0.41,
                }
                if ready
                else None,
                "limits": {
                    "file_bytes": 10**8,
                    "upload_bytes": 10**9,
                    "files": 1000,
                    "max_tokens": 2048,
                    "suffixes": [".md", ".txt", ".pdf", ".docx", ".html", ".csv", ".py", ".json"],
                },
                "folders": {"allowed": True, "roots": []},
                "index": "/home/me/.local/share/gem-rag/4f1c",
            }
        return JSONResponse(said)

    async def auth(self, request: Request) -> Response:
        key = (await request.json())["key"]
        if key != self.stub.key:
            return error(401, "this is not the key", "invalid_api_key")
        response = Response(status_code=204)
        response.set_cookie("key", key, httponly=True, samesite="strict")
        return response

    async def events(self, request: Request) -> Response:
        async def stream():
            last: dict[str, str] = {}
            while not self.closing:
                by = {
                    s: sum(d["state"] == s for d in self.stub.documents)
                    for s in ("ready", "queued", "failed")
                }
                idle = {
                    "state": "idle",
                    "done": 0,
                    "total": 0,
                    "failed": 0,
                    "seconds_left": None,
                    "current": None,
                }
                told = {
                    "state": {"state": self.stub.state},
                    "documents": by,
                    "folders": self.stub.folders,
                    "indexing": self.stub.indexing or idle,
                }
                for name, data in told.items():
                    if last.get(name) != json.dumps(data):
                        last[name] = json.dumps(data)
                        yield event(name, data)
                await asyncio.sleep(0.05)

        return StreamingResponse(stream(), media_type="text/event-stream")

    async def ask(self, request: Request) -> Response:
        stub, body = self.stub, await request.json()
        stub.asked.append(body)
        if stub.state != "ready":
            return error(503, "the model is being loaded", "loading", **{"Retry-After": "1"})
        if stub.queue_full > 0:
            stub.queue_full -= 1
            return error(429, "the queue is full", "queue_full", **{"Retry-After": "1"})
        kept = stub.conversations[body["conversation"]]["messages"]
        if body.get("replaces") and body["replaces"] not in [m["id"] for m in kept]:
            return error(404, "there is no such question", "not_found")
        if stub.error is not None:
            return JSONResponse({"error": stub.error}, 400)
        return StreamingResponse(self.answering(body), media_type="text/event-stream")

    async def answering(self, body: dict[str, Any]):
        stub = self.stub
        messages = stub.conversations[body["conversation"]]["messages"]
        if body.get("replaces"):
            del messages[next(i for i, m in enumerate(messages) if m["id"] == body["replaces"]) :]
        question = {"id": f"m_{next(stub.ids)}", "role": "user", "content": body["question"]}
        answer = {
            "id": f"m_{next(stub.ids)}",
            "role": "assistant",
            "content": "",
            "finish_reason": None,
        }
        messages += [question, answer]
        stub.conversations[body["conversation"]]["title"] = messages[0]["content"][:60]
        citations = stub.citations or []
        await asyncio.sleep(stub.before_sources)
        answer["citations"] = [] if stub.nothing else citations
        yield event("sources", answer["citations"])
        pieces = [] if stub.nothing else [w + " " for w in stub.answer.split(" ")]
        for i, piece in enumerate(pieces):
            if stub.break_after is not None and i == stub.break_after:
                stub.break_after = None
                raise ConnectionError("as the test wants it")
            answer["content"] += piece
            answer["finish_reason"] = "cancelled"
            yield event("token", {"text": piece})
            if self.closing:
                raise ConnectionError("the server ends")
            if stub.delay:
                await asyncio.sleep(stub.delay)
        finish = "nothing_found" if stub.nothing else stub.finish
        answer |= {
            "content": answer["content"].rstrip(),
            "finish_reason": finish,
            "nearest": citations[:3] if stub.nothing else [],
            "timings": {
                "retrieve": 0.012,
                "rank": 0.028,
                "first_token": 0.12,
                "generate": 0.68,
                "total": 0.72,
            },
            "usage": {
                "prompt_tokens": 164,
                "cached_tokens": 128,
                "completion_tokens": 51,
                "truncated_tokens": 0,
            },
        }
        ids = {
            "conversation": body["conversation"],
            "question_id": question["id"],
            "answer_id": answer["id"],
        }
        yield event("done", {**answer, "answer": answer["content"], **ids})

    def part(self, request: Request, rows: list[dict[str, Any]], *names: str) -> Response:
        query = request.query_params
        found = [r for r in rows if any(query.get("q", "").lower() in r[n].lower() for n in names)]
        if query.get("state"):
            found = [r for r in found if r["state"] == query["state"]]
        offset, limit = int(query.get("offset", 0)), int(query.get("limit", 100))
        headers = {"X-Total-Count": str(len(found))}
        return JSONResponse(found[offset : offset + limit], headers=headers)

    async def list_documents(self, request: Request) -> Response:
        return self.part(request, self.stub.documents, "name")

    async def upload(self, request: Request) -> Response:
        form = await request.form()
        added, refused = [], []
        for file in form.getlist("files"):
            text = (await file.read()).decode()
            if file.filename.endswith(".zip"):
                refused.append({"name": file.filename, "error": "an archive cannot be read"})
            else:
                added.append(self.stub.add(file.filename, text))
        status = 202 if added else 422
        return JSONResponse({"documents": added, "refused": refused}, status)

    async def again(self, request: Request) -> Response:
        for document in self.stub.documents:
            document |= {"state": "ready", "error": None}
        return JSONResponse({"queued": 1}, 202)

    async def document(self, request: Request) -> Response:
        stub, id_ = self.stub, request.path_params["id"]
        document = next((d for d in stub.documents if d["id"] == id_), None)
        if document is None:
            return error(404, "there is no such document", "not_found")
        if request.method == "DELETE":
            stub.documents.remove(document)
            stub.removed.append(document["name"])
            stub.citations = [c for c in stub.citations or [] if c["document"] != id_]
            stub.nothing = not stub.citations
            return Response(status_code=204)
        text = stub.texts.get(id_)
        passages = [
            {
                "id": c["id"],
                "start": c["start"],
                "end": c["end"],
                "heading": c["heading"],
                "page": c["page"],
            }
            for c in stub.citations or []
            if c["document"] == id_
        ]
        return JSONResponse({**document, "text": text, "passages": passages})

    async def add_folder(self, request: Request) -> Response:
        path = (await request.json())["path"]
        if not path.startswith("/"):
            return error(
                400, f"{path} is no folder; expected one on this computer", "invalid_value"
            )
        folder = {
            "id": f"f_{next(self.stub.ids)}",
            "path": path,
            "state": "watching",
            "documents": 12,
            "looked": now(),
        }
        self.stub.folders = [*self.stub.folders, folder]
        return JSONResponse(folder, 201)

    async def list_conversations(self, request: Request) -> Response:
        return self.part(request, list(self.stub.conversations.values())[::-1], "title")

    async def create(self, request: Request) -> Response:
        id_ = f"c_{next(self.stub.ids)}"
        kept = {
            "id": id_,
            "title": "",
            "created": now(),
            "updated": now(),
            "count": 0,
            "messages": [],
        }
        self.stub.conversations[id_] = kept
        return JSONResponse(kept, 201)

    async def conversation(self, request: Request) -> Response:
        kept = self.stub.conversations.get(request.path_params["id"])
        if kept is None:
            return error(404, "there is no such conversation", "not_found")
        if request.method == "DELETE":
            del self.stub.conversations[kept["id"]]
            return Response(status_code=204)
        if request.method == "PATCH":
            kept["title"] = (await request.json())["title"]
        return JSONResponse(kept)

    async def export(self, request: Request) -> Response:
        kept = self.stub.conversations[request.path_params["id"]]
        if request.query_params["format"] == "json":
            headers = {"Content-Disposition": 'attachment; filename="conversation.json"'}
            return JSONResponse(kept, headers=headers)
        text = "\n\n".join(m["content"] for m in kept["messages"])
        headers = {"Content-Disposition": 'attachment; filename="conversation.md"'}
        return Response(text, media_type="text/markdown", headers=headers)


class Serving:
    """A stub on a port of its own, which can go away and come back."""

    def __init__(self, stub: Stub) -> None:
        self.stub = stub
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}/"
        self.start()

    def start(self) -> None:
        self.api = Api(self.stub)
        config = uvicorn.Config(
            self.api.app(), port=self.port, log_level="critical", timeout_graceful_shutdown=0
        )
        self.server = uvicorn.Server(config)
        self.thread = threading.Thread(target=self.server.run, daemon=True)
        self.thread.start()
        while not self.server.started:
            time.sleep(0.01)

    def stop(self) -> None:
        self.api.closing = True
        self.server.should_exit = True
        self.server.force_exit = True
        self.thread.join(10)


@contextmanager
def serving(stub: Stub):
    server = Serving(stub)
    try:
        yield server
    finally:
        server.stop()
