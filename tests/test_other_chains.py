"""Our retrievers, rerankers and stores where other people's chains use them."""

import asyncio
import datetime as dt
import json

import numpy as np
import pytest
from langchain_core.documents import Document
from langchain_core.embeddings import DeterministicFakeEmbedding
from langchain_core.stores import InMemoryByteStore
from langchain_core.structured_query import (
    Comparator,
    Comparison,
    Operation,
    Operator,
    StructuredQuery,
)
from langchain_core.tools import create_retriever_tool
from llama_index.core import Document as LlamaDocument
from llama_index.core import StorageContext, VectorStoreIndex, load_index_from_storage
from llama_index.core.retrievers import QueryFusionRetriever
from llama_index.core.schema import NodeWithScore, TextNode

import llama_index_gem_rag as llama
from gem_rag.errors import GemIndexError
from gem_rag.index import GemIndex
from langchain_gem_rag import (
    GemEmbeddings,
    GemReranker,
    GemRetriever,
    GemTranslator,
    GemVectorStore,
)

TEXTS = {
    "kettle": "The kettle has a warranty of seven years.",
    "error": "ERR_CONN_42 means that the server hung up.",
    "river": "Rivers run to the sea.",
    "child": "A young child is riding a grey horse.",
}
BLANK = ["", "  ", "\n", "?!", "\x00", "\u200b"]
HALF = json.loads('"kettle \\ud800"')  # half a character, as a cut tool call has it
LONG = "kettle " * 2000  # more than the tiny model's context window


@pytest.fixture
def store(gem):
    return GemVectorStore.from_texts(list(TEXTS.values()), GemEmbeddings(gem), ids=list(TEXTS))


@pytest.fixture
def nodes(gem):
    store = llama.GemVectorStore(embed_model=llama.GemEmbedding(gem))
    vectors = gem.embed_documents(list(TEXTS.values())).tolist()
    store.add(
        [
            TextNode(id_=name, text=text, embedding=vector)
            for (name, text), vector in zip(TEXTS.items(), vectors, strict=True)
        ]
    )
    return store


def texts(documents):
    return [document.page_content for document in documents]


# Queries that agents send


@pytest.mark.parametrize("options", [{}, {"mode": "vector"}, {"search_type": "mmr"}])
@pytest.mark.parametrize("query", [*BLANK, HALF])
def test_a_tool_made_of_the_retriever_answers_a_blank_query(store, query, options):
    tool = create_retriever_tool(GemRetriever(vectorstore=store, k=2, **options), "find", "Finds.")
    assert tool.invoke({"query": query}).count(".") >= 2  # two passages
    assert asyncio.run(tool.ainvoke({"query": query})) == tool.invoke({"query": query})


@pytest.mark.parametrize("search_type", ["similarity", "mmr", "hybrid", "words"])
@pytest.mark.parametrize("query", ["", " ", HALF])
def test_so_does_one_made_of_as_retriever(store, query, search_type):
    tool = create_retriever_tool(store.as_retriever(search_type=search_type), "find", "Finds.")
    assert isinstance(tool.invoke({"query": query}), str)
    assert asyncio.run(tool.ainvoke({"query": query})) == tool.invoke({"query": query})


def test_a_blank_query_leaves_the_searchs_order(store):
    ranked = GemRetriever(vectorstore=store, mode="vector").invoke(" ")
    assert texts(ranked) == texts(store.similarity_search(" "))
    assert "rank_score" not in ranked[0].metadata


@pytest.mark.parametrize("query", [*BLANK, HALF, LONG])
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_rerankers_answer_it_too(gem, query):
    documents = [Document(text) for text in TEXTS.values()]
    found = GemReranker(gem, top_n=2).compress_documents(documents, query)
    assert len(found) == 2
    assert query.strip() or found == documents[:2]
    scored = [NodeWithScore(node=TextNode(text=text), score=0.5) for text in TEXTS.values()]
    assert len(llama.GemReranker(gem, top_n=2).postprocess_nodes(scored, query_str=query)) == 2


def test_a_query_too_long_to_rank_by_is_answered_with_a_warning(gem, store, nodes):
    with pytest.warns(UserWarning, match="passages are not ranked.*context window"):
        assert len(GemRetriever(vectorstore=store, k=2).invoke(LONG)) == 2
    with pytest.warns(UserWarning, match="passages are not ranked.*context window"):
        assert len(llama.GemRetriever(nodes, gem).retrieve(LONG)) == 2


