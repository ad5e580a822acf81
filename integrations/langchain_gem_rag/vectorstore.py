"""GemVectorStore: LangChain's vector store over `GemIndex`."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from langchain_core.documents import Document
from langchain_core.embeddings import Embeddings
from langchain_core.vectorstores import VectorStore

from gem_rag.arguments import merged, renamed, require_known
from gem_rag.errors import OptionError
from gem_rag.index import GemIndex, Hit
from gem_rag.index.records import Chunk, encode_chunks
from gem_rag.index.search import Mode
from gem_rag.store import ReadingStore
from langchain_gem_rag.embeddings import GemEmbeddings
from langchain_gem_rag.options import SEARCHING
from langchain_gem_rag.store_retriever import BY_WORDS, GemStoreRetriever

Filter = dict[str, Any]
INDEX_OPTIONS = ("fingerprint", "dim", "kind", "create", "timeout")
SEARCH_OPTIONS = ("k", "filter", "fetch_k", "lambda_mult", "score_threshold")


class GemVectorStore(VectorStore):
    """Documents and their vectors in SQLite, searched with FAISS; in memory or in a folder.

    Scores are cosines everywhere, -1 to 1. Filters are dicts (see `gem_rag.index.filters`) and are
    applied in the search: k documents come whenever k match. Documents whose id exists are
    replaced. With a ``path`` every change is on disk when the call returns; nothing is pickled.

    Args:
        embedding: Any LangChain embeddings; None is `GemEmbeddings()`.
        path: The index's folder; None keeps everything in memory.
        index: An open index instead of a path and options.
        keep_readings: With `GemEmbeddings`, keep what was read to embed for `GemRetriever` to rank
            from (bounded, see `gem_rag.store.ReadingStore`).
        **options: As for `GemIndex` (``kind``, ``create``, ``timeout``, ``fingerprint``).

    Raises:
        GemIndexError: The index was made by another model, or is damaged.
    """

    def __init__(
        self,
        embedding: Embeddings | None = None,
        *,
        path: str | Path | None = None,
        index: GemIndex | None = None,
        keep_readings: bool = True,
        **options: Any,
    ) -> None:
        self.embedding: Embeddings = GemEmbeddings() if embedding is None else embedding
        self.readings: ReadingStore | None = None
        if index is not None and (path is not None or options):
            raise ValueError("got an index, and path or options to open one; give either")
        require_known(options, INDEX_OPTIONS, type(self).__name__)
        if isinstance(self.embedding, GemEmbeddings) and self.embedding.gem.embeds:
            options.setdefault("fingerprint", self.embedding.gem.fingerprint)
        self.index = GemIndex(path, **options) if index is None else index
        self.index.claim(options.get("fingerprint"))
        if isinstance(self.embedding, GemEmbeddings) and keep_readings:
            folder = None if self.index.path is None else self.index.path / "readings"
            self.readings = ReadingStore(self.embedding.gem, folder)

    @property
    def embeddings(self) -> Embeddings:
        """The embeddings."""
        return self.embedding

    # Writing

    def add_texts(
        self,
        texts: Iterable[str],
        metadatas: list[dict[str, Any]] | None = None,
        *,
        ids: list[str] | None = None,
        batch_size: int | None = None,  # noqa: ARG002  (LangChain's `index` gives it)
        **kwargs: Any,
    ) -> list[str]:
        """Embed and add texts in one commit, of any size; those whose id exists are replaced.

        Returns:
            Their ids, made up where none was given.

        Raises:
            GemIndexError: An id is given twice, or metadata is not JSON; nothing is embedded then.
        """
        _require_none(kwargs)
        texts = list(texts)
        names = _names(texts, metadatas, ids)
        if self.readings is not None:
            vectors: Any = self.readings.embed(texts)
        else:
            vectors = self.embedding.embed_documents(texts)
        return self.index.upsert(texts, vectors, metadatas or None, names)

    async def aadd_texts(
        self,
        texts: Iterable[str],
        metadatas: list[dict[str, Any]] | None = None,
        *,
        ids: list[str] | None = None,
        batch_size: int | None = None,  # noqa: ARG002
        **kwargs: Any,
    ) -> list[str]:
        """`add_texts` without blocking the event loop."""
        _require_none(kwargs)
        if self.readings is not None:
            return await asyncio.to_thread(self.add_texts, texts, metadatas, ids=ids)
        texts = list(texts)
        names = _names(texts, metadatas, ids)
        vectors = await self.embedding.aembed_documents(texts)
        return await asyncio.to_thread(self.index.upsert, texts, vectors, metadatas or None, names)

    def delete(
        self, ids: list[str] | None = None, filter: Filter | None = None, **kwargs: Any
    ) -> bool:
        """Delete documents by id, or those that match a filter; with neither, all.

        An id that does not exist is no error.
        """
        asked = renamed({"filter": filter, **kwargs}, {"filters": "filter"})
        where = asked.pop("filter")
        _require_none(asked)
        if ids is not None and where is not None:
            raise ValueError("got both ids and filter; give one of them")
        if ids is None:
            self.index.delete(where=where or {})
        else:
            self.index.delete(ids)
        return True

    async def adelete(
        self, ids: list[str] | None = None, filter: Filter | None = None, **kwargs: Any
    ) -> bool:
        """`delete` without blocking the event loop."""
        return await asyncio.to_thread(self.delete, ids, filter, **kwargs)

    # Reading

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

    # Searches by words

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
            mode: "hybrid", "vector" or "words".
            filter: As for the class.
            distinct: Count equal texts once.
            mmr: Search by maximal marginal relevance: 1 relevance alone, 0 diversity alone.
            fetch_k: For that, how many of the best chunks to choose from.
        """
        if vector is None and mode != "words":
            vector = self.embedding.embed_query(query)
        text = None if mode == "vector" else query
        if mmr is not None:
            return self.index.mmr(
                vector, k, text=text, mode=mode, lambda_mult=mmr, fetch_k=fetch_k, where=filter
            )
        return self.index.search(vector, k, text=text, mode=mode, where=filter, distinct=distinct)

    def search(self, query: str, search_type: str, **kwargs: Any) -> list[Document]:
        """As `VectorStore.search`, and of the types "hybrid" and "words"."""
        if search_type not in BY_WORDS:
            return super().search(query, search_type, **kwargs)
        return [document_of(hit) for hit in self._found(query, search_type, **kwargs)]

    async def asearch(self, query: str, search_type: str, **kwargs: Any) -> list[Document]:
        """`search` without blocking the event loop."""
        if search_type not in BY_WORDS:
            return await super().asearch(query, search_type, **kwargs)
        vector = None if search_type == "words" else await self.embedding.aembed_query(query)
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
        _require_none(kwargs)
        mode: Mode = "words" if search_type == "words" else "hybrid"
        return self.find(query, k, vector=vector, mode=mode, filter=filter)

    # Making and keeping

    @classmethod
    def from_texts(
        cls,
        texts: list[str],
        embedding: Embeddings | None = None,
        metadatas: list[dict[str, Any]] | None = None,
        *,
        ids: list[str] | None = None,
        **kwargs: Any,
    ) -> GemVectorStore:
        """A store of these texts; ``**kwargs`` as for the class."""
        store = cls(embedding, **kwargs)
        store.add_texts(texts, metadatas, ids=ids)
        return store

    @classmethod
    async def afrom_texts(
        cls,
        texts: list[str],
        embedding: Embeddings | None = None,
        metadatas: list[dict[str, Any]] | None = None,
        *,
        ids: list[str] | None = None,
        **kwargs: Any,
    ) -> GemVectorStore:
        """`from_texts` without blocking the event loop."""
        store = await asyncio.to_thread(cls, embedding, **kwargs)
        await store.aadd_texts(texts, metadatas, ids=ids)
        return store

    def as_retriever(self, **kwargs: Any) -> GemStoreRetriever:
        """LangChain's retriever over this store (`GemRetriever` also ranks).

        ``search_type`` may be "hybrid" and "words" too.

        Args:
            **kwargs: Its fields (``search_type``, ``search_kwargs``, ``tags``, ...); options of the
                search (``k``, ``filter``, ...) may stand beside ``search_kwargs`` or in it.
        """
        own = {name: kwargs.pop(name) for name in GemStoreRetriever.model_fields & kwargs.keys()}
        require_known(kwargs, {*SEARCH_OPTIONS, *SEARCHING}, "as_retriever", SEARCHING)
        searched = merged(kwargs, own.pop("search_kwargs", None) or {}, SEARCHING)
        tags = own.pop("tags", None) or [*self._get_retriever_tags()]
        return GemStoreRetriever(vectorstore=self, tags=tags, search_kwargs=searched, **own)

    def save_local(self, folder_path: str | Path) -> None:
        """Write a copy to a new folder (a store with a ``path`` is on disk already)."""
        self.index.save(folder_path)

    @classmethod
    def load_local(
        cls, folder_path: str | Path, embedding: Embeddings | None = None, **kwargs: Any
    ) -> GemVectorStore:
        """Open a store's folder; later changes are written to it."""
        return cls(embedding, path=folder_path, create=False, **kwargs)


