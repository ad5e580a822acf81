"""GemReranker: query likelihood as a node postprocessor."""

from __future__ import annotations

from typing import Any

from llama_index.core.bridge.pydantic import Field, PrivateAttr
from llama_index.core.postprocessor.types import BaseNodePostprocessor
from llama_index.core.schema import NodeWithScore, QueryBundle

from gem_rag.arguments import renamed, require_known
from gem_rag.model import LOADING, GemModel, Model, as_model, name_of
from gem_rag.rag.finding import weights_for
from gem_rag.rag.question import readable
from gem_rag.rag.retrieve import Choice
from gem_rag.store import ReadingStore
from llama_index_gem_rag.options import RERANKING
from llama_index_gem_rag.pickling import PickledWhole
from llama_index_gem_rag.ranking import candidate, chosen, finding_of, store_for


class GemReranker(PickledWhole, BaseNodePostprocessor):
    """Ranks nodes by how likely each makes the question; works after any retriever.

    Where all of them come from `GemRetriever`s that were asked the same with the same model, the
    words and cosines they were found by count too: scores are then theirs, as of
    `gem_rag.rag.relevance`, and otherwise nats per token of the question. A blank question leaves
    the order as it is. The async twin runs in a worker thread.

    Args:
        model: A bundled name, folder or hub id, or a loaded `GemModel`; None is the default.
        top_n: How many nodes to keep; None keeps all.
        cutoff: Least score of a node to keep; None keeps all.
        readings: Keeps what was read of the nodes; None makes a store in memory.
        **options: ``callback_manager``, and options of `GemModel.from_pretrained`.
    """

    model_name: str = Field(default="", description="What the model is called.")
    top_n: int | None = Field(default=None, description="Nodes to keep.", gt=0)
    cutoff: float | None = Field(default=None, description="Least score to keep.")
    _readings: ReadingStore = PrivateAttr()

    def __init__(
        self,
        model: Model = None,
        *,
        top_n: int | None = None,
        cutoff: float | None = None,
        readings: ReadingStore | None = None,
        **options: Any,
    ) -> None:
        options.pop("class_name", None)
        own = renamed({"top_n": top_n, "cutoff": cutoff, **options}, RERANKING)
        loading = {name: own.pop(name) for name in LOADING if name in own}
        known = {*type(self).model_fields, *LOADING}
        require_known(own, known, self.class_name(), RERANKING)
        model = own.get("model_name") if model is None else model
        if model is None and readings is not None:
            model = readings.model
        loaded = as_model(model, **loading)
        own.setdefault("model_name", name_of(loaded, given=model))
        super().__init__(**own)
        self._readings = store_for(loaded, readings)

    @classmethod
    def class_name(cls) -> str:
        """The name in serialised form."""
        return "GemReranker"

    @property
    def gem(self) -> GemModel:
        """The loaded model that ranks."""
        return self._readings.model

    @property
    def model(self) -> str:
        """Its name."""
        return self.model_name

    @property
    def readings(self) -> ReadingStore:
        """What was read of the nodes so far."""
        return self._readings

    def _postprocess_nodes(
        self, nodes: list[NodeWithScore], query_bundle: QueryBundle | None = None
    ) -> list[NodeWithScore]:
        if query_bundle is None:
            raise ValueError("GemReranker needs the question: pass query_bundle or query_str")
        question = readable(query_bundle.query_str)
        choice = Choice(
            k=self.top_n,
            rank=self._readings.rank,
            least_rank=self.cutoff,
            weights=weights_for([finding_of(node) for node in nodes], question, self.gem),
        )
        return chosen(choice, question, [candidate(node) for node in nodes])
