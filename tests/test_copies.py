"""Copies of what holds a model are that model; pickled, it is loaded again where it arrives."""

from __future__ import annotations

import copy
import multiprocessing
import pickle

import numpy as np
import pytest
import torch
from langchain_core.caches import InMemoryCache
from langchain_core.rate_limiters import InMemoryRateLimiter
from langchain_core.runnables import ConfigurableField, RunnableLambda
from llama_index.core.callbacks import CallbackManager, TokenCountingHandler
from llama_index.core.schema import TextNode
from tiny import disturb

import llama_index_gem_rag as llama_index
from gem_rag import (
    ChatGem,
    GemEmbeddings,
    GemIndex,
    GemLLM,
    GemModel,
    GemRAG,
    GemReranker,
    GemRetriever,
    GemVectorStore,
)
from gem_rag.config import AdapterConfig
from gem_rag.errors import CheckpointError, GemIndexError
from gem_rag.model import create
from gem_rag.store import ReadingStore

TEXTS = ["The kettle has a warranty of seven years.", "Rivers run to the sea."]
QUESTION = "How long is the warranty?"


@pytest.fixture(scope="module")
def folder(gem, tmp_path_factory):
    return gem.save_pretrained(tmp_path_factory.mktemp("saved") / "checkpoint")


@pytest.fixture(scope="module")
def loaded(folder):
    model = GemModel.from_pretrained(folder)
    model.generate("Who?", max_new_tokens=2)  # an engine at work holds locks and a thread
    return model


def nodes(model):
    vectors = model.embed_documents(TEXTS)
    pairs = zip(TEXTS, vectors.tolist(), strict=True)
    return [TextNode(text=t, id_=f"n{i}", embedding=v) for i, (t, v) in enumerate(pairs)]


def everything(model, folder):
    """One of each class over a model, and what it says when it is used."""
    store = GemVectorStore(GemEmbeddings(model), path=folder / "langchain")
    store.add_texts(TEXTS, ids=["0", "1"])
    theirs = llama_index.GemVectorStore(
        folder / "llama-index", llama_index.GemEmbedding(model), create=True
    )
    theirs.add(nodes(model))
    rag = GemRAG(model, GemIndex(folder / "rag"), threshold=None)
    kept = llama_index.GemEmbedding(model, readings=ReadingStore(model))
    return {
        "GemModel": (model, lambda m: m.embed_query(QUESTION)),
        "ReadingStore": (ReadingStore(model, folder / "kept"), lambda s: s.embed(TEXTS)),
        "GemIndex": (store.index, lambda i: i.get(["0"])[0].text),
        "GemRAG": (rag, lambda r: r.store.embed(TEXTS)),
        "GemEmbeddings": (GemEmbeddings(model), lambda e: e.embed_documents(TEXTS)),
        "ChatGem": (ChatGem(model, max_tokens=6), lambda c: c.invoke("Who?").text),
        "GemLLM": (GemLLM(model, max_tokens=6), lambda c: c.invoke("Who?")),
        "GemVectorStore": (store, lambda s: s.similarity_search(QUESTION, k=1)[0].page_content),
        "GemRetriever": (
            GemRetriever(vectorstore=store, k=1),
            lambda r: r.invoke(QUESTION)[0].page_content,
        ),
        "GemReranker": (GemReranker(model), lambda r: r.readings.embed(TEXTS)),
        "chain": (
            GemRetriever(vectorstore=store, k=1) | RunnableLambda(pages),
            lambda c: c.invoke(QUESTION),
        ),
        "LlamaIndex GemEmbedding": (kept, lambda e: e.get_text_embedding(TEXTS[0])),
        "LlamaIndex GemLLM": (
            llama_index.GemLLM(model, max_tokens=6),
            lambda m: m.complete("Who?").text,
        ),
        "LlamaIndex GemVectorStore": (theirs, lambda s: s.get_nodes(["n0"])[0].text),
        "LlamaIndex GemReranker": (
            llama_index.GemReranker(model, top_n=1),
            lambda r: r.readings.embed(TEXTS),
        ),
        "LlamaIndex GemRetriever": (
            llama_index.GemRetriever(theirs, model, similarity_top_k=1),
            lambda r: r.retrieve(QUESTION)[0].node.node_id,
        ),
    }


def pages(documents):
    return [document.page_content for document in documents]


NAMES = """GemModel, ReadingStore, GemIndex, GemRAG, GemEmbeddings, ChatGem, GemLLM, GemVectorStore,
GemRetriever, GemReranker, chain, LlamaIndex GemEmbedding, LlamaIndex GemLLM, LlamaIndex
GemVectorStore, LlamaIndex GemReranker, LlamaIndex GemRetriever""".replace("\n", " ").split(", ")


@pytest.fixture(scope="module")
def held(loaded, tmp_path_factory):
    return everything(loaded, tmp_path_factory.mktemp("held"))


@pytest.mark.parametrize("name", NAMES)
def test_a_copy_says_what_the_original_says_and_holds_the_same_model(held, loaded, name):
    original, use = held[name]
    expected = use(original)
    for copied in (copy.copy(original), copy.deepcopy(original)):
        np.testing.assert_array_equal(use(copied), expected)
        if hasattr(copied, "gem"):
            assert copied.gem is loaded


