"""GemVectorStore: a `GemIndex` as LlamaIndex's vector store."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import fsspec
from llama_index.core.base.embeddings.base import BaseEmbedding
from llama_index.core.bridge.pydantic import PrivateAttr
from llama_index.core.schema import BaseNode, MetadataMode
from llama_index.core.vector_stores.types import (
    DEFAULT_PERSIST_DIR,
    BasePydanticVectorStore,
    MetadataFilters,
    VectorStoreQuery,
    VectorStoreQueryMode,
    VectorStoreQueryResult,
)
from llama_index.core.vector_stores.utils import metadata_dict_to_node, node_to_metadata_dict

from gem_rag.arguments import require_known
from gem_rag.errors import GemIndexError, OptionError
from gem_rag.index import GemIndex
from gem_rag.index.copies import copy_records
from gem_rag.index.identity import UnknownOriginError
from gem_rag.index.records import Hit, Record
from gem_rag.index.values import encode, plain
from llama_index_gem_rag.embedding import GemEmbedding
from llama_index_gem_rag.filters import to_where
from llama_index_gem_rag.persisting import (
    DEFAULT_NAMESPACE,
    DEFAULT_PERSIST_PATH,
    leave_signpost,
    path_in,
    persisted_folder,
    require_local,
)
from llama_index_gem_rag.pickling import PickledWhole

MMR_THRESHOLD = 0.5
MMR_PREFETCH_FACTOR = 4
_WORDS = (VectorStoreQueryMode.TEXT_SEARCH, VectorStoreQueryMode.SPARSE)
INDEX_OPTIONS = ("fingerprint", "dim", "kind", "create", "timeout")
QUERY_OPTIONS = ("fingerprint", "mmr_threshold", "mmr_prefetch_factor", "mmr_prefetch_k")
FIXED = {"stores_text": True, "is_embedding_query": True, "flat_metadata": False}


class GemVectorStore(PickledWhole, BasePydanticVectorStore):
    """Nodes with their text, metadata, relationships and vectors, in memory or in a folder.

    Every change is committed when the call returns; what another process commits is seen by the
    next call. Works with vectors of any embedding model.

    Args:
        path: The folder; None keeps everything in memory.
        embed_model: What makes the vectors. If it is a `GemEmbedding`, its model is recorded in a
            new store, and a store made with another model is an error.
        index: A `GemIndex` opened elsewhere, instead of `path` and options.
        **options: As for `GemIndex` (``kind``, ``create``, ``timeout``, ``fingerprint``).

    Raises:
        GemIndexError: The store was made with another model, or the folder is no index.
    """

    stores_text: bool = True
    flat_metadata: bool = False
    path: str | None = None
    _index: GemIndex = PrivateAttr()

    def __init__(
        self,
        path: str | Path | None = None,
        embed_model: BaseEmbedding | None = None,
        *,
        index: GemIndex | None = None,
        **options: Any,
    ) -> None:
        options.pop("class_name", None)
        for name, value in FIXED.items():  # in the serialised form, and not to be chosen
            if options.pop(name, value) != value:
                raise OptionError(f"{name} is {not value}; a GemVectorStore's is {value}")
        require_known(options, INDEX_OPTIONS, self.class_name())
        if index is not None and (path is not None or options):
            raise ValueError("got an index, and path or options to open one; give either")
        if isinstance(embed_model, GemEmbedding) and embed_model.fingerprint:
            options.setdefault("fingerprint", embed_model.fingerprint)
        opened = GemIndex(path, **options) if index is None else index
        opened.claim(options.get("fingerprint"))
        fields: dict[str, Any] = {"path": None if opened.path is None else str(opened.path)}
        super().__init__(stores_text=True, **fields)
        self._index = opened

    @classmethod
    def class_name(cls) -> str:
        """The name in serialised form."""
        return "GemVectorStore"

    @property
    def client(self) -> GemIndex:
        """The index itself."""
        return self._index

    # Changing

    def add(self, nodes: Sequence[BaseNode], **kwargs: Any) -> list[str]:
        """Add nodes with their embeddings, in one commit; those of known ids are replaced.

        Raises:
            ValueError: A node has no embedding.
            GemIndexError: An embedding is zero or of another length, or metadata is not JSON.
        """
        require_known(kwargs, (), "GemVectorStore.add")
        last = {node.node_id: node for node in nodes}
        self._index.upsert(
            [node.get_content(MetadataMode.NONE) for node in last.values()],
            [node.get_embedding() for node in last.values()],
            [_metadata_of(node) for node in last.values()],
            list(last),
        )
        return [node.node_id for node in nodes]

    async def async_add(self, nodes: Sequence[BaseNode], **kwargs: Any) -> list[str]:
        """`add` without blocking the event loop."""
        return await asyncio.to_thread(self.add, nodes, **kwargs)

    def delete(self, ref_doc_id: str, **delete_kwargs: Any) -> None:
        """Delete all nodes of a source document."""
        require_known(delete_kwargs, (), "GemVectorStore.delete")
        self._index.delete(where=to_where(doc_ids=[ref_doc_id]))

    async def adelete(self, ref_doc_id: str, **delete_kwargs: Any) -> None:
        """`delete` without blocking the event loop."""
        await asyncio.to_thread(self.delete, ref_doc_id, **delete_kwargs)

    def delete_nodes(
        self,
        node_ids: list[str] | None = None,
        filters: MetadataFilters | None = None,
        **delete_kwargs: Any,
    ) -> None:
        """Delete nodes of these ids that match these filters; unknown ids are passed over.

        Raises:
            ValueError: Neither is given; `clear` deletes everything.
        """
        require_known(delete_kwargs, ("node_ids", "filters"), "GemVectorStore.delete_nodes")
        if node_ids is None and filters is None:
            raise ValueError("delete_nodes takes node_ids, filters or both; clear() deletes all")
        self._index.delete(where=to_where(filters, node_ids=node_ids))

    async def adelete_nodes(
        self,
        node_ids: list[str] | None = None,
        filters: MetadataFilters | None = None,
        **delete_kwargs: Any,
    ) -> None:
        """`delete_nodes` without blocking the event loop."""
        await asyncio.to_thread(self.delete_nodes, node_ids, filters, **delete_kwargs)

    def clear(self) -> None:
        """Delete everything."""
        self._index.delete(where={})

    async def aclear(self) -> None:
        """`clear` without blocking the event loop."""
        await asyncio.to_thread(self.clear)

    # Finding

    def get_nodes(
        self, node_ids: list[str] | None = None, filters: MetadataFilters | None = None
    ) -> list[BaseNode]:
        """Nodes of these ids (in this order) that match these filters; None restricts nothing."""
        where = to_where(filters, node_ids=node_ids)
        found = {record.id: node_of(record) for record in self._index.iterate(where)}
        order = found if node_ids is None else dict.fromkeys(node_ids)
        return [found[name] for name in order if name in found]

    async def aget_nodes(
        self, node_ids: list[str] | None = None, filters: MetadataFilters | None = None
    ) -> list[BaseNode]:
        """`get_nodes` without blocking the event loop."""
        return await asyncio.to_thread(self.get_nodes, node_ids, filters)

    def query(self, query: VectorStoreQuery, **kwargs: Any) -> VectorStoreQueryResult:
        """The best nodes for a vector, words, or both, best first; filters hold within the search.

        Args:
            query: Its mode is ``default`` (vectors), ``mmr``, ``hybrid`` (words beside vectors;
                ``alpha`` is the vectors' share, 0 to 1, ``hybrid_top_k`` how many come), or
                ``text_search`` or ``sparse`` (words; ``sparse_top_k`` how many); ``mmr_threshold``
                1 is relevance alone, 0 diversity alone, None 0.5. No or empty ``node_ids`` restrict
                nothing.
            **kwargs: ``mmr_threshold``, where the query has none (LlamaIndex passes it on from
                ``vector_store_kwargs``); ``mmr_prefetch_factor``, how many times as many nodes MMR
                chooses from (4) or ``mmr_prefetch_k``, how many; ``fingerprint`` of the model that
                made the vector, which is checked.

        Returns:
            Nodes, ids and similarities: cosines, -1 to 1, also for MMR; for ``hybrid`` fused scores
            and for words alone word scores, 0 to 1.

        Raises:
            ValueError: The query lacks the vector or words its mode needs, or has another mode.
            GemIndexError: The vector is malformed or another model's, or a filter is.
        """
        require_known(kwargs, QUERY_OPTIONS, "GemVectorStore.query")
        hits = self.hits(query, **kwargs)
        best = {
            VectorStoreQueryMode.HYBRID: "fused_score",
            **dict.fromkeys(_WORDS, "word_score"),
        }.get(query.mode, "score")
        return VectorStoreQueryResult(
            nodes=[node_of(hit) for hit in hits],
            similarities=[vars(hit)[best] or 0.0 for hit in hits],
            ids=[hit.id for hit in hits],
        )

    def hits(self, query: VectorStoreQuery, *, distinct: bool = False, **options: Any) -> list[Hit]:
        """What `query` finds, with every score known.

        Args:
            query: As for `query`.
            distinct: Count equal texts once.
            **options: As for `query`, and ``mode``: what MMR chooses from, "vector" (the default),
                "hybrid" or "words".
        """
        try:
            return self._hits(query, distinct, options)
        except UnknownOriginError as error:
            raise GemIndexError(
                "this GemVectorStore does not say which model made its vectors, so they cannot be "
                "compared with this one's: make it as GemVectorStore(embed_model=GemEmbedding(...))"
                " and index the documents again"
            ) from error

    def _hits(self, query: VectorStoreQuery, distinct: bool, options: dict[str, Any]) -> list[Hit]:
        # `VectorStoreIndex` asks with an empty list where it keeps no list of the nodes.
        node_ids = query.node_ids or None
        shared: dict[str, Any] = {
            "where": to_where(query.filters, node_ids=node_ids, doc_ids=query.doc_ids),
            "fingerprint": options.get("fingerprint"),
        }
        vector, text, k = query.query_embedding, query.query_str, query.similarity_top_k
        _require(query)
        match query.mode:
            case VectorStoreQueryMode.DEFAULT:
                return self._index.search(vector, k, distinct=distinct, **shared)
            case VectorStoreQueryMode.HYBRID:
                k = query.hybrid_top_k or k
                return self._index.search(
                    vector, k, text=text, alpha=query.alpha, distinct=distinct, **shared
                )
            case VectorStoreQueryMode.MMR:
                threshold, fetch_k = _mmr_options(query, options)
                mode = options.get("mode", "vector")
                shared |= {"text": None if mode == "vector" else text, "mode": mode}
                shared |= {"fetch_k": fetch_k, "lambda_mult": threshold, "distinct": distinct}
                return self._index.mmr(vector, k, **shared)
        k = query.sparse_top_k or k
        return self._index.search(vector, k, text=text, mode="words", distinct=distinct, **shared)

    async def aquery(self, query: VectorStoreQuery, **kwargs: Any) -> VectorStoreQueryResult:
        """`query` without blocking the event loop."""
        return await asyncio.to_thread(self.query, query, **kwargs)

    # Keeping

    def persist(
        self, persist_path: str = DEFAULT_PERSIST_PATH, fs: fsspec.AbstractFileSystem | None = None
    ) -> None:
        """Copy everything into a folder, replacing what an earlier `persist` put there.

        A store opened with a `path` is on disk already: this is for those in memory, for copies,
        and for `StorageContext.persist`: where that expects a file, the folder stands beside one
        that says how to load it.

        Raises:
            GemIndexError: Something else is there, or another model's index.
            ValueError: The file system is not this machine's.
        """
        require_local(fs)
        target = persisted_folder(persist_path)
        if self._index.path is not None and target.resolve() == self._index.path.resolve():
            self._index.checkpoint()
            return
        own = self._index.info().fingerprint
        with GemIndex(target, fingerprint=own) as copy, copy.transaction():
            copy.delete(where={})
            copy_records(self._index.iterate(vectors=True), copy)
        leave_signpost(persist_path)

    @classmethod
    def from_persist_path(
        cls,
        persist_path: str,
        fs: fsspec.AbstractFileSystem | None = None,
        embed_model: BaseEmbedding | None = None,
    ) -> GemVectorStore:
        """Open what `persist` wrote; from then on changes are made there.

        Raises:
            GemIndexError: There is nothing, or it was made with another model.
        """
        require_local(fs)
        return cls(persisted_folder(persist_path), embed_model, create=False)

    @classmethod
    def from_persist_dir(
        cls,
        persist_dir: str = DEFAULT_PERSIST_DIR,
        namespace: str = DEFAULT_NAMESPACE,
        fs: fsspec.AbstractFileSystem | None = None,
        embed_model: BaseEmbedding | None = None,
    ) -> GemVectorStore:
        """Open what `StorageContext.persist` wrote into a folder; as `from_persist_path`."""
        return cls.from_persist_path(path_in(persist_dir, namespace), fs, embed_model)

    def close(self) -> None:
        """Close the index; what was added stays."""
        self._index.close()


def node_of(found: Hit | Record) -> BaseNode:
    """A stored chunk as a node.

    Raises:
        GemIndexError: It is none: something else filled the index.
    """
    if "_node_content" not in found.metadata:
        raise GemIndexError(
            f"chunk {found.id!r} is no LlamaIndex node: the index was filled by something else; "
            "read it with that, or index the documents again into a new folder"
        )
    return metadata_dict_to_node(found.metadata, text=found.text)


def _metadata_of(node: BaseNode) -> dict[str, Any]:
    """What is stored of a node beside its text, its metadata as JSON holds it.

    LlamaIndex would refuse numpy's numbers without a name, and write times as they stand.
    """
    encode(node.metadata, f"the metadata of {node.node_id!r}")  # or says which key cannot be
    held = node.model_copy(update={"metadata": plain(node.metadata)})
    return node_to_metadata_dict(held, remove_text=True)


def _require(query: VectorStoreQuery) -> None:
    """A vector, words, or both, as the mode needs."""
    by_words = (*_WORDS, VectorStoreQueryMode.HYBRID)
    by_vector = (
        VectorStoreQueryMode.DEFAULT,
        VectorStoreQueryMode.MMR,
        VectorStoreQueryMode.HYBRID,
    )
    known = dict.fromkeys((*by_vector, *by_words))
    if query.mode not in known:
        names = ", ".join(mode.value for mode in known)
        raise ValueError(f"query mode is {query.mode.value!r}; GemVectorStore has {names}")
    if query.mode in by_vector and query.query_embedding is None:
        raise ValueError(
            f"the query has no query_embedding; mode {query.mode.value!r} searches with one"
        )
    if query.mode in by_words and query.query_str is None:
        raise ValueError(
            f"the query has no query_str; mode {query.mode.value!r} searches for its words"
        )


def _mmr_options(query: VectorStoreQuery, options: dict[str, Any]) -> tuple[float, int]:
    """Threshold, and how many nodes to choose from."""
    threshold = query.mmr_threshold
    if threshold is None:
        threshold = options.get("mmr_threshold")
    factor = options.get("mmr_prefetch_factor", MMR_PREFETCH_FACTOR)
    fetch_k = options.get("mmr_prefetch_k", int(query.similarity_top_k * factor))
    return MMR_THRESHOLD if threshold is None else threshold, fetch_k