@pytest.mark.parametrize("mmr_threshold", [None, 0.5])
@pytest.mark.parametrize("query", [*BLANK, HALF])
def test_llama_indexs_retriever_answers_it_too(gem, nodes, query, mmr_threshold):
    retriever = llama.GemRetriever(nodes, gem, similarity_top_k=2, mmr_threshold=mmr_threshold)
    assert len(retriever.retrieve(query)) == 2


# Found twice


def test_without_scores_a_document_found_twice_is_one(store):
    plain = GemRetriever(vectorstore=store, k=4, scores=False)
    first, second = plain.invoke("kettle"), plain.invoke("Where do rivers run?")
    assert sorted(map(repr, first)) == sorted(map(repr, second))
    assert all(document in first for document in second)  # as MultiQueryRetriever looks
    assert first[0].metadata == {}
    assert first != GemRetriever(vectorstore=store, k=4).invoke("kettle")
    assert plain.invoke("kettle", scores=True)[0].metadata["rank_score"]


def test_the_reranker_can_leave_scores_out_too(gem, store):
    found = GemRetriever(vectorstore=store).invoke("kettle")
    foreign = Document("Boil water.", metadata={"score": 3.5})
    ranked = GemReranker(gem, scores=False, top_n=None).compress_documents([*found, foreign], "tea")
    assert {document.page_content: document.metadata for document in ranked} == {
        **{text: {} for text in TEXTS.values()},
        "Boil water.": {"score": 3.5},
    }


def test_llama_indexs_fusion_takes_a_node_found_twice_as_one(gem, nodes):
    retriever = llama.GemRetriever(nodes, gem, similarity_top_k=4)
    fusion = QueryFusionRetriever(
        [retriever, retriever], llm=llama.GemLLM(gem), num_queries=1, use_async=False
    )
    assert len({n.node_id for n in fusion.retrieve("kettle")}) == len(fusion.retrieve("kettle"))


@pytest.mark.parametrize("mode", ["hybrid", "vector"])
def test_equal_texts_count_once_with_mmr_too(gem, mode):
    many = [*[TEXTS["kettle"]] * 6, TEXTS["river"], TEXTS["child"]]
    store = GemVectorStore.from_texts(many, GemEmbeddings(gem))
    options = {"search_type": "mmr", "mode": mode, "lambda_mult": 1.0, "k": 3}
    for rank in (True, False):
        found = GemRetriever(vectorstore=store, rank=rank, **options).invoke("kettle warranty")
        assert len(set(texts(found))) == 3
    nodes = llama.GemVectorStore(embed_model=llama.GemEmbedding(gem))
    vectors = gem.embed_documents(many).tolist()
    nodes.add([TextNode(text=t, embedding=v) for t, v in zip(many, vectors, strict=True)])
    retriever = llama.GemRetriever(
        nodes, gem, similarity_top_k=3, mode=mode, mmr_threshold=1.0, rank=False
    )
    assert len({n.text for n in retriever.retrieve("kettle warranty")}) == 3


# Ranked after it was found


def test_the_reranker_counts_the_words_and_cosines_of_the_retriever(gem, store):
    question = "What is ERR_CONN_42?"
    found = GemRetriever(vectorstore=store, rank=False, k=4).invoke(question)
    again = GemReranker(gem).compress_documents(found, question)
    alone = GemRetriever(vectorstore=store, k=4).invoke(question)
    assert texts(again) == texts(alone)
    for one, other in zip(again, alone, strict=True):
        assert one.metadata["rank_score"] == pytest.approx(other.metadata["rank_score"], abs=1e-4)


def test_scores_of_others_or_for_another_question_say_nothing(gem, store):
    question = "What is ERR_CONN_42?"
    found = GemRetriever(vectorstore=store, rank=False, k=4).invoke(question)
    bare = [Document(d.page_content) for d in found]
    by_likelihood = [
        (d.page_content, pytest.approx(d.metadata["rank_score"], abs=1e-4))
        for d in GemReranker(gem).compress_documents(bare, question)
    ]

    def ranked(documents):
        best = GemReranker(gem).compress_documents(documents, question)
        return [(d.page_content, d.metadata["rank_score"]) for d in best]

    other = GemRetriever(vectorstore=store, rank=False, k=4).invoke("Where do rivers run?")
    assert ranked(other) == by_likelihood
    foreign = [
        Document(d.page_content, metadata={"score": 9.0, "word_score": 9.0, "gem_rag": "x"})
        for d in bare
    ]
    assert ranked(foreign) == by_likelihood
    assert ranked([*found[:3], bare[3]]) == by_likelihood  # not all are known


