"""The searches of a vector store over `GemIndex`, each with its async twin."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

from langchain_core.documents import Document
from langchain_core.embeddings import Embeddings
from langchain_core.vectorstores import VectorStore

from gem_rag.arguments import renamed
from gem_rag.errors import OptionError
from gem_rag.index import GemIndex, Hit
from gem_rag.index.search import Mode
from gem_rag.model import GemModel
from langchain_gem_rag.documents import document_of
from langchain_gem_rag.embeddings import GemEmbeddings
from langchain_gem_rag.options import SEARCHING
from langchain_gem_rag.store_retriever import BY_WORDS

Filter = dict[str, Any]


class SearchedStore(VectorStore):
    """How a `GemVectorStore` is searched.

    Attributes:
        embedding: What makes the vectors.
        index: Where the documents are.
    """

    embedding: Embeddings
    index: GemIndex

    @property
    def embeddings(self) -> Embeddings:
        """The embeddings."""
        return self.embedding

    @property
    def gem(self) -> GemModel | None:
        """The model that embeds; None where that is none of this library's."""
        return self.embedding.gem if isinstance(self.embedding, GemEmbeddings) else None

    def found_by(self, mode: Mode) -> Mode:
        """What finds: of both, words, where the model has not learned to embed."""
        plain = self.gem is not None and not self.gem.embeds
        return "words" if plain and mode == "hybrid" else mode

    # By id and by vectors

    def get_by_ids(self, ids: Sequence[str], /) -> list[Document]:
        """Documents by id, in this order; ids that do not exist are left out."""
        records = self.index.get(list(ids))
        return [document_of(record) for record in records]

    def similarity_search(self, query: str, k: int = 4, **kwargs: Any) -> list[Document]:
        """The k documents nearest to a query; ``filter`` as for the class."""
        return _documents(self.similarity_search_with_score(query, k, **kwargs))

    async def asimilarity_search(self, query: str, k: int = 4, **kwargs: Any) -> list[Document]:
        """`similarity_search` without blocking the event loop."""
        return _documents(await self.asimilarity_search_with_score(query, k, **kwargs))

    def similarity_search_with_score(
        self, query: str, k: int = 4, filter: Filter | None = None, **kwargs: Any
    ) -> list[tuple[Document, float]]:
        """The k nearest documents, each with its cosine (-1 to 1, higher is nearer)."""
        vector = self.embedding.embed_query(query)
        return self.similarity_search_with_score_by_vector(vector, k, filter, **kwargs)

    async def asimilarity_search_with_score(
        self, query: str, k: int = 4, filter: Filter | None = None, **kwargs: Any
    ) -> list[tuple[Document, float]]:
        """`similarity_search_with_score` without blocking the event loop."""
        vector = await self.embedding.aembed_query(query)
        return await asyncio.to_thread(
            self.similarity_search_with_score_by_vector, vector, k, filter, **kwargs
        )

    def similarity_search_with_score_by_vector(
        self,
        embedding: list[float],
        k: int = 4,
        filter: Filter | None = None,
        *,
        score_threshold: float | None = None,
        **kwargs: Any,
    ) -> list[tuple[Document, float]]:
        """The k documents nearest to a vector ``[d]``, each with its cosine."""
        wanted, where = _searched(k, filter, kwargs)
        hits = self.index.search(embedding, wanted, where=where, min_score=score_threshold)
        return [(document_of(hit), hit.score or 0.0) for hit in hits]

    def similarity_search_by_vector(
        self, embedding: list[float], k: int = 4, **kwargs: Any
    ) -> list[Document]:
        """The k documents nearest to a vector ``[d]``."""
        return _documents(self.similarity_search_with_score_by_vector(embedding, k, **kwargs))

    async def asimilarity_search_by_vector(
        self, embedding: list[float], k: int = 4, **kwargs: Any
    ) -> list[Document]:
        """`similarity_search_by_vector` without blocking the event loop."""
        return await asyncio.to_thread(self.similarity_search_by_vector, embedding, k, **kwargs)

    def _similarity_search_with_relevance_scores(
        self, query: str, k: int = 4, **kwargs: Any
    ) -> list[tuple[Document, float]]:
        found = self.similarity_search_with_score(query, k, **kwargs)
        return [(document, max(0.0, score)) for document, score in found]

    async def _asimilarity_search_with_relevance_scores(
        self, query: str, k: int = 4, **kwargs: Any
    ) -> list[tuple[Document, float]]:
        found = await self.asimilarity_search_with_score(query, k, **kwargs)
        return [(document, max(0.0, score)) for document, score in found]

    def max_marginal_relevance_search(
        self, query: str, k: int = 4, fetch_k: int = 20, lambda_mult: float = 0.5, **kwargs: Any
    ) -> list[Document]:
        """Near the query, but not all saying the same: see `GemIndex.mmr`."""
        vector = self.embedding.embed_query(query)
        return self.max_marginal_relevance_search_by_vector(
            vector, k, fetch_k, lambda_mult, **kwargs
        )

    async def amax_marginal_relevance_search(
        self, query: str, k: int = 4, fetch_k: int = 20, lambda_mult: float = 0.5, **kwargs: Any
    ) -> list[Document]:
        """`max_marginal_relevance_search` without blocking the event loop."""
        vector = await self.embedding.aembed_query(query)
        return await self.amax_marginal_relevance_search_by_vector(
            vector, k, fetch_k, lambda_mult, **kwargs
        )

    def max_marginal_relevance_search_by_vector(
        self,
        embedding: list[float],
        k: int = 4,
        fetch_k: int = 20,
        lambda_mult: float = 0.5,
        filter: Filter | None = None,
        **kwargs: Any,
    ) -> list[Document]:
        """`max_marginal_relevance_search` for a vector ``[d]``."""
        wanted, where = _searched(k, filter, kwargs)
        hits = self.index.mmr(
            embedding, wanted, fetch_k=fetch_k, lambda_mult=lambda_mult, where=where
        )
        return [document_of(hit) for hit in hits]

    async def amax_marginal_relevance_search_by_vector(
        self,
        embedding: list[float],
        k: int = 4,
        fetch_k: int = 20,
        lambda_mult: float = 0.5,
        **kwargs: Any,
    ) -> list[Document]:
        """`max_marginal_relevance_search_by_vector` without blocking the event loop."""
        return await asyncio.to_thread(
            self.max_marginal_relevance_search_by_vector,
            embedding,
            k,
            fetch_k,
            lambda_mult,
            **kwargs,
        )

    # By words

    def find(
        self,
        query: str,
        k: int = 4,
        *,
        vector: list[float] | None = None,
        mode: Mode = "hybrid",
        filter: Filter | None = None,
        distinct: bool = False,
        mmr: float | None = None,
        fetch_k: int | None = None,
    ) -> list[Hit]:
        """The k best chunks, with every score that is known of them: see `GemIndex.search`.

        Args:
            query: What to look for.
            k: How many at most.
            vector: The query's, ``[d]``, where it is embedded already.
            mode: "hybrid" (words alone where the model has not learned to embed), "vector" or
                "words".
            filter: As for the class.
            distinct: Count equal texts once.
            mmr: Search by maximal marginal relevance: 1 relevance alone, 0 diversity alone.
            fetch_k: For that, how many of the best chunks to choose from.
        """
        mode = self.found_by(mode)
        if vector is None and mode != "words":
            vector = self.embedding.embed_query(query)
        text = None if mode == "vector" else query
        shared: dict[str, Any] = {"mode": mode, "where": filter, "distinct": distinct}
        if mmr is not None:
            return self.index.mmr(vector, k, text=text, lambda_mult=mmr, fetch_k=fetch_k, **shared)
        return self.index.search(vector, k, text=text, **shared)

    def search(self, query: str, search_type: str, **kwargs: Any) -> list[Document]:
        """As `VectorStore.search`, and of the types "hybrid" and "words"."""
        if search_type not in BY_WORDS:
            return super().search(query, search_type, **kwargs)
        return [document_of(hit) for hit in self._found(query, search_type, **kwargs)]

    async def asearch(self, query: str, search_type: str, **kwargs: Any) -> list[Document]:
        """`search` without blocking the event loop."""
        if search_type not in BY_WORDS:
            return await super().asearch(query, search_type, **kwargs)
        words = self.found_by(_mode(search_type)) == "words"
        vector = None if words else await self.embedding.aembed_query(query)
        hits = await asyncio.to_thread(self._found, query, search_type, vector=vector, **kwargs)
        return [document_of(hit) for hit in hits]

    def _found(
        self,
        query: str,
        search_type: str,
        k: int = 4,
        filter: Filter | None = None,
        vector: list[float] | None = None,
        **kwargs: Any,
    ) -> list[Hit]:
        wanted, where = _searched(k, filter, kwargs)
        return self.find(query, wanted, vector=vector, mode=_mode(search_type), filter=where)


def _mode(search_type: str) -> Mode:
    return "words" if search_type == "words" else "hybrid"


def _searched(k: int, filter: Filter | None, options: dict[str, Any]) -> tuple[int, Filter | None]:
    """How many and which, where other names than these were used for them."""
    own = renamed({"filter": filter, **options}, SEARCHING)
    wanted, where = own.pop("k", k), own.pop("filter")
    require_none(own)
    return wanted, where


def require_none(options: dict[str, Any]) -> None:
    """An option that would be ignored could be a filter that was meant."""
    if options:
        raise OptionError(f"unknown options {sorted(options)}; conditions go into `filter`")


def _documents(found: list[tuple[Document, float]]) -> list[Document]:
    return [document for document, _ in found]
