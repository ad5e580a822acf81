"""GemVectorStore: LangChain's vector store over `GemIndex`."""

from __future__ import annotations

import asyncio
import dataclasses
import uuid
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from langchain_core.embeddings import Embeddings

from gem_rag.arguments import merged, renamed, require_known
from gem_rag.index import GemIndex
from gem_rag.index.copies import claim_for, copy_records, is_same
from gem_rag.index.records import Record, encode_chunks
from gem_rag.rag.readings import readings_beside
from gem_rag.store import ReadingStore
from langchain_gem_rag.documents import document_of
from langchain_gem_rag.embeddings import GemEmbeddings
from langchain_gem_rag.options import SEARCHING
from langchain_gem_rag.searching import Filter, SearchedStore, require_none
from langchain_gem_rag.store_retriever import GemStoreRetriever

INDEX_OPTIONS = ("fingerprint", "dim", "kind", "create", "timeout")
SEARCH_OPTIONS = ("k", "filter", "fetch_k", "lambda_mult", "score_threshold")
FAISS_NAME = "index"  # what users of LangChain's FAISS call a store that they do not name


class GemVectorStore(SearchedStore):
    """Documents and their vectors in SQLite, searched with FAISS; in memory or in a folder.

    Scores are cosines everywhere, -1 to 1. Filters are dicts (see `gem_rag.index.filters`) and are
    applied in the search: k documents come whenever k match. Documents whose id exists are
    replaced. With a ``path`` every change is on disk when the call returns; nothing is pickled.
    With a model that has not learned to embed, documents are found by words.

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
        self.embedding = GemEmbeddings() if embedding is None else embedding
        self.readings: ReadingStore | None = None
        if index is not None and (path is not None or options):
            raise ValueError("got an index, and path or options to open one; give either")
        require_known(options, INDEX_OPTIONS, type(self).__name__)
        gem = self.gem
        if gem is not None and gem.embeds:
            options.setdefault("fingerprint", gem.fingerprint)
        self.index = GemIndex(path, **options) if index is None else index
        self.index.claim(options.get("fingerprint"))
        if gem is not None and keep_readings:
            self.readings = readings_beside(gem, self.index)

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
        require_none(kwargs)
        texts = list(texts)
        names = _names(texts, metadatas, ids)
        return self.index.upsert(texts, self._vectors(texts), metadatas or None, names)

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
        require_none(kwargs)
        if self.readings is not None or (self.gem is not None and not self.gem.embeds):
            return await asyncio.to_thread(self.add_texts, texts, metadatas, ids=ids)
        texts = list(texts)
        names = _names(texts, metadatas, ids)
        vectors = await self.embedding.aembed_documents(texts)
        return await asyncio.to_thread(self.index.upsert, texts, vectors, metadatas or None, names)

    def _vectors(self, texts: list[str]) -> Any:
        """Vectors ``[n, d]``; None from a model that has not learned to embed."""
        if self.gem is not None and not self.gem.embeds:
            return None
        embedding = self.embedding
        cached = isinstance(embedding, GemEmbeddings) and embedding.cache is not None
        if self.readings is not None and not cached:
            return self.readings.embed(texts)
        return embedding.embed_documents(texts)

    def add_embeddings(
        self,
        text_embeddings: Iterable[tuple[str, list[float]]],
        metadatas: list[dict[str, Any]] | None = None,
        ids: list[str] | None = None,
        **kwargs: Any,
    ) -> list[str]:
        """Add texts with the vectors ``[d]`` that these embeddings made of them; else `add_texts`.

        Raises:
            GemIndexError: As `add_texts`, or a vector is of another length.
        """
        require_none(kwargs)
        pairs = list(text_embeddings)
        texts, vectors = [text for text, _ in pairs], [vector for _, vector in pairs]
        names = _names(texts, metadatas, ids)
        if self.gem is not None and self.gem.embeds:
            self.index.claim(None, self.gem.dim)
        return self.index.upsert(texts, vectors, metadatas or None, names)

    async def aadd_embeddings(
        self,
        text_embeddings: Iterable[tuple[str, list[float]]],
        metadatas: list[dict[str, Any]] | None = None,
        ids: list[str] | None = None,
        **kwargs: Any,
    ) -> list[str]:
        """`add_embeddings` without blocking the event loop."""
        return await asyncio.to_thread(
            self.add_embeddings, text_embeddings, metadatas, ids, **kwargs
        )

    def merge_from(self, target: GemVectorStore) -> None:
        """Add the documents of another store, vectors and all; it stays as it is.

        Documents whose id exists are replaced. Nothing is embedded.

        Args:
            target: The other store (LangChain's FAISS calls it so).

        Raises:
            GemIndexError: Its vectors were made by another model.
        """
        if is_same(self.index, target.index):
            return
        claim_for(target.index, self.index)
        records = (
            dataclasses.replace(record, metadata=document_of(record).metadata)
            for record in target.index.iterate(vectors=True)
        )
        copy_records(records, self.index)

    def delete(
        self, ids: list[str] | None = None, filter: Filter | None = None, **kwargs: Any
    ) -> bool:
        """Delete documents by id, or those that match a filter; with neither, all.

        An id that does not exist is no error.
        """
        asked = renamed({"filter": filter, **kwargs}, {"filters": "filter"})
        where = asked.pop("filter")
        require_none(asked)
        if ids is not None and where is not None:
            raise ValueError("got both ids and filter; give one of them")
        gone: list[Record] = []  # whose readings go too
        if self.readings is not None:
            gone = list(self.index.iterate(where)) if ids is None else self.index.get(ids)
        if ids is None:
            self.index.delete(where=where or {})
        else:
            self.index.delete(ids)
        if self.readings is not None:
            self.readings.forget(self.index.documents.unread(gone))
        return True

    async def adelete(
        self, ids: list[str] | None = None, filter: Filter | None = None, **kwargs: Any
    ) -> bool:
        """`delete` without blocking the event loop."""
        return await asyncio.to_thread(self.delete, ids, filter, **kwargs)

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

    @classmethod
    def from_embeddings(
        cls,
        text_embeddings: Iterable[tuple[str, list[float]]],
        embedding: Embeddings | None = None,
        metadatas: list[dict[str, Any]] | None = None,
        ids: list[str] | None = None,
        **kwargs: Any,
    ) -> GemVectorStore:
        """A store of texts with the vectors ``[d]`` that `embedding` made of them.

        ``**kwargs`` as for the class.
        """
        store = cls(embedding, **kwargs)
        store.add_embeddings(text_embeddings, metadatas, ids)
        return store

    @classmethod
    async def afrom_embeddings(
        cls,
        text_embeddings: Iterable[tuple[str, list[float]]],
        embedding: Embeddings | None = None,
        metadatas: list[dict[str, Any]] | None = None,
        ids: list[str] | None = None,
        **kwargs: Any,
    ) -> GemVectorStore:
        """`from_embeddings` without blocking the event loop."""
        return await asyncio.to_thread(
            cls.from_embeddings, text_embeddings, embedding, metadatas, ids, **kwargs
        )

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

    def save_local(self, folder_path: str | Path, index_name: str = FAISS_NAME) -> None:
        """Write a copy to a new folder. A store with a ``path`` is on disk already.

        Args:
            folder_path: Where to; a store's own folder keeps what it has.
            index_name: Another name than "index" is a folder in it.
        """
        self.index.save(_named(folder_path, index_name))

    @classmethod
    def load_local(
        cls,
        folder_path: str | Path,
        embeddings: Embeddings | None = None,
        index_name: str = FAISS_NAME,
        *,
        allow_dangerous_deserialization: bool = False,  # noqa: ARG003
        **kwargs: Any,
    ) -> GemVectorStore:
        """Open a store's folder; later changes are written to it.

        Args:
            folder_path: As for `save_local`.
            embeddings: What made the vectors; ``embedding=`` is understood.
            index_name: As for `save_local`.
            allow_dangerous_deserialization: Without effect: nothing is unpickled.
            **kwargs: As for the class.
        """
        own = {"embedding": embeddings, **kwargs}
        return cls(path=_named(folder_path, index_name), create=False, **own)


def _named(folder: str | Path, name: str) -> Path:
    return Path(folder) if name == FAISS_NAME else Path(folder) / name


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
