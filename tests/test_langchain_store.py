"""GemVectorStore, GemRetriever, GemReranker: LangChain's suites, and what they do not check."""

from __future__ import annotations

import asyncio
import datetime as dt
import math

import pytest
from langchain_core.documents import Document
from langchain_core.embeddings import DeterministicFakeEmbedding
from langchain_core.runnables import RunnablePassthrough
from langchain_tests.integration_tests import (
    RetrieversIntegrationTests,
    VectorStoreIntegrationTests,
)

from gem_rag import ChatGem, GemEmbeddings, GemIndex, GemReranker, GemRetriever, GemVectorStore
from gem_rag.errors import GemIndexError

TEXTS = [
    "The kettle has a warranty of seven years.",
    "Rivers run to the sea.",
    "A young child is riding a grey horse.",
    "Who wrote the long letter about steam engines?",
    "In winter the café is closed.",
]


@pytest.fixture(autouse=True, scope="module")
def _checkpoint(gem):
    TestRetriever.loaded = gem


class TestInMemory(VectorStoreIntegrationTests):
    @pytest.fixture
    def vectorstore(self):
        return GemVectorStore(self.get_embeddings())


class TestOnDisk(VectorStoreIntegrationTests):
    @pytest.fixture
    def vectorstore(self, tmp_path):
        return GemVectorStore(self.get_embeddings(), path=tmp_path / "store")


class TestRetriever(RetrieversIntegrationTests):
    loaded = None

    @property
    def retriever_constructor(self):
        return GemRetriever

    @property
    def retriever_constructor_params(self):
        return {"vectorstore": GemVectorStore.from_texts(TEXTS, GemEmbeddings(self.loaded))}

    @property
    def retriever_query_example(self):
        return "How long is the warranty?"


@pytest.fixture
def store(gem):
    metadatas = [{"n": i, "kind": "even" if i % 2 == 0 else "odd"} for i in range(len(TEXTS))]
    ids = [f"t{i}" for i in range(len(TEXTS))]
    return GemVectorStore.from_texts(TEXTS, GemEmbeddings(gem), metadatas, ids=ids)


def test_the_query_is_not_embedded_as_a_document(gem, store):
    (found, score), *_ = store.similarity_search_with_score("Who wrote this?", k=1)
    vector = gem.embed_query("Who wrote this?")
    document = gem.embed_documents([found.page_content])[0]
    assert score == pytest.approx(float(vector @ document), abs=1e-4)


def test_filters_work_in_the_search_and_return_k(store):
    for where in (
        {"kind": "odd"},
        {"n": {"$gte": 3}},
        {"$or": [{"n": 0}, {"$and": [{"kind": "odd"}, {"n": {"$lt": 2}}]}]},
        {"$not": {"kind": "even"}},
    ):
        assert len(store.similarity_search("sea", k=2, filter=where)) == 2
    assert (
        store.as_retriever(search_kwargs={"k": 3, "filter": {"n": 1}}).invoke("sea")[0].id == "t1"
    )


async def test_async_methods_give_the_same(store):
    assert await store.asimilarity_search("sea") == store.similarity_search("sea")
    assert await store.asimilarity_search_with_score("sea") == store.similarity_search_with_score(
        "sea"
    )
    vector = store.embedding.embed_query("sea")
    by_vector = store.similarity_search_by_vector(vector)
    assert await store.asimilarity_search_by_vector(vector) == by_vector
    mmr = store.max_marginal_relevance_search("sea", k=3)
    assert await store.amax_marginal_relevance_search("sea", k=3) == mmr
    relevance = await store.asimilarity_search_with_relevance_scores("sea")
    assert relevance == store.similarity_search_with_relevance_scores("sea")


def test_relevance_scores_are_cosines_in_0_to_1(store):
    for document, score in store.similarity_search_with_relevance_scores("sea", k=5):
        assert 0 <= score <= 1
        cosine = {d.id: s for d, s in store.similarity_search_with_score("sea", k=5)}
        assert score == pytest.approx(max(0.0, cosine[document.id]))


def test_mmr_spreads(gem):
    texts = ["Rivers run to the sea.", "Rivers run to the sea!", "A young child on a horse."]
    store = GemVectorStore.from_texts(texts, GemEmbeddings(gem))
    vector = store.embedding.embed_documents([texts[0]])[0]
    spread = store.max_marginal_relevance_search_by_vector(vector, k=2, lambda_mult=0.0)
    assert {d.page_content for d in spread} == {texts[0], texts[2]}


def test_ids_given_in_part_are_filled_in(store):
    ids = store.add_documents([Document("one", id="mine"), Document("two")])
    assert ids[0] == "mine"
    assert [d.page_content for d in store.get_by_ids(ids)] == ["one", "two"]