def _names(
    texts: Sequence[str],
    metadatas: Sequence[dict[str, Any]] | None,
    ids: Sequence[str | None] | None,
) -> list[str]:
    """An id for each text. All that could be refused is checked here, before texts are embedded."""
    for name, given in (("metadatas", metadatas), ("ids", ids)):
        if given and len(given) != len(texts):
            raise ValueError(
                f"{len(texts)} texts with {len(given)} {name}; expected as many, or none"
            )
    names = [str(uuid.uuid4()) if name is None else name for name in ids or [None] * len(texts)]
    encode_chunks(texts, metadatas or None, names if ids else None)
    return names


def _searched(k: int, filter: Filter | None, options: dict[str, Any]) -> tuple[int, Filter | None]:
    """How many and which, where other names than these were used for them."""
    own = renamed({"filter": filter, **options}, SEARCHING)
    wanted, where = own.pop("k", k), own.pop("filter")
    _require_none(own)
    return wanted, where


def _require_none(options: dict[str, Any]) -> None:
    """An option that would be ignored could be a filter that was meant."""
    if options:
        raise OptionError(f"unknown options {sorted(options)}; conditions go into `filter`")


def document_of(chunk: Chunk) -> Document:
    """A stored chunk as a document; its place is told where the user's metadata does not."""
    ours = {
        "source": chunk.source,
        "start": chunk.start,
        "end": chunk.end,
        "heading": chunk.heading or None,
        "page": chunk.page,
    }
    place = {name: value for name, value in ours.items() if value is not None}
    return Document(id=chunk.id, page_content=chunk.text, metadata={**place, **chunk.metadata})


def _documents(found: list[tuple[Document, float]]) -> list[Document]:
    return [document for document, _ in found]
