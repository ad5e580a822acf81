"""`POST /v1/embeddings`."""

from __future__ import annotations

import base64
from typing import Any, Literal

import numpy as np
from fastapi import APIRouter, Request
from pydantic import BaseModel, ConfigDict, Field

from gem_rag.config import Task
from gem_rag.server.admission import unless_gone
from gem_rag.server.depends import Place, Ready, Served
from gem_rag.server.errors import ApiError
from gem_rag.server.openai.names import task_of
from gem_rag.server.openai.tokens import counted
from gem_rag.server.service import Loaded

router = APIRouter(tags=["openai"])
TOKENS = (
    "the input is token ids, of a vocabulary that need not be this model's; send text (with "
    "LangChain's OpenAIEmbeddings: check_embedding_ctx_length=False)"
)


class EmbeddingRequest(BaseModel):
    """Texts to embed."""

    model_config = ConfigDict(extra="forbid")

    model: str = Field(examples=["smollm2-135m-instruct"])
    input: str | list[Any] = Field(examples=[["A passage.", "Another."]])
    encoding_format: Literal["float", "base64"] = "float"
    dimensions: int | None = Field(None, description="The model's own, or left out.")
    input_type: Task | None = Field(None, description="Ours: what the texts are.")
    user: str | None = Field(None, description="Ignored.")


class Embedding(BaseModel):
    """One vector, of length 1."""

    object: str = "embedding"
    index: int
    embedding: list[float] | str


class EmbeddingUsage(BaseModel):
    """Tokens that were read."""

    prompt_tokens: int
    total_tokens: int


class EmbeddingResponse(BaseModel):
    """Vectors, in the order of the texts."""

    object: str = "list"
    data: list[Embedding]
    model: str
    usage: EmbeddingUsage


@router.post("/v1/embeddings", response_model=EmbeddingResponse, dependencies=[Place])
async def embeddings(
    asked: EmbeddingRequest, request: Request, loaded: Ready, service: Served
) -> EmbeddingResponse:
    """Embed passages, or questions with the model `<name>:query`."""
    task = task_of(loaded, asked.model, asked.input_type)
    texts = _texts(asked.input, service.settings.limits.texts)
    _require_dimensions(loaded, asked.dimensions)
    model = loaded.model
    most = min(model.config.max_text_tokens, model.embedder.longest_text(task))
    tokens = await counted(model, texts, most, "input")
    embed = model.aembed_queries if task == "query" else model.aembed_documents
    vectors = await unless_gone(request, embed(texts, show_progress=False))
    return EmbeddingResponse(
        data=[
            Embedding(index=index, embedding=_written(vector, asked.encoding_format))
            for index, vector in enumerate(vectors)
        ],
        model=asked.model,
        usage=EmbeddingUsage(prompt_tokens=tokens, total_tokens=tokens),
    )


def _texts(given: str | list[Any], most: int) -> list[str]:
    texts = [given] if isinstance(given, str) else given
    if not texts or len(texts) > most:
        raise ApiError(400, f"{len(texts)} texts; expected 1 to {most}", param="input")
    if any(isinstance(text, int | list) for text in texts):
        raise ApiError(400, TOKENS, param="input")
    for index, text in enumerate(texts):
        if not isinstance(text, str) or not text:
            raise ApiError(400, f"text {index} is {text!r}; expected words", param="input")
    return texts


def _require_dimensions(loaded: Loaded, dimensions: int | None) -> None:
    if not loaded.model.embeds:
        raise ApiError(400, "this model has not learned to embed", param="model")
    if dimensions not in (None, loaded.model.dim):
        message = f"dimensions is {dimensions}; the model has {loaded.model.dim}"
        raise ApiError(400, message, param="dimensions")


def _written(vector: np.ndarray, encoding: str) -> list[float] | str:
    if encoding == "float":
        floats: list[float] = vector.tolist()
        return floats
    return base64.b64encode(vector.astype("<f4").tobytes()).decode()
