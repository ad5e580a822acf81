"""`/v1/models`."""

from __future__ import annotations

from fastapi import APIRouter
from pydantic import BaseModel, Field

from gem_rag.server.depends import Ready
from gem_rag.server.openai.names import all_names, require_known

router = APIRouter(tags=["openai"])


class ModelCard(BaseModel):
    """A name that can be given as `model`."""

    id: str = Field(examples=["smollm2-135m-instruct:docs"])
    object: str = "model"
    created: int = 0
    owned_by: str = "gem-rag"


class ModelList(BaseModel):
    """All of them."""

    object: str = "list"
    data: list[ModelCard]


@router.get("/v1/models", response_model=ModelList)
async def models(loaded: Ready) -> ModelList:
    """The names of the model: plain, answering from the index, embedding questions."""
    return ModelList(data=[ModelCard(id=name) for name in all_names(loaded)])


@router.get("/v1/models/{model:path}", response_model=ModelCard)
async def model(model: str, loaded: Ready) -> ModelCard:
    """One of them."""
    require_known(loaded, model)
    return ModelCard(id=model)