def test_llama_indexs_reranker_counts_them_too(gem, nodes):
    question = "What is ERR_CONN_42?"
    found = llama.GemRetriever(nodes, gem, similarity_top_k=4, rank=False).retrieve(question)
    alone = llama.GemRetriever(nodes, gem, similarity_top_k=4).retrieve(question)
    reranker = llama.GemReranker(gem)
    for given in (found, alone):
        again = reranker.postprocess_nodes(given, query_str=question)
        assert [n.node_id for n in again] == [n.node_id for n in alone]
        assert [n.score for n in again] == pytest.approx([n.score for n in alone], abs=1e-4)
    bare = [NodeWithScore(node=n.node, score=n.score) for n in found]
    likely = [n.score for n in reranker.postprocess_nodes(bare, query_str=question)]
    expected = [r.score for r in gem.rank(question, [n.text for n in bare])]
    assert likely == pytest.approx(expected, abs=1e-4)
    assert found[0].node.metadata == {}


# Users of other stores


def test_a_store_is_saved_into_its_own_folder(gem, tmp_path):
    store = GemVectorStore.from_texts(["one"], GemEmbeddings(gem), path=tmp_path / "store")
    store.save_local(tmp_path / "store")
    store.save_local(str(tmp_path / "." / "store"))
    assert texts(store.similarity_search("one")) == ["one"]
    store.save_local(tmp_path, "named")
    again = GemVectorStore.load_local(
        tmp_path, GemEmbeddings(gem), "named", allow_dangerous_deserialization=True
    )
    assert texts(again.similarity_search("one")) == ["one"]
    with pytest.raises(GemIndexError, match="holds another index"):
        again.save_local(tmp_path / "store")


def test_vectors_that_are_there_are_taken(gem, monkeypatch):
    vectors = gem.embed_documents(list(TEXTS.values())).tolist()
    monkeypatch.setattr(gem.reader, "read", lambda *_, **__: pytest.fail("read"))
    pairs = list(zip(TEXTS.values(), vectors, strict=True))
    store = GemVectorStore.from_embeddings(
        iter(pairs[:2]), GemEmbeddings(gem), [{"n": 1}, {"n": 2}], list(TEXTS)[:2]
    )
    assert store.add_embeddings(pairs[2:], ids=["river", "child"]) == ["river", "child"]
    [(found, score)] = store.similarity_search_with_score_by_vector(vectors[0], k=1)
    assert (found.id, found.metadata, round(score, 4)) == ("kettle", {"n": 1}, 1.0)
    assert store.similarity_search_by_vector(vectors[3], k=1)[0].id == "child"
    with pytest.raises(GemIndexError, match="numbers, not 2"):
        GemVectorStore.from_embeddings([("x", [1.0, 0.0])], GemEmbeddings(gem))
    with pytest.raises(ValueError, match="1 texts with 2 metadatas"):
        store.add_embeddings([("x", vectors[0])], [{}, {}])


async def test_and_without_blocking_the_loop(gem):
    vectors = gem.embed_documents(["one", "two"]).tolist()
    store = await GemVectorStore.afrom_embeddings([("one", vectors[0])], GemEmbeddings(gem))
    await store.aadd_embeddings([("two", vectors[1])])
    assert sorted(texts(await store.asimilarity_search("one"))) == ["one", "two"]


