"""GemRetriever: found by words and vectors, ranked by the model that made the vectors."""

from __future__ import annotations

import asyncio
from typing import Any

from llama_index.core.base.base_retriever import BaseRetriever
from llama_index.core.callbacks import CallbackManager
from llama_index.core.constants import DEFAULT_SIMILARITY_TOP_K
from llama_index.core.schema import NodeWithScore, QueryBundle
from llama_index.core.vector_stores.types import (
    MetadataFilters,
    VectorStoreQuery,
    VectorStoreQueryMode,
)

from gem_rag.arguments import renamed, require_known
from gem_rag.errors import GemError
from gem_rag.index import Hit
from gem_rag.index.search import Mode
from gem_rag.model import GemModel, Model, as_model, name_of
from gem_rag.rag.finding import Finding, asked_of
from gem_rag.rag.question import readable
from gem_rag.rag.retrieve import CANDIDATES, Choice
from gem_rag.store import ReadingStore
from llama_index_gem_rag.options import RETRIEVING
from llama_index_gem_rag.ranking import FoundNode, candidate, chosen, store_for
from llama_index_gem_rag.vector_store import GemVectorStore, node_of

BASE_OPTIONS = ("object_map", "objects", "verbose")
OWN_OPTIONS = (
    "similarity_top_k",
    "candidates",
    "filters",
    "mode",
    "rank",
    "cutoff",
    "mmr_threshold",
)


class GemRetriever(BaseRetriever):
    """Searches a `GemVectorStore` and ranks what it finds with the model that embedded it.

    Equal texts count once. A question that is blank, or too long to be ranked by, leaves the
    search's order.

    Args:
        vector_store: Where the nodes are.
        model: A bundled name, folder or hub id, or a loaded `GemModel`; None is the default.
        similarity_top_k: How many nodes to return.
        candidates: How many the search finds for the model to rank.
        filters: Which nodes may be found.
        mode: What finds: "hybrid" (words beside vectors; words alone where the model has not
            learned to embed), "vector" or "words".
        rank: Rank what is found; False keeps the search's order and scores.
        cutoff: Least score of a node to return: a rank score (see `gem_rag.rag.relevance`) where
            nodes are ranked, else a cosine. None returns all.
        mmr_threshold: Search by maximal marginal relevance, 1 relevance alone to 0 diversity alone,
            so that the candidates do not all say the same. None searches for the nearest.
        readings: Keeps what was read of the nodes, so that it is read once; None makes a store in
            memory.
        callback_manager: As for `BaseRetriever`.
        **options: As for `BaseRetriever` (``object_map``, ``objects``, ``verbose``).

    Raises:
        GemError: `similarity_top_k` or `candidates` is below 1.
        GemIndexError: When retrieving: the store's vectors are another model's.
    """

    def __init__(
        self,
        vector_store: GemVectorStore,
        model: Model = None,
        *,
        similarity_top_k: int = DEFAULT_SIMILARITY_TOP_K,
        candidates: int = CANDIDATES,
        filters: MetadataFilters | None = None,
        mode: Mode = "hybrid",
        rank: bool = True,
        cutoff: float | None = None,
        mmr_threshold: float | None = None,
        readings: ReadingStore | None = None,
        callback_manager: CallbackManager | None = None,
        **options: Any,
    ) -> None:
        if similarity_top_k != DEFAULT_SIMILARITY_TOP_K:
            options["similarity_top_k"] = similarity_top_k
        options = renamed({"filters": filters, "cutoff": cutoff, **options}, RETRIEVING)
        similarity_top_k = options.pop("similarity_top_k", similarity_top_k)
        filters, cutoff = options.pop("filters"), options.pop("cutoff")
        require_known(options, (*BASE_OPTIONS, *OWN_OPTIONS), type(self).__name__, RETRIEVING)
        if similarity_top_k < 1 or candidates < 1:
            raise GemError(
                f"similarity_top_k {similarity_top_k}, candidates {candidates}; expected both >= 1"
            )
        self._vector_store = vector_store
        self._model = as_model(readings.model if model is None and readings else model)
        self._readings = store_for(self._model, readings)
        self._choice = Choice(
            k=similarity_top_k,
            rank=self._readings.rank if rank else None,
            candidates=candidates,
            least_score=None if rank else cutoff,
            least_rank=cutoff,
            weights=self._model.config.relevance,
        )
        plain = not self._model.embeds
        self._mode: Mode = "words" if plain and mode == "hybrid" else mode
        self._filters = filters
        self._mmr_threshold = mmr_threshold
        super().__init__(callback_manager=callback_manager, **options)

    @property
    def gem(self) -> GemModel:
        """The loaded model that embeds questions and ranks."""
        return self._model

    @property
    def model(self) -> str:
        """Its name."""
        return name_of(self._model)

    @property
    def readings(self) -> ReadingStore:
        """What was read of the nodes so far."""
        return self._readings

    def _retrieve(self, query_bundle: QueryBundle) -> list[NodeWithScore]:
        without = self._mode == "words" and self._mmr_threshold is None
        question = readable(query_bundle.query_str)
        hits = self._vector_store.hits(
            self._query(question, None if without else self._embedded(query_bundle)),
            distinct=True,
            mode=self._mode,
            fingerprint=self._model.fingerprint,
        )
        asked = asked_of(question, self._model)
        found = [self._found(hit, asked) for hit in hits]
        return chosen(self._choice, question, [candidate(node) for node in found])

    async def _aretrieve(self, query_bundle: QueryBundle) -> list[NodeWithScore]:
        return await asyncio.to_thread(self._retrieve, query_bundle)

    def _embedded(self, query_bundle: QueryBundle) -> list[float]:
        """The query's vector; several texts that stand for it (as HyDE's) give their mean."""
        if query_bundle.embedding is not None:
            return query_bundle.embedding
        texts = [readable(t) for t in query_bundle.embedding_strs or [query_bundle.query_str]]
        vectors = self._model.embed_queries(texts, show_progress=False)
        mean: list[float] = vectors.mean(0).tolist()
        return mean

    def _query(self, question: str, vector: list[float] | None) -> VectorStoreQuery:
        modes = {
            "hybrid": VectorStoreQueryMode.HYBRID,
            "vector": VectorStoreQueryMode.DEFAULT,
            "words": VectorStoreQueryMode.TEXT_SEARCH,
        }
        mmr = self._mmr_threshold is not None
        return VectorStoreQuery(
            query_embedding=vector,
            query_str=question,
            similarity_top_k=self._choice.wanted,
            filters=self._filters,
            mode=VectorStoreQueryMode.MMR if mmr else modes[self._mode],
            mmr_threshold=self._mmr_threshold,
        )

    def _found(self, hit: Hit, asked: str) -> FoundNode:
        score = {"hybrid": hit.fused_score, "words": hit.word_score}.get(self._mode, hit.score)
        return FoundNode(
            node=node_of(hit),
            score=hit.score if score is None else score,
            finding=Finding(asked, hit.score, hit.word_score),
        )
