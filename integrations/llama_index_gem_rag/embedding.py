"""GemEmbedding: a GEM model as LlamaIndex's embedding class."""

from __future__ import annotations

import asyncio
from typing import Any

from llama_index.core.base.embeddings.base import BaseEmbedding
from llama_index.core.bridge.pydantic import Field, PrivateAttr

from gem_rag.arguments import require_known
from gem_rag.model import LOADING, GemModel, Model, as_model, name_of
from gem_rag.store import ReadingStore
from llama_index_gem_rag.pickling import PickledWhole

# What BaseEmbedding and its parents take; anything else is an option of the model's loading.
_FIELDS = {
    "model_name",
    "embed_batch_size",
    "callback_manager",
    "num_workers",
    "embeddings_cache",
    "rate_limiter",
}


class GemEmbedding(PickledWhole, BaseEmbedding):
    """Embeds texts as texts and queries as queries; vectors are unit length.

    Args:
        model: A bundled name, folder or hub id, or a loaded `GemModel`; None is the default.
        readings: Keeps what was read of the texts while there is room, so that a `GemRetriever` or
            `GemReranker` with the same store ranks them without reading them again.
        **options: Fields of `BaseEmbedding` (``embed_batch_size``, ``callback_manager``,
            ``num_workers``, ``embeddings_cache``, ``rate_limiter``) and options of
            `GemModel.from_pretrained` (``device``, ``dtype``, ``revision``).
    """

    fingerprint: str = Field(
        default="", description="Of the model, where it embeds: vectors of others differ."
    )
    _model: GemModel = PrivateAttr()
    _readings: ReadingStore | None = PrivateAttr()

    def __init__(
        self, model: Model = None, *, readings: ReadingStore | None = None, **options: Any
    ) -> None:
        fields: dict[str, Any] = {n: options.pop(n) for n in _FIELDS & options.keys()}
        options.pop("class_name", None)
        options.pop("fingerprint", None)  # of a serialised one: the model loaded has its own
        require_known(options, {*LOADING, *_FIELDS}, self.class_name())
        if model is None:
            model = fields.get("model_name")
        loaded = as_model(model, **options)
        if readings is not None:
            readings.require_embeds_as(loaded)
        fields.setdefault("model_name", name_of(loaded, given=model))
        fields["fingerprint"] = loaded.fingerprint if loaded.embeds else ""
        super().__init__(**fields)
        self._model = loaded
        self._readings = readings

    @classmethod
    def class_name(cls) -> str:
        """The name in serialised form."""
        return "GemEmbedding"

    @property
    def gem(self) -> GemModel:
        """The loaded model that embeds."""
        return self._model

    @property
    def model(self) -> str:
        """Its name."""
        return self.model_name

    def get_query_embedding(self, query: str) -> list[float]:
        """Embed a question, as a question: a unit vector."""
        return BaseEmbedding.get_query_embedding(self._for_queries(), query)

    async def aget_query_embedding(self, query: str) -> list[float]:
        """`get_query_embedding` without blocking the event loop."""
        return await BaseEmbedding.aget_query_embedding(self._for_queries(), query)

    def _for_queries(self) -> GemEmbedding:
        # LlamaIndex's cache knows a vector by its text alone: a text's would pass for a query's.
        return self.model_copy(update={"embeddings_cache": None})

    def _get_query_embedding(self, query: str) -> list[float]:
        out: list[float] = self._model.embed_query(query).tolist()
        return out

    async def _aget_query_embedding(self, query: str) -> list[float]:
        out: list[float] = (await self._model.aembed_query(query)).tolist()
        return out

    def _get_text_embedding(self, text: str) -> list[float]:
        return self._get_text_embeddings([text])[0]

    async def _aget_text_embedding(self, text: str) -> list[float]:
        return (await self._aget_text_embeddings([text]))[0]

    def _get_text_embeddings(self, texts: list[str]) -> list[list[float]]:
        if self._readings is not None:
            vectors = self._readings.embed(texts)
        else:
            vectors = self._model.embed_documents(texts, show_progress=False)
        out: list[list[float]] = vectors.tolist()
        return out

    async def _aget_text_embeddings(self, texts: list[str]) -> list[list[float]]:
        if self._readings is not None:
            return await asyncio.to_thread(self._get_text_embeddings, texts)
        vectors = await self._model.aembed_documents(texts, show_progress=False)
        out: list[list[float]] = vectors.tolist()
        return out
