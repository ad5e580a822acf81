"""`POST /v1/rerank` (Jina, Cohere) and `POST /rerank` (text-embeddings-inference)."""

from __future__ import annotations

import math

from fastapi import APIRouter, Request
from pydantic import BaseModel, ConfigDict, Field

from gem_rag.model import Ranked
from gem_rag.server.admission import unless_gone
from gem_rag.server.depends import Place, Ready, Served
from gem_rag.server.errors import ApiError
from gem_rag.server.openai.names import require_known
from gem_rag.server.openai.tokens import counted
from gem_rag.server.service import Loaded

router = APIRouter(tags=["openai"])


class TextDocument(BaseModel):
    """A document."""

    text: str


class RerankRequest(BaseModel):
    """Documents to be put in order."""

    model_config = ConfigDict(extra="forbid")

    model: str | None = Field(None, examples=["smollm2-135m-instruct"])
    query: str = Field(min_length=1, pattern=r"\S", examples=["How long is the warranty?"])
    documents: list[str | TextDocument] = Field(
        min_length=1, examples=[["The warranty is seven years.", "Rivers run to the sea."]]
    )
    top_n: int | None = Field(None, ge=1)
    return_documents: bool = True


class Result(BaseModel):
    """A document's place."""

    index: int
    relevance_score: float
    document: TextDocument | None = None


class RerankUsage(BaseModel):
    """Tokens of the query and the documents."""

    total_tokens: int


class RerankResponse(BaseModel):
    """Best first."""

    model: str
    results: list[Result]
    usage: RerankUsage


@router.post(
    "/v1/rerank",
    response_model=RerankResponse,
    response_model_exclude_none=True,
    dependencies=[Place],
)
async def rerank(
    asked: RerankRequest, request: Request, loaded: Ready, service: Served
) -> RerankResponse:
    """Put documents in the order of how likely each makes the query."""
    if asked.model is not None:
        require_known(loaded, asked.model)
    texts = [one if isinstance(one, str) else one.text for one in asked.documents]
    ranked, tokens = await _ranked(
        request, loaded, asked.query, texts, service.settings.limits.texts
    )
    return RerankResponse(
        model=asked.model or loaded.name,
        results=[
            Result(
                index=one.index,
                relevance_score=_share(one.score),
                document=TextDocument(text=texts[one.index]) if asked.return_documents else None,
            )
            for one in ranked[: asked.top_n]
        ],
        usage=RerankUsage(total_tokens=tokens),
    )


class TextsRequest(BaseModel):
    """Texts to be put in order."""

    model_config = ConfigDict(extra="forbid")

    query: str = Field(min_length=1, pattern=r"\S", examples=["How long is the warranty?"])
    texts: list[str] = Field(min_length=1, examples=[["The warranty is seven years.", "Rivers."]])
    raw_scores: bool = False
    return_text: bool = False
    truncate: bool = Field(False, description="Ignored: what is too long is refused.")


class Rank(BaseModel):
    """A text's place."""

    index: int
    score: float
    text: str | None = None


@router.post(
    "/rerank",
    response_model=list[Rank],
    response_model_exclude_none=True,
    dependencies=[Place],
)
async def rank(asked: TextsRequest, request: Request, loaded: Ready, service: Served) -> list[Rank]:
    """The same, as text-embeddings-inference has it."""
    most = service.settings.limits.texts
    ranked, _ = await _ranked(request, loaded, asked.query, asked.texts, most)
    return [
        Rank(
            index=one.index,
            score=one.score if asked.raw_scores else _share(one.score),
            text=asked.texts[one.index] if asked.return_text else None,
        )
        for one in ranked
    ]


async def _ranked(
    request: Request, loaded: Loaded, query: str, texts: list[str], most: int
) -> tuple[list[Ranked], int]:
    """Places, best first, and how many tokens that took."""
    if len(texts) > most:
        raise ApiError(400, f"{len(texts)} documents; expected at most {most}", param="documents")
    model = loaded.model
    tokens = await counted(model, texts, model.config.max_text_tokens, "documents")
    tokens += await counted(model, [query], model.max_context, "query")
    return await unless_gone(request, model.arank(query, texts)), tokens


def _share(score: float) -> float:
    """Nats a token to 0 to 1."""
    return 1 / (1 + math.exp(-max(-700.0, score)))
