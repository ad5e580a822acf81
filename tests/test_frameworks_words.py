"""Searches by words and by both through LangChain's and LlamaIndex's own doors."""

import asyncio

import pytest
from langchain_core.vectorstores import VectorStoreRetriever
from llama_index.core import Document, MockEmbedding, StorageContext, VectorStoreIndex
from llama_index.core.schema import QueryBundle, TextNode
from llama_index.core.vector_stores.types import (
    MetadataFilter,
    MetadataFilters,
    VectorStoreQuery,
    VectorStoreQueryMode,
)

import langchain_gem_rag
import llama_index_gem_rag
from gem_rag.errors import GemIndexError
from langchain_gem_rag import GemEmbeddings
from llama_index_gem_rag import GemEmbedding

MODE = VectorStoreQueryMode
TEXTS = {
    "kettle": "The kettle has a warranty of seven years.",
    "error": "ERR_CONN_42 means that the server hung up.",
    "river": "Rivers run to the sea.",
    "child": "A young child is riding a grey horse.",
}
ODD = {"kettle": 1, "error": 0, "river": 1, "child": 0}


# LangChain


@pytest.fixture
def store(gem):
    return langchain_gem_rag.GemVectorStore.from_texts(
        list(TEXTS.values()),
        GemEmbeddings(gem),
        [{"odd": odd} for odd in ODD.values()],
        ids=list(TEXTS),
    )


def names(documents):
    return [document.id for document in documents]


@pytest.mark.parametrize("how", ["invoke", "ainvoke", "batch"])
@pytest.mark.parametrize("search_type", ["hybrid", "words", "similarity", "mmr"])
def test_as_retriever_searches_by_words_too(store, search_type, how):
    retriever = store.as_retriever(search_type=search_type, search_kwargs={"k": 2})
    assert isinstance(retriever, VectorStoreRetriever)
    query = "What is ERR_CONN_42?"
    if how == "ainvoke":
        found = asyncio.run(retriever.ainvoke(query))
    elif how == "batch":
        [found] = retriever.batch([query])
    else:
        found = retriever.invoke(query)
    assert found == store.search(query, search_type, k=2)
    if search_type == "words":
        assert names(found) == ["error"]
    else:
        assert len(found) == 2


def test_options_of_as_retriever_hold_in_its_searches(store):
    for search_type in ("hybrid", "words"):
        retriever = store.as_retriever(
            search_type=search_type, search_kwargs={"k": 3, "filter": {"odd": 1}}
        )
        assert set(names(retriever.invoke("the river, the horse, the kettle"))) == {
            "kettle",
            "river",
        }
        assert len(retriever.invoke("river kettle", k=1)) == 1
        with pytest.raises(TypeError, match="unknown options"):
            retriever.invoke("river", wrong=1)
    with pytest.raises(ValueError, match="search_type"):
        store.as_retriever(search_type="magic")
    assert store.as_retriever(tags=["mine"]).tags == ["mine"]
    assert "GemVectorStore" in store.as_retriever().tags


@pytest.mark.parametrize("how", ["invoke", "ainvoke"])
@pytest.mark.parametrize("mode", ["hybrid", "vector", "words"])
def test_langchains_gem_retriever_says_what_found_a_document(store, mode, how):
    retriever = langchain_gem_rag.GemRetriever(vectorstore=store, mode=mode, rank=False, k=4)
    query = "Who sent ERR_CONN_42?"
    found = retriever.invoke(query) if how == "invoke" else asyncio.run(retriever.ainvoke(query))
    told = {"score", "word_score", "fused_score"} & found[0].metadata.keys()
    assert (
        told
        == {
            "hybrid": {"score", "word_score", "fused_score"},
            "vector": {"score"},
            "words": {"word_score"},
        }[mode]
    )
    assert len(found) == (1 if mode == "words" else 4)
    error = next(document for document in found if document.id == "error")
    assert mode == "vector" or error.metadata["word_score"] > 0