@pytest.mark.parametrize("name", NAMES)
def test_what_was_pickled_says_the_same_and_shares_the_loaded_model(held, loaded, name):
    original, use = held[name]
    again = pickle.loads(pickle.dumps(original))
    np.testing.assert_array_equal(use(again), use(original))
    if hasattr(again, "gem"):
        assert again.gem is loaded


def test_llama_indexs_deep_copies_hold_the_same_model(loaded):
    embedding = llama_index.GemEmbedding(loaded, readings=ReadingStore(loaded))
    copied = embedding.model_copy(deep=True)
    assert copied.gem is loaded
    assert copied.get_text_embedding(TEXTS[0]) == embedding.get_text_embedding(TEXTS[0])


def embed_elsewhere(embeddings):
    return embeddings.embed_documents(TEXTS)


def answer_elsewhere(chat_and_retriever):
    chat, retriever = chat_and_retriever
    return chat.invoke("Who?").text, [d.page_content for d in retriever.invoke(QUESTION)]


def test_a_pool_of_new_processes_computes_the_same(held):
    embeddings, chat, retriever = (held[n][0] for n in ("GemEmbeddings", "ChatGem", "GemRetriever"))
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        vectors = pool.apply_async(embed_elsewhere, (embeddings,)).get(timeout=60)
        told = pool.apply_async(answer_elsewhere, ((chat, retriever),)).get(timeout=60)
    np.testing.assert_allclose(vectors, embeddings.embed_documents(TEXTS), atol=1e-6)
    assert told == answer_elsewhere((chat, retriever))


def test_device_dtype_and_forward_travel_with_a_model(folder):
    model = GemModel.from_pretrained(folder, device="cpu", dtype="bfloat16", forward="transformers")
    again = pickle.loads(pickle.dumps(model))
    assert again is model
    name = pickle.dumps(GemModel.from_pretrained(folder))
    assert pickle.loads(name) is not model


@pytest.mark.parametrize(
    "make",
    [
        lambda model: GemIndex(),
        lambda model: GemRAG(model),
        lambda model: GemVectorStore(GemEmbeddings(model)),
        lambda model: GemRetriever(vectorstore=GemVectorStore(GemEmbeddings(model))),
        lambda model: llama_index.GemVectorStore(),
        lambda model: llama_index.GemRetriever(llama_index.GemVectorStore(), model),
    ],
)
def test_what_is_in_memory_is_refused_instead_of_arriving_empty(loaded, make):
    with pytest.raises(GemIndexError, match=r"in memory.*give a path"):
        pickle.dumps(make(loaded))


def test_a_model_without_a_folder_says_that_it_must_be_saved_first(base_folder, tmp_path):
    new = disturb(create(base_folder, adapter=AdapterConfig(rank=2, alpha=2)))
    with pytest.raises(CheckpointError, match="save_pretrained"):
        pickle.dumps(GemEmbeddings(new))
    new.save_pretrained(tmp_path / "saved")
    again = pickle.loads(pickle.dumps(GemEmbeddings(new)))
    np.testing.assert_allclose(
        again.embed_query("a"), GemEmbeddings(new).embed_query("a"), atol=1e-3
    )


def test_a_model_that_changed_since_is_not_taken_for_another(base_folder, tmp_path):
    new = create(base_folder, adapter=AdapterConfig(rank=2, alpha=2))
    new.save_pretrained(tmp_path / "saved")
    disturb(new)
    with pytest.raises(CheckpointError, match="another model"):
        pickle.loads(pickle.dumps(new))


def test_settings_configured_at_run_time_keep_the_loaded_model(folder):
    model = GemModel.from_pretrained(folder, dtype="bfloat16", forward="transformers")
    chat = ChatGem(model, max_tokens=2).configurable_fields(
        max_tokens=ConfigurableField(id="longest")
    )
    seen = []
    chat.with_config(configurable={"longest": 3}).invoke(
        "Who?", logits_hook=lambda ids, logits: seen.append(logits.dtype) or logits
    )
    assert seen == [torch.bfloat16] * 3


def test_copies_share_a_rate_limiter_and_a_cache(loaded):
    limiter = InMemoryRateLimiter(requests_per_second=1000)
    chat = ChatGem(loaded, rate_limiter=limiter, cache=InMemoryCache(), max_tokens=2)
    chat.invoke("Who?")
    copied = copy.deepcopy(chat)
    assert copied.gem is loaded
    assert copied.rate_limiter is limiter
    assert copied.cache is chat.cache


def test_callbacks_that_cannot_be_pickled_stay_behind_with_a_warning(loaded, caplog):
    counter = TokenCountingHandler(tokenizer=lambda text: [])
    llm = llama_index.GemLLM(loaded, max_tokens=4, callback_manager=CallbackManager([counter]))
    again = pickle.loads(pickle.dumps(llm))
    assert "without its callbacks" in caplog.text
    assert again.complete("Who?").text == llm.complete("Who?").text
    assert llm.callback_manager.handlers == [counter]
