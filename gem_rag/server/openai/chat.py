"""`POST /v1/chat/completions`: the plain model, or answers from the documents."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import aclosing
from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse, Response

from gem_rag.rag.citation import marks
from gem_rag.server.admission import unless_gone
from gem_rag.server.answering import Told, tell
from gem_rag.server.depends import Place, Served
from gem_rag.server.errors import ApiError, error_body
from gem_rag.server.openai.completing import Completion
from gem_rag.server.openai.messages import to_core
from gem_rag.server.openai.names import answers_from_documents
from gem_rag.server.openai.requests import ChatRequest
from gem_rag.server.openai.written import Deltas, Written, choice_of, reason_of
from gem_rag.server.service import Service
from gem_rag.server.sse import DONE, EventStream, event

router = APIRouter(tags=["openai"])
# What its clients know; ours beyond these (nothing found, small talk) is an end like any other.
OPENAI_REASONS = ("stop", "length", "tool_calls")
SHAPES: dict[int | str, dict[str, Any]] = {
    200: {
        "description": "A completion, or with `stream` its chunks as events.",
        "content": {
            "application/json": {"schema": {"type": "object"}},
            "text/event-stream": {"schema": {"type": "string"}},
        },
    }
}


@router.post("/v1/chat/completions", responses=SHAPES, dependencies=[Place])
async def chat(asked: ChatRequest, request: Request, service: Served) -> Response:
    """Complete a conversation; with `<name>:docs` from the documents, with `citations`."""
    from_documents = answers_from_documents(service.loaded, asked.model)
    asked.require_honoured(service.settings.limits)
    if from_documents:
        asked.require_plain()
        return await _from_documents(asked, request, service)
    asked.require_no_finding()
    asked.require_free()
    completion = await unless_gone(request, Completion.begin(service, asked))
    if asked.stream:
        return _streamed(service, _chunks(asked, completion))
    one_call = asked.parallel_tool_calls is False
    try:
        generations = await unless_gone(request, completion.whole())
    finally:
        completion.close()
    choices = [
        choice_of(index, generation, completion.more_likelihoods(index), one_call=one_call)
        for index, generation in enumerate(generations)
    ]
    return JSONResponse(Written(asked.model).whole(choices, [g.usage for g in generations]))


def _streamed(service: Service, events: AsyncIterator[str]) -> EventStream:
    return EventStream(events, service.settings.limits.stall_seconds)


async def _chunks(asked: ChatRequest, completion: Completion) -> AsyncIterator[str]:
    written = Written(asked.model)
    answers = range(asked.answers)
    deltas = [Deltas(one_call=asked.parallel_tool_calls is False) for _ in answers]
    try:
        for index in answers:
            yield event(written.chunk(index, {"role": "assistant", "content": ""}))
        async with aclosing(completion.pieces()) as pieces:
            async for index, piece in pieces:
                if piece is None:
                    completion.require_not_stopped()
                    reason = reason_of(completion.generation(index))
                    rest = completion.more_likelihoods(index)
                    yield event(written.chunk(index, {}, reason, rest))
                elif (delta := deltas[index].of(piece)) is not None:
                    more = completion.more_likelihoods(index)
                    yield event(written.chunk(index, delta, None, more))
        if asked.wants_usage:
            yield event(written.usage_chunk(completion.generation(i).usage for i in answers))
        yield DONE
    except Exception as error:
        yield event(error_body(error))
    finally:
        completion.close()


async def _from_documents(asked: ChatRequest, request: Request, service: Service) -> Response:
    *history, last = to_core(asked.messages)
    question = str(last["content"])
    if last["role"] != "user" or not question.strip():
        raise ApiError(400, "the last message is no question of the user's", param="messages")
    how, options = asked.finding, asked.options(0)
    options.pop("skill", None)  # said in `how`
    told = await unless_gone(request, tell(service, question, history, how, options))
    if asked.stream:
        return _streamed(service, _told_chunks(asked, told))
    try:
        await unless_gone(request, _to_end(told))
    finally:
        told.close()
    told.require_not_stopped()
    return JSONResponse(_told_whole(asked, told))


async def _to_end(told: Told) -> None:
    async for _ in await told.begin():
        pass


def _told_whole(asked: ChatRequest, told: Told) -> dict[str, Any]:
    said = told.answer_json
    message = {
        "role": "assistant",
        "content": said["answer"] + marks(told.answer.citations),
        "refusal": None,
        "citations": said["citations"],
    }
    reason = _reason(said["finish_reason"])
    choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": reason}
    usages = [told.answer.usage]
    return Written(asked.model).whole([choice], usages, citations=said["citations"])


async def _told_chunks(asked: ChatRequest, told: Told) -> AsyncIterator[str]:
    written = Written(asked.model)
    try:
        yield event(written.chunk(0, {"role": "assistant", "content": ""}))
        async for piece in await told.begin():
            yield event(written.chunk(0, {"content": piece}))
        told.require_not_stopped()
        said = told.answer_json
        if found := marks(told.answer.citations):
            yield event(written.chunk(0, {"content": found}))
        reason = _reason(said["finish_reason"])
        yield event(written.chunk(0, {}, reason, citations=said["citations"]))
        if asked.wants_usage:
            yield event(written.usage_chunk([told.answer.usage]))
        yield DONE
    except Exception as error:
        yield event(error_body(error))
    finally:
        told.close()


def _reason(reason: str) -> str:
    """Why an answer ended, in OpenAI's words."""
    return reason if reason in OPENAI_REASONS else "stop"