def test_hybrid_is_what_langchains_gem_retriever_does_by_itself(store):
    query = "ERR_CONN_42"
    by_itself = langchain_gem_rag.GemRetriever(vectorstore=store).invoke(query)
    assert by_itself == langchain_gem_rag.GemRetriever(vectorstore=store, mode="hybrid").invoke(
        query
    )
    assert {"rank_score", "fused_score"} <= by_itself[0].metadata.keys()
    diverse = langchain_gem_rag.GemRetriever(
        vectorstore=store, search_type="mmr", mode="words", rank=False
    )
    assert names(diverse.invoke(query)) == ["error"]


def test_twelve_copies_do_not_fill_langchains_candidates(gem):
    texts = [TEXTS["kettle"]] * 12 + [TEXTS["river"], TEXTS["error"]]
    store = langchain_gem_rag.GemVectorStore.from_texts(texts, GemEmbeddings(gem))
    retriever = langchain_gem_rag.GemRetriever(vectorstore=store, candidates=3, k=3)
    found = retriever.invoke("kettle warranty")
    assert len({document.page_content for document in found}) == 3


def test_a_document_of_gem_rag_has_its_place_as_metadata(gem):
    from gem_rag.documents import Document as GemDocument
    from gem_rag.rag import GemRAG

    rag = GemRAG(gem)
    rag.add(GemDocument("# Use\n\nBoil water in the kettle.", "k.md", {"start": "mine"}, True))
    store = langchain_gem_rag.GemVectorStore(GemEmbeddings(gem), index=rag.index)
    [document] = store.search("kettle", "words")
    assert document.metadata["source"] == "k.md"
    assert document.metadata["start"] == "mine"  # the user's goes before ours
    assert isinstance(document.metadata["end"], int)


# LlamaIndex

VECTORS = {
    "kettle": [1.0, 0, 0],
    "error": [0, 1.0, 0],
    "river": [0, 0, 1.0],
    "child": [0, 0.6, 0.8],
}


@pytest.fixture
def nodes():
    store = llama_index_gem_rag.GemVectorStore()
    store.add(
        [
            TextNode(id_=name, text=text, embedding=VECTORS[name], metadata={"odd": ODD[name]})
            for name, text in TEXTS.items()
        ]
    )
    return store


def ask(mode, vector=None, text=None, k=2, **options):
    return VectorStoreQuery(vector, query_str=text, similarity_top_k=k, mode=mode, **options)


def test_llama_indexs_modes_find_by_what_they_say(nodes):
    vector, text = [1.0, 0, 0], "Which server hung up?"
    assert nodes.query(ask(MODE.DEFAULT, vector, text)).ids[0] == "kettle"
    for mode in (MODE.TEXT_SEARCH, MODE.SPARSE):
        result = nodes.query(ask(mode, None, text))
        assert result.ids == ["error"]
        assert 0 < result.similarities[0] <= 1
        assert nodes.query(ask(mode, vector, text)).ids == ["error"]
    both = nodes.query(ask(MODE.HYBRID, vector, text))
    assert set(both.ids) == {"kettle", "error"}
    assert both.similarities == sorted(both.similarities, reverse=True)
    assert asyncio.run(nodes.aquery(ask(MODE.HYBRID, vector, text))).ids == both.ids


def test_alpha_and_how_many_come(nodes):
    vector, text = [1.0, 0, 0], "server"
    assert nodes.query(ask(MODE.HYBRID, vector, text, alpha=1.0)).ids[0] == "kettle"
    assert nodes.query(ask(MODE.HYBRID, vector, text, alpha=0.0)).ids[0] == "error"
    assert len(nodes.query(ask(MODE.HYBRID, vector, text, hybrid_top_k=3)).ids) == 3
    assert len(nodes.query(ask(MODE.SPARSE, None, "the a kettle river", sparse_top_k=1)).ids) == 1
    with pytest.raises(GemIndexError, match="alpha is 2"):
        nodes.query(ask(MODE.HYBRID, vector, text, alpha=2.0))


def test_filters_hold_in_llama_indexs_modes(nodes):
    odd = MetadataFilters(filters=[MetadataFilter(key="odd", value=1)])
    text = "the server, the kettle, the river and the horse"
    for query in (
        ask(MODE.HYBRID, [0, 1.0, 0], text, k=4, filters=odd),
        ask(MODE.TEXT_SEARCH, None, text, k=4, filters=odd),
    ):
        assert set(nodes.query(query).ids) == {"kettle", "river"}
    chosen = ask(MODE.HYBRID, [0, 1.0, 0], text, node_ids=["child"])
    assert nodes.query(chosen).ids == ["child"]


