"""GemRetriever: finds with the index, ranks with the model that made the vectors."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any, Literal

from langchain_core.callbacks import (
    AsyncCallbackManagerForRetrieverRun,
    CallbackManagerForRetrieverRun,
)
from langchain_core.documents import Document
from langchain_core.retrievers import BaseRetriever
from pydantic import model_validator

from gem_rag.arguments import merged
from gem_rag.index import Hit
from gem_rag.index.search import Mode
from gem_rag.rag.finding import asked_of
from gem_rag.rag.question import readable
from gem_rag.rag.retrieve import CANDIDATES, Candidate, Choice, Rank
from langchain_gem_rag.documents import document_of, with_metadata, with_scores
from langchain_gem_rag.options import RETRIEVING, StrictFields
from langchain_gem_rag.ranking import chosen
from langchain_gem_rag.vectorstore import GemVectorStore


class GemRetriever(StrictFields, BaseRetriever):
    """The k best documents of a `GemVectorStore` for a query.

    Each document's metadata carries the scores that found it: ``score`` (cosine), ``word_score``
    and ``fused_score`` where words were searched, ``rank_score`` where it was ranked; and ``start``
    and ``end``, its place in the source, where that is known (``start_index`` of LangChain's
    splitters is understood). Equal texts count once. A query that is blank, or too long to be
    ranked by, leaves the search's order.

    What follows may be given as ``search_kwargs={...}`` as well, and all of it to one ``invoke``.

    Attributes:
        vectorstore: Where to search; with `GemEmbeddings` its kept readings serve the ranking.
        k: How many documents to return.
        candidates: How many the index finds for the model to rank, or for "mmr" to choose from
            where nothing is ranked.
        filter: Metadata filter.
        score_threshold: Least cosine.
        rank_threshold: Least ``rank_score`` (see `gem_rag.rag.relevance`).
        mode: What finds: "hybrid" (words beside vectors; words alone where the model has not
            learned to embed), "vector" or "words".
        search_type: "similarity", the same with a ``score_threshold``, or "mmr".
        lambda_mult: For "mmr": 1 is relevance alone, 0 diversity alone.
        rank: Rank what is found, where the embeddings are `GemEmbeddings`.
        scores: Tell scores in the metadata. They differ from query to query: False leaves them out,
            so that who asks several queries (`MultiQueryRetriever`) sees one document found twice
            as one.
    """

    aliases = RETRIEVING

    vectorstore: GemVectorStore
    k: int = 4
    candidates: int = CANDIDATES
    filter: dict[str, Any] | None = None
    score_threshold: float | None = None
    rank_threshold: float | None = None
    search_type: Literal["similarity", "similarity_score_threshold", "mmr"] = "similarity"
    lambda_mult: float = 0.5
    rank: bool = True
    scores: bool = True
    mode: Mode = "hybrid"

    @model_validator(mode="before")
    @classmethod
    def _with_search_kwargs(cls, given: Any) -> Any:
        return _flat(given) if isinstance(given, Mapping) else given

    def for_call(self, asked: dict[str, Any]) -> GemRetriever:
        """This retriever with what one call asks for; None is not asked for."""
        asked = {name: value for name, value in _flat(asked).items() if value is not None}
        own = {name: value for name, value in self if name in self.model_fields_set}
        return type(self)(**{**own, **asked}) if asked else self

    def _get_relevant_documents(
        self,
        query: str,
        *,
        run_manager: CallbackManagerForRetrieverRun | None = None,  # noqa: ARG002
        **kwargs: Any,
    ) -> list[Document]:
        return self.for_call(kwargs).find(query)

    async def _aget_relevant_documents(
        self,
        query: str,
        *,
        run_manager: AsyncCallbackManagerForRetrieverRun | None = None,  # noqa: ARG002
        **kwargs: Any,
    ) -> list[Document]:
        called, query = self.for_call(kwargs), readable(query)
        words = self.vectorstore.found_by(called.mode) == "words"
        vector = None if words else await self.vectorstore.embedding.aembed_query(query)
        return await asyncio.to_thread(called.find, query, vector)

    def find(self, query: str, vector: list[float] | None = None) -> list[Document]:
        """The documents for a query, whose vector ``[d]`` may be at hand."""
        query, gem = readable(query), self.vectorstore.gem
        choice = Choice(
            k=self.k,
            rank=self._rank(),
            candidates=self.candidates,
            least_score=self.score_threshold,
            least_rank=self.rank_threshold,
            weights=None if gem is None else gem.config.relevance,
        )
        # What MMR chooses from, where nothing is ranked and somebody said it.
        chosen_from = "candidates" in self.model_fields_set and choice.rank is None
        hits = self.vectorstore.find(
            query,
            choice.wanted,
            vector=vector,
            mode=self.mode,
            filter=self.filter,
            distinct=True,
            mmr=self.lambda_mult if self.search_type == "mmr" else None,
            fetch_k=self.candidates if chosen_from else None,
        )
        asked = None if gem is None else asked_of(query, gem)
        candidates = [self._candidate(hit, asked) for hit in hits]
        return chosen(choice, query, candidates, scores=self.scores)

    def _candidate(self, hit: Hit, asked: str | None) -> Candidate[Document]:
        document = _with_place(document_of(hit))
        if self.scores:
            document = with_scores(document, hit, asked)
        return Candidate(document, hit.words, hit.score, hit.word_score)

    def _rank(self) -> Rank | None:
        """What ranks: kept readings where there are some."""
        store, gem = self.vectorstore.readings, self.vectorstore.gem
        if self.rank and store is not None:
            return store.rank
        if self.rank and gem is not None:
            return gem.rank
        if self.rank_threshold is not None:
            raise ValueError(
                f"rank_threshold is {self.rank_threshold}, but nothing is ranked: that needs "
                "rank=True and a vector store with GemEmbeddings"
            )
        return None


def _flat(given: Mapping[str, Any]) -> dict[str, Any]:
    """Options under their own names, those in `search_kwargs` beside the others."""
    rest = {name: value for name, value in given.items() if name != "search_kwargs"}
    return merged(rest, given.get("search_kwargs") or {}, RETRIEVING)


def _with_place(document: Document) -> Document:
    start = document.metadata.get("start_index")
    if start is None or "start" in document.metadata:
        return document
    return with_metadata(document, start=start, end=start + len(document.page_content))