def test_stores_are_merged_without_embedding_again(gem, store, monkeypatch):
    other = GemVectorStore.from_texts(
        ["Rivers freeze.", "new"], GemEmbeddings(gem), [{"n": 1}, {}], ids=["river", "new"]
    )
    vectors = {r.id: r.vector for r in other.index.iterate(vectors=True)}
    monkeypatch.setattr(gem.reader, "read", lambda *_, **__: pytest.fail("read"))
    store.merge_from(other)
    assert {d.id for d in store.get_by_ids([*TEXTS, "new"])} == {*TEXTS, "new"}
    assert texts(store.get_by_ids(["river"])) == ["Rivers freeze."]  # of one id: replaced
    assert store.get_by_ids(["river"])[0].metadata == {"n": 1}
    [record] = store.index.get(["new"], vectors=True)
    np.testing.assert_allclose(record.vector, vectors["new"], atol=1e-6)
    assert other.index.count() == 2
    store.merge_from(store)
    assert store.index.count() == 5


def test_other_models_stores_are_not_merged(gem, store):
    foreign = GemVectorStore.from_texts(["x"], DeterministicFakeEmbedding(size=gem.dim))
    with pytest.raises(GemIndexError, match="were made by the model None"):
        store.merge_from(foreign)
    with pytest.raises(GemIndexError, match="embed the texts again"):
        foreign.merge_from(store)
    empty = GemVectorStore(DeterministicFakeEmbedding(size=gem.dim))
    empty.merge_from(foreign)
    assert empty.index.count() == 1


def test_a_merged_documents_place_is_told(gem):
    from gem_rag.documents import Document as GemDocument
    from gem_rag.rag import GemRAG

    rag = GemRAG(gem)
    rag.add(GemDocument("Boil water in the kettle.", "k.md"))
    store = GemVectorStore(GemEmbeddings(gem))
    store.merge_from(GemVectorStore(GemEmbeddings(gem), index=rag.index))
    [document] = store.search("kettle", "words")
    assert document.metadata["source"] == "k.md"


def test_llama_index_says_how_a_persisted_index_is_loaded(gem, tmp_path):
    embed = llama.GemEmbedding(gem)
    context = StorageContext.from_defaults(vector_store=llama.GemVectorStore(embed_model=embed))
    VectorStoreIndex.from_documents(
        [LlamaDocument(text="one")], storage_context=context, embed_model=embed
    ).storage_context.persist(str(tmp_path))
    with pytest.raises(ValueError, match=r"vector_store=GemVectorStore.from_persist_dir"):
        StorageContext.from_defaults(persist_dir=str(tmp_path))
    store = llama.GemVectorStore.from_persist_dir(str(tmp_path), embed_model=embed)
    context = StorageContext.from_defaults(persist_dir=str(tmp_path), vector_store=store)
    index = load_index_from_storage(context, embed_model=embed)
    assert [n.text for n in index.as_retriever().retrieve("x")] == ["one"]
    context.persist(str(tmp_path))
    assert [n.text for n in index.as_retriever().retrieve("x")] == ["one"]


def test_a_folder_that_was_persisted_before_is_still_loaded(tmp_path):
    with GemIndex(tmp_path / "default__vector_store.json") as index:
        index.add(["x"], [[1.0]], ids=["x"])
    store = llama.GemVectorStore.from_persist_dir(str(tmp_path))
    assert store.client.count() == 1


def test_a_plain_llama_index_store_is_told_how_to_learn_its_model(gem):
    embed = llama.GemEmbedding(gem)
    store = llama.GemVectorStore()
    context = StorageContext.from_defaults(vector_store=store)
    VectorStoreIndex.from_documents(
        [LlamaDocument(text="one")], storage_context=context, embed_model=embed
    )
    with pytest.raises(GemIndexError, match=r"GemVectorStore\(embed_model="):
        llama.GemRetriever(store, gem).retrieve("one")


# Self-querying, and caches of vectors


@pytest.fixture
def years(gem):
    metadatas = [
        {"year": 1990, "day": dt.date(1990, 5, 1), "tags": ["a"], "title": "An Old Kettle"},
        {"year": 2020, "day": dt.date(2020, 5, 1), "tags": ["a", "b"], "title": "New"},
        {"year": 2021, "day": dt.datetime(2021, 5, 1, 12, tzinfo=dt.UTC), "title": "Newer"},
    ]
    return GemVectorStore.from_texts(list("abc"), GemEmbeddings(gem), metadatas, ids=list("abc"))


C = Comparator