@pytest.mark.parametrize(
    ("query", "message"),
    [
        (ask(MODE.HYBRID, None, "x"), "query_embedding"),
        (ask(MODE.HYBRID, [1.0, 0, 0]), "query_str"),
        (ask(MODE.TEXT_SEARCH, [1.0, 0, 0]), "query_str"),
        (ask(MODE.SPARSE), "query_str"),
        (ask(MODE.SVM, [1.0, 0, 0], "x"), "hybrid.*text_search"),
    ],
)
def test_what_a_mode_needs_is_said(nodes, query, message):
    with pytest.raises(ValueError, match=message):
        nodes.query(query)


@pytest.mark.parametrize("mode", ["hybrid", "text_search", "sparse", "default"])
def test_a_vector_store_index_retrieves_in_all_modes(mode):
    store = llama_index_gem_rag.GemVectorStore()
    context = StorageContext.from_defaults(vector_store=store)
    documents = [Document(text=text, doc_id=name) for name, text in TEXTS.items()]
    index = VectorStoreIndex.from_documents(
        documents, storage_context=context, embed_model=MockEmbedding(embed_dim=4)
    )
    retriever = index.as_retriever(
        vector_store_query_mode=mode, similarity_top_k=2, sparse_top_k=2, hybrid_top_k=2, alpha=0.1
    )
    for found in (
        retriever.retrieve("What is ERR_CONN_42?"),
        asyncio.run(retriever.aretrieve("What is ERR_CONN_42?")),
    ):
        assert mode == "default" or found[0].node.ref_doc_id == "error"
        assert len(found) == (1 if mode in ("text_search", "sparse") else 2)


@pytest.fixture
def read(gem):
    store = llama_index_gem_rag.GemVectorStore(embed_model=GemEmbedding(gem))
    vectors = gem.embed_documents(list(TEXTS.values()))
    store.add(
        [
            TextNode(id_=name, text=text, embedding=vector.tolist(), metadata={"odd": ODD[name]})
            for (name, text), vector in zip(TEXTS.items(), vectors, strict=True)
        ]
    )
    return store


@pytest.mark.parametrize("mmr_threshold", [None, 0.9])
@pytest.mark.parametrize("mode", ["hybrid", "vector", "words"])
def test_llama_indexs_gem_retriever_in_all_modes(gem, read, mode, mmr_threshold):
    retriever = llama_index_gem_rag.GemRetriever(
        read, gem, similarity_top_k=4, mode=mode, rank=False, mmr_threshold=mmr_threshold
    )
    found = retriever.retrieve("ERR_CONN_42")
    again = asyncio.run(retriever.aretrieve("ERR_CONN_42"))
    assert [(n.node_id, n.score) for n in again] == [(n.node_id, n.score) for n in found]
    assert len(found) == (1 if mode == "words" else 4)
    if mode != "vector":
        assert found[0].node_id == "error"
        assert 0 < found[0].score <= 1


def test_hybrid_is_what_llama_indexs_gem_retriever_does_by_itself(gem, read):
    by_itself = llama_index_gem_rag.GemRetriever(read, gem).retrieve("ERR_CONN_42")
    hybrid = llama_index_gem_rag.GemRetriever(read, gem, mode="hybrid").retrieve("ERR_CONN_42")
    assert [(n.node_id, n.score) for n in by_itself] == [(n.node_id, n.score) for n in hybrid]
    asked = QueryBundle("kettle", embedding=gem.embed_query("kettle").tolist())
    assert llama_index_gem_rag.GemRetriever(read, gem).retrieve(asked)


def test_a_persisted_store_is_found_by_words(nodes, tmp_path):
    nodes.persist(str(tmp_path / "kept"))
    again = llama_index_gem_rag.GemVectorStore.from_persist_path(str(tmp_path / "kept"))
    assert again.query(ask(MODE.TEXT_SEARCH, None, "server")).ids == ["error"]
