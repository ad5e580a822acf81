"""`POST /api/ask`: sources first, then the words as they come, then all that is known."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import StreamingResponse

from gem_rag.server.admission import unless_gone
from gem_rag.server.answering import Told, tell
from gem_rag.server.api.bodies import Ask
from gem_rag.server.depends import Place, Served
from gem_rag.server.errors import ClientGone, error_body, require_few
from gem_rag.server.exchanges import Exchange, require_one
from gem_rag.server.service import Service
from gem_rag.server.sse import EventStream, event

router = APIRouter()
NO_IDS = {"conversation": None, "question_id": None, "answer_id": None}
STREAM: dict[int | str, dict[str, Any]] = {
    200: {
        "description": "Events: `sources`, `token`*, then `done` or `error`.",
        "content": {
            "text/event-stream": {
                "schema": {"type": "string"},
                "example": 'event: sources\ndata: []\n\nevent: token\ndata: {"text": "Seven"}\n\n',
            }
        },
    }
}


@router.post(
    "/api/ask",
    response_class=StreamingResponse,
    responses=STREAM,
    dependencies=[Place],
    tags=["ask"],
)
async def ask(asked: Ask, request: Request, service: Served) -> EventStream:
    """Answer a question from the documents, with citations."""
    require_few(asked.max_tokens, service.settings.limits.answer_tokens, "max_tokens")
    require_one(asked.conversation, asked.history, asked.replaces)
    exchange = await _exchange(service, asked)
    history = [said.model_dump() for said in asked.history]
    generation = {
        "temperature": asked.temperature,
        "max_new_tokens": asked.max_tokens,
        "seed": asked.seed,
    }
    said = exchange.history if exchange is not None else history
    try:
        told = await unless_gone(request, tell(service, asked.question, said, asked, generation))
    except ClientGone:
        raise
    except Exception:
        if exchange is not None:
            await exchange.take_back()
        raise
    return EventStream(_events(told, exchange), service.settings.limits.stall_seconds)


async def _exchange(service: Service, asked: Ask) -> Exchange | None:
    if asked.conversation is None:
        return None
    return await asyncio.to_thread(
        Exchange.begun, service.records, asked.conversation, asked.question, asked.replaces
    )


async def _events(told: Told, exchange: Exchange | None) -> AsyncIterator[str]:
    try:
        yield event(told.sources, "sources")
        async for piece in await told.begin():
            yield event({"text": piece}, "token")
            if exchange is not None and exchange.is_due:
                await exchange.save(told.answer_json, is_over=False)
        told.require_not_stopped()
        ids = NO_IDS if exchange is None else exchange.ids
        yield event({**told.answer_json, **ids}, "done")
    except Exception as error:
        yield event(error_body(error), "error")
    finally:
        told.close()
        if exchange is not None:  # whoever asked may be gone, and comes back to it
            await asyncio.shield(exchange.save(told.answer_json, is_over=True))