@pytest.mark.parametrize(
    ("condition", "found"),
    [
        (Comparison(C.EQ, "year", 1990), "a"),
        (Comparison(C.NE, "year", 1990), "bc"),
        (Comparison(C.GT, "year", 2020), "c"),
        (Comparison(C.GTE, "year", 2020), "bc"),
        (Comparison(C.LT, "year", 2020), "a"),
        (Comparison(C.LTE, "year", 2020), "ab"),
        (Comparison(C.IN, "year", [1990, 2021]), "ac"),
        (Comparison(C.IN, "year", 1990), "a"),
        (Comparison(C.NIN, "year", [1990, 2021]), "b"),
        (Comparison(C.CONTAIN, "tags", "b"), "b"),
        (Comparison(C.CONTAIN, "title", "Kettle"), "a"),
        (Comparison(C.LIKE, "title", "%kettle%"), "a"),
        (Comparison(C.LIKE, "title", "new"), "bc"),
        (Comparison(C.GTE, "day", {"date": "2020-05-01", "type": "date"}), "bc"),
        (Comparison(C.EQ, "day", {"date": "2020-05-01", "type": "date"}), "b"),
        (
            Comparison(C.GT, "day", {"datetime": "2021-05-01T13:59:59+02:00", "type": "datetime"}),
            "c",
        ),
        (Comparison(C.GT, "day", {"datetime": "2021-05-01T12:00:00Z", "type": "datetime"}), ""),
        (
            Operation(
                Operator.AND, [Comparison(C.GT, "year", 1990), Comparison(C.LT, "year", 2021)]
            ),
            "b",
        ),
        (
            Operation(
                Operator.OR, [Comparison(C.EQ, "year", 1990), Comparison(C.EQ, "year", 2021)]
            ),
            "ac",
        ),
        (Operation(Operator.NOT, [Comparison(C.EQ, "year", 1990)]), "bc"),
        (
            Operation(
                Operator.NOT,
                [Operation(Operator.OR, [Comparison(C.EQ, "year", y) for y in (1990, 2020)])],
            ),
            "c",
        ),
    ],
)
def test_structured_queries_become_filters(years, condition, found):
    query, options = GemTranslator().visit_structured_query(StructuredQuery("kettle", condition))
    assert query == "kettle"
    # As SelfQueryRetriever searches:
    documents = years.search(query, "similarity", **options)
    assert "".join(sorted(document.id for document in documents)) == found


def test_a_structured_query_without_a_filter_restricts_nothing(years):
    query, options = GemTranslator().visit_structured_query(StructuredQuery("kettle", None))
    assert len(years.search(query, "similarity", **options)) == 3


async def test_kept_vectors_of_queries_are_not_those_of_texts(gem, monkeypatch):
    plain, kept = GemEmbeddings(gem), InMemoryByteStore()
    cached = GemEmbeddings(gem, cache=kept)
    words = "Who wrote the letter?"
    text, query = plain.embed_documents([words])[0], plain.embed_query(words)
    assert text != pytest.approx(query, abs=1e-3)
    first = cached.embed_documents([words, "b", words]), cached.embed_query(words)
    assert first[0][0] == first[0][2] == pytest.approx(text, abs=1e-6)
    assert first[1] == pytest.approx(query, abs=1e-6)
    assert len(list(kept.yield_keys())) == 3
    monkeypatch.setattr(gem, "embed_documents", lambda *_, **__: pytest.fail("embedded"))
    monkeypatch.setattr(gem, "embed_query", lambda *_, **__: pytest.fail("embedded"))
    again = GemEmbeddings(gem, cache=kept)  # as in the next process
    assert (again.embed_documents([words, "b", words]), again.embed_query(words)) == first
    assert await again.aembed_documents([words, "b", words]) == first[0]
    assert await again.aembed_query(words) == first[1]
    new = await again.aembed_documents(["c", words])
    assert again.embed_documents([words, "c"]) == new[::-1]
    assert again.embed_documents([]) == []


def test_a_store_takes_kept_vectors(gem, monkeypatch):
    kept = InMemoryByteStore()
    GemVectorStore.from_texts(list(TEXTS.values()), GemEmbeddings(gem, cache=kept))
    monkeypatch.setattr(gem, "embed_documents", lambda *_, **__: pytest.fail("embedded"))
    store = GemVectorStore.from_texts(list(TEXTS.values()), GemEmbeddings(gem, cache=kept))
    assert len(GemRetriever(vectorstore=store).invoke("kettle")) == 4
