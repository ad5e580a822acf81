"""`/api/conversations`: what was asked and answered, kept until it is deleted."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from fastapi import APIRouter, Query, Response
from fastapi.responses import JSONResponse, PlainTextResponse

from gem_rag.rag.transcript import as_markdown
from gem_rag.server.api.bodies import Conversation, ConversationEntry, Title
from gem_rag.server.depends import Served
from gem_rag.server.errors import not_found
from gem_rag.server.service import Service

router = APIRouter(tags=["conversations"])
FILES: dict[int | str, dict[str, Any]] = {
    200: {
        "description": "The conversation as a file.",
        "content": {"text/markdown": {"schema": {"type": "string"}}},
    }
}


@router.get("/api/conversations", response_model=list[ConversationEntry])
def all_conversations(
    service: Served,
    response: Response,
    q: Annotated[str, Query(max_length=200, description="Words of title or messages.")] = "",
    offset: Annotated[int, Query(ge=0, le=1 << 31)] = 0,
    limit: Annotated[int, Query(ge=1, le=1000)] = 100,
) -> Any:
    """All conversations, newest first; the header `X-Total-Count` says how many match."""
    found, total = service.records.conversations(q, offset, limit)
    response.headers["X-Total-Count"] = str(total)
    return found


@router.post("/api/conversations", response_model=Conversation, status_code=201)
def new(title: Title, service: Served) -> Any:
    """Begin a conversation."""
    return service.records.new_conversation(title.title.strip())


@router.get("/api/conversations/{conversation}", response_model=Conversation)
def one_conversation(conversation: str, service: Served) -> Any:
    """A conversation with what was said."""
    return _found(service, conversation)


@router.patch("/api/conversations/{conversation}", response_model=Conversation)
def rename(conversation: str, title: Title, service: Served) -> Any:
    """Give it another title."""
    service.records.rename_conversation(conversation, title.title.strip())
    return _found(service, conversation)


@router.delete("/api/conversations/{conversation}", status_code=204)
def delete(conversation: str, service: Served) -> Response:
    """Forget it."""
    if not service.records.delete_conversation(conversation):
        raise not_found(f"conversation {conversation!r}")
    return Response(status_code=204)


@router.get("/api/conversations/{conversation}/export", responses=FILES)
def export(
    conversation: str,
    service: Served,
    format: Literal["markdown", "json"] = "markdown",  # noqa: A002
) -> Response:
    """It as a file, with its sources."""
    found = _found(service, conversation)
    suffix = "md" if format == "markdown" else "json"
    headers = {"Content-Disposition": f'attachment; filename="{found["id"]}.{suffix}"'}
    if format == "json":
        return JSONResponse(found, headers=headers)
    return PlainTextResponse(as_markdown(found), headers=headers, media_type="text/markdown")


def _found(service: Service, conversation: str) -> dict[str, Any]:
    found = service.records.conversation(conversation)
    if found is None:
        raise not_found(f"conversation {conversation!r}")
    return found
