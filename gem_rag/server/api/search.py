"""`POST /api/search`: passages without an answer."""

from __future__ import annotations

import time

from fastapi import APIRouter, Request

from gem_rag.engine.work import Work
from gem_rag.rag.citation import Citation
from gem_rag.server.admission import unless_gone
from gem_rag.server.answering import citation_json, rag_for
from gem_rag.server.api.bodies import Search, SearchAnswer
from gem_rag.server.depends import Place, Ready

router = APIRouter()


@router.post("/api/search", response_model=SearchAnswer, dependencies=[Place], tags=["ask"])
async def search(asked: Search, request: Request, loaded: Ready) -> dict[str, object]:
    """Find passages, best first."""
    started = time.perf_counter()

    def found() -> list[Citation]:
        rag = rag_for(loaded, asked.model_copy(update={"k": max(asked.k, loaded.rag.candidates)}))
        return rag.retrieve(asked.question, k=asked.k, where=asked.where)

    async def awaited() -> list[Citation]:
        return await Work(found)

    citations = await unless_gone(request, awaited())
    return {
        "citations": [citation_json(loaded, citation) for citation in citations],
        "timings": {"total": time.perf_counter() - started},
    }