def test_delete_without_ids_deletes_all(store):
    assert store.delete()
    assert store.similarity_search("sea") == []


async def test_delete_by_filter_and_never_by_mistake(store):
    assert store.delete(filter={"kind": "odd"})
    left = {d.metadata["kind"] for d in store.similarity_search("sea", k=10)}
    assert left == {"even"}
    with pytest.raises(
        TypeError, match=r"unknown options \['where'\]; conditions go into `filter`"
    ):
        store.delete(where={"n": 0})
    with pytest.raises(TypeError, match="conditions go into `filter`"):
        store.similarity_search("sea", where={"n": 0})
    with pytest.raises(TypeError, match="conditions go into `filter`"):
        store.max_marginal_relevance_search("sea", where={"n": 0})
    with pytest.raises(ValueError, match="both ids and filter"):
        store.delete(["t0"], {"n": 0})
    assert await store.adelete(filter={"n": 0})
    assert {d.metadata["kind"] for d in store.similarity_search("sea", k=10)} == {"even"}
    assert store.get_by_ids(["t0"]) == []


async def test_as_many_ids_and_metadatas_as_texts(store):
    before = store.index.count()
    for given in ({"ids": ["x"]}, {"metadatas": [{}], "ids": ["x", "y"]}, {"ids": list("xyz")}):
        with pytest.raises(ValueError, match="2 texts with"):
            store.add_texts(["one", "two"], **given)
        with pytest.raises(ValueError, match="2 texts with"):
            await store.aadd_texts(["one", "two"], **given)
    assert store.index.count() == before
    assert len(store.add_texts(["one", "two"], ids=[])) == 2


def test_a_store_is_saved_and_opened_without_pickle(gem, store, tmp_path):
    store.save_local(tmp_path / "copy")
    names = {p.name for p in (tmp_path / "copy").iterdir()}
    assert names == {"index.sqlite"}
    again = GemVectorStore.load_local(tmp_path / "copy", GemEmbeddings(gem))
    found = again.similarity_search_with_score("sea")
    expected = store.similarity_search_with_score("sea")
    assert [(d.id, d.metadata) for d, _ in found] == [(d.id, d.metadata) for d, _ in expected]
    with pytest.raises(GemIndexError, match="already"):
        store.save_local(tmp_path / "copy")
    with pytest.raises(GemIndexError):
        GemVectorStore.load_local(tmp_path / "missing", GemEmbeddings(gem))


def test_another_models_index_is_refused(gem, tmp_path):
    GemIndex(tmp_path / "i", fingerprint="f" * 64, dim=gem.dim).close()
    with pytest.raises(GemIndexError, match="ffff"):
        GemVectorStore(GemEmbeddings(gem), path=tmp_path / "i")
    with (
        GemIndex(tmp_path / "i") as index,
        pytest.raises(GemIndexError, match="ffff"),
    ):
        GemVectorStore(GemEmbeddings(gem), index=index)


def test_an_open_index_becomes_the_models(gem, tmp_path):
    with GemIndex(tmp_path / "i") as index:
        GemVectorStore(GemEmbeddings(gem), index=index).add_texts(TEXTS)
    store = GemVectorStore(GemEmbeddings(gem), path=tmp_path / "i")
    assert store.index.info().fingerprint == gem.fingerprint
    with pytest.raises(ValueError, match="give either"):
        GemVectorStore(GemEmbeddings(gem), path=tmp_path / "i", index=store.index)


def test_what_would_be_refused_is_refused_before_anything_is_embedded(gem, monkeypatch):
    store = GemVectorStore(GemEmbeddings(gem))
    monkeypatch.setattr(store.readings, "embed", lambda texts: pytest.fail("embedded"))
    with pytest.raises(GemIndexError, match="metadata of number 1 cannot be stored"):
        store.add_texts(["a", "b"], [{}, {"lasts": dt.timedelta(days=1)}])
    with pytest.raises(GemIndexError, match="'x' is given twice"):
        store.add_texts(["a", "b"], ids=["x", "x"])


def test_any_other_embeddings_work(tmp_path):
    store = GemVectorStore(DeterministicFakeEmbedding(size=16), path=tmp_path / "i")
    store.add_texts(TEXTS)
    assert store.similarity_search(TEXTS[2], k=1)[0].page_content == TEXTS[2]
    assert len(GemRetriever(vectorstore=store, k=2).invoke("sea")) == 2


def test_the_retriever_ranks_from_kept_readings(gem, store, count_reads):
    found = GemRetriever(vectorstore=store, k=2).invoke("Who wrote the letter?")
    assert count_reads == []
    scores = [d.metadata["rank_score"] for d in found]
    assert scores == sorted(scores, reverse=True)
    likely = {TEXTS[r.index]: r.score / -r.floor for r in gem.rank("Who wrote the letter?", TEXTS)}
    weights = gem.config.relevance
    for document in found:
        known = document.metadata
        expected = likely[document.page_content] + (
            weights.words * known["word_score"] + weights.cosine * known["score"]
        )
        assert known["rank_score"] == pytest.approx(expected, abs=1e-3)


def test_the_retriever_ranks_without_kept_readings_too(gem, store):
    plain = GemVectorStore(GemEmbeddings(gem), index=store.index, keep_readings=False)
    question = "Who wrote the letter?"
    ranked = [d.page_content for d in GemRetriever(vectorstore=store).invoke(question)]
    assert [d.page_content for d in GemRetriever(vectorstore=plain).invoke(question)] == ranked
    with pytest.raises(ValueError, match=r"rank_threshold is 0\.6, but nothing is ranked"):
        GemRetriever(vectorstore=store, rank=False, rank_threshold=0.6).invoke(question)


def test_retriever_options(store):
    plain = GemRetriever(vectorstore=store, k=3, rank=False, mode="vector")
    scores = [d.metadata["score"] for d in plain.invoke("sea")]
    assert scores == sorted(scores, reverse=True)
    assert "rank_score" not in plain.invoke("sea")[0].metadata
    assert len(plain.invoke("sea", k=1)) == 1
    assert {d.metadata["kind"] for d in plain.invoke("sea", filter={"kind": "odd"})} == {"odd"}
    assert GemRetriever(vectorstore=store, score_threshold=1.1).invoke("sea") == []
    assert GemRetriever(vectorstore=store, rank_threshold=math.inf).invoke("sea") == []
    assert len(GemRetriever(vectorstore=store, search_type="mmr", k=3).invoke("sea")) == 3


def test_places_in_the_source_are_in_the_metadata(gem):
    store = GemVectorStore.from_texts(
        ["Rivers run."], GemEmbeddings(gem), [{"source": "a.txt", "start_index": 40}]
    )
    (found,) = GemRetriever(vectorstore=store).invoke("rivers")
    assert (found.metadata["start"], found.metadata["end"]) == (40, 51)


def test_the_reranker_keeps_the_best(gem):
    documents = [Document(t, metadata={"n": i}) for i, t in enumerate(TEXTS)]
    best = GemReranker(gem, top_n=2).compress_documents(documents, "Who wrote the letter?")
    expected = [TEXTS[r.index] for r in gem.rank("Who wrote the letter?", TEXTS)[:2]]
    assert [d.page_content for d in best] == expected
    assert "rank_score" not in documents[0].metadata
    assert GemReranker(gem).compress_documents([], "x") == []


async def test_reranking_does_not_block_the_event_loop(gem):
    documents = [Document(t * 10) for t in TEXTS]
    beats = []

    async def heart():
        while True:
            beats.append(1)
            await asyncio.sleep(0.001)

    task = asyncio.create_task(heart())
    await GemReranker(gem).acompress_documents(documents, "Who?")
    await GemRetriever(
        vectorstore=await GemVectorStore.afrom_texts(TEXTS, GemEmbeddings(gem))
    ).ainvoke("Who?")
    task.cancel()
    assert len(beats) > 5


def test_a_chain_of_all_three_loads_one_model(gem, tmp_path):
    folder = str(gem.save_pretrained(tmp_path / "checkpoint"))
    store = GemVectorStore.from_texts(TEXTS, GemEmbeddings(folder))
    chat = ChatGem(folder, max_tokens=8)
    assert chat.gem is store.embedding.gem
    retriever = GemRetriever(vectorstore=store, k=1)
    chain = (
        {"context": retriever, "question": RunnablePassthrough()}
        | RunnablePassthrough()
        | (lambda x: f"{x['context'][0].page_content} {x['question']}")
        | chat
    )
    assert chain.invoke("How long is the warranty?").content


def test_what_was_read_of_a_deleted_document_goes_with_it(gem, tmp_path):
    store = GemVectorStore.from_texts(
        ["Rivers run.", "Kettles boil."], GemEmbeddings(gem), ids=["r", "k"], path=tmp_path / "i"
    )
    assert len(list((tmp_path / "i" / "readings").iterdir())) == 2
    store.delete(["r"])
    assert len(list((tmp_path / "i" / "readings").iterdir())) == 1
    store.delete()
    assert list((tmp_path / "i" / "readings").iterdir()) == []
