"""Nothing that is asked for is dropped: an option is honoured under the names users know, or named
in an error that says which one may have been meant."""

from __future__ import annotations

import time

import pytest
from langchain_core.documents import Document
from langchain_core.exceptions import ContextOverflowError, ModelTimeoutError
from langchain_core.messages import AIMessage, HumanMessage, SystemMessage, trim_messages
from langchain_core.runnables import ConfigurableField
from langchain_core.tools import tool
from llama_index.core.schema import TextNode
from llama_index.core.vector_stores.types import (
    MetadataFilter,
    MetadataFilters,
    VectorStoreQuery,
)

import llama_index_gem_rag as llama_index
from gem_rag import (
    ChatGem,
    GemEmbeddings,
    GemLLM,
    GemRAG,
    GemReranker,
    GemRetriever,
    GemVectorStore,
)
from gem_rag.engine.scheduler import Limits
from gem_rag.errors import ContextLengthError, GenerationTimeout, OptionError
from gem_rag.store import ReadingStore

LINES = [f"Line {i} of the letter about steam." for i in range(8)]
USERS = [{"user": "ann" if i % 2 else "bob", "n": i} for i in range(8)]


@pytest.fixture
def store(gem):
    return GemVectorStore.from_texts(LINES, GemEmbeddings(gem), USERS)


@pytest.fixture
def nodes(gem):
    held = llama_index.GemVectorStore(embed_model=llama_index.GemEmbedding(gem))
    vectors = gem.embed_documents(LINES).tolist()
    made = zip(LINES, USERS, vectors, strict=True)
    held.add([TextNode(text=t, metadata=m, embedding=v) for t, m, v in made])
    return held


def users(documents):
    return {document.metadata["user"] for document in documents}


# LangChain: retrieving


@pytest.mark.parametrize(
    "asked",
    [
        {"search_kwargs": {"filter": {"user": "ann"}}},
        {"search_kwargs": {"filters": {"user": "ann"}}},
        {"filters": {"user": "ann"}},
        {"filter": {"user": "ann"}},
    ],
)
async def test_a_filter_holds_wherever_it_is_given(store, asked):
    assert users(GemRetriever(vectorstore=store, k=8, **asked).invoke("steam")) == {"ann"}
    plain = GemRetriever(vectorstore=store, k=8)
    assert users(plain.invoke("steam", **asked)) == {"ann"}
    assert users(await plain.ainvoke("steam", **asked)) == {"ann"}
    assert users(plain.invoke("steam")) == {"ann", "bob"}
    assert users(store.as_retriever(**asked).invoke("steam")) == {"ann"}


def test_one_calls_filter_goes_before_the_retrievers(store):
    anns = GemRetriever(vectorstore=store, k=8, search_kwargs={"filter": {"user": "ann"}})
    assert users(anns.invoke("steam", search_kwargs={"filter": {"user": "bob"}})) == {"bob"}
    assert users(anns.invoke("steam", filter=None)) == {"ann"}


@pytest.mark.parametrize("name", ["k", "top_k", "top_n"])
def test_how_many_by_any_name(store, name):
    retriever = GemRetriever(vectorstore=store, **{name: 2})
    assert len(retriever.invoke("steam")) == 2
    assert len(retriever.invoke("steam", **{name: 3})) == 3
    assert len(store.as_retriever(**{name: 2}).invoke("steam")) == 2
    assert len(store.similarity_search("steam", **{name: 2})) == 2
    assert len(GemRetriever(vectorstore=store, search_kwargs={name: 1}).invoke("steam")) == 1


def test_fetch_k_is_how_many_are_chosen_from(store):
    assert GemRetriever(vectorstore=store, fetch_k=7).candidates == 7
    first = store.similarity_search("steam", k=1)
    only = GemRetriever(
        vectorstore=store, search_type="mmr", k=1, fetch_k=1, lambda_mult=0.0, rank=False
    )
    assert [d.page_content for d in only.invoke("steam")] == [first[0].page_content]


def test_a_score_threshold_as_langchains_retriever_takes_it(store):
    asked = {"search_kwargs": {"score_threshold": 1.1}}
    kind = "similarity_score_threshold"
    assert GemRetriever(vectorstore=store, search_type=kind, **asked).invoke("steam") == []


@pytest.mark.parametrize(
    ("make", "named"),
    [
        (lambda s: GemRetriever(vectorstore=s, filtr={}), "'filtr'.*'filter'"),
        (lambda s: GemRetriever(vectorstore=s, search_kwargs={"scorethreshold": 1}), "'score_thr"),
        (lambda s: GemRetriever(vectorstore=s).invoke("x", filtr={}), "'filtr'.*'filter'"),
        (lambda s: GemRetriever(vectorstore=s, k=2, top_k=3), "one option"),
        (lambda s: s.as_retriever(filtr={}), "'filtr'.*'filter'"),
        (lambda s: s.as_retriever().invoke("x", fetch_k=3), "fetch_k"),
        (lambda s: s.add_texts(["x"], namespace="a"), "namespace"),
        (lambda s: s.similarity_search("x", namespace="a"), "namespace"),
        (lambda s: s.delete(["x"], namespace="a"), "namespace"),
        (lambda s: GemVectorStore(s.embedding, kindd="flat"), "'kindd'.*'kind'"),
        (lambda s: GemReranker(s.embedding.gem, top=1), "'top'.*'top_n'"),
        (lambda s: GemReranker(s.embedding.gem, device="meta"), "loaded"),
        (lambda s: GemEmbeddings(s.embedding.gem, devise="cpu"), "'devise'.*'device'"),
        (lambda s: GemEmbeddings(s.embedding.gem, dtype="float64"), "loaded"),
    ],
)
def test_what_would_be_dropped_is_named(store, make, named):
    with pytest.raises((OptionError, ValueError, TypeError), match=f"(?s){named}"):
        make(store)


def test_a_reranker_by_the_names_of_others(gem):
    documents = [Document(text) for text in LINES]
    assert len(GemReranker(gem, top_k=1).compress_documents(documents, "steam")) == 1
    readings = ReadingStore(gem)
    assert GemReranker(readings=readings).gem is gem


def test_langchains_indexing_api_works(store):
    store.add_documents([Document("one more")], ids=["more"], batch_size=100)
    assert store.get_by_ids(["more"])


# LangChain: generating


@pytest.fixture(scope="module")
def folder(gem, tmp_path_factory):
    return str(gem.save_pretrained(tmp_path_factory.mktemp("options") / "checkpoint"))


@pytest.mark.parametrize("kind", [ChatGem, GemLLM])
@pytest.mark.parametrize("name", ["max_tokens", "max_new_tokens", "num_predict"])
def test_the_longest_answer_by_any_name(gem, kind, name):
    def said(model, **call):
        answer = model.invoke("The kettle", **call)
        return answer if isinstance(answer, str) else answer.content

    model = kind(gem, **{name: 12})
    assert model.max_tokens == 12
    assert said(model) == said(kind(gem), max_tokens=12)
    assert said(model, **{name: 3}) == said(kind(gem, max_tokens=3)) != said(model)


def test_a_model_by_the_name_other_classes_use(folder):
    chat = ChatGem(model_name=folder)
    assert chat.model == folder
    assert GemEmbeddings(model_name=folder).gem is chat.gem
    assert GemReranker(model_name=folder).gem is chat.gem


def test_what_every_chat_class_is_given_is_taken(gem):
    chat = ChatGem(
        gem,
        temperature=0,
        max_tokens=4,
        timeout=60,
        max_retries=2,
        api_key="none",
        stop_sequences=["zzz"],
    )
    assert chat.timeout == 60
    assert chat.stop == ["zzz"]
    assert chat.invoke("Who?", n=1, logprobs=False, max_retries=1, parallel_tool_calls=False).text
    assert "none" not in repr(chat)


@pytest.mark.parametrize("name", ["n", "logprobs", "frequency_penalty", "response_formatt"])
def test_what_one_call_cannot_have_is_named(gem, name):
    for model in (ChatGem(gem, max_tokens=4), GemLLM(gem, max_tokens=4)):
        with pytest.raises(OptionError, match=f"'{name}'"):
            model.invoke("Who?", **{name: 2})
        with pytest.raises(OptionError, match=f"'{name}'"):
            list(model.stream("Who?", **{name: 2}))


@pytest.mark.parametrize("kind", [ChatGem, GemLLM])
def test_a_misspelt_setting_is_named_with_the_likely_one(gem, kind):
    with pytest.raises(ValueError, match=r"'temprature'; did you mean 'temperature'\?"):
        kind(gem, temprature=1)
    with pytest.raises(OptionError, match=r"'temprature'; did you mean 'temperature'\?"):
        kind(gem).invoke("Who?", temprature=1)
    with pytest.raises(ValueError, match="base_url"):
        kind(gem, base_url="http://localhost")


def test_settings_can_be_configured_at_run_time(folder):
    chat = ChatGem(folder, max_tokens=4, streaming=True).configurable_fields(
        max_tokens=ConfigurableField(id="longest")
    )
    more = chat.with_config(configurable={"longest": 9}).invoke("Who?")
    assert more.usage_metadata["output_tokens"] == 9
    assert chat.invoke("Who?").usage_metadata["output_tokens"] == 4


async def test_an_answer_that_takes_too_long_is_an_error_and_stops(gem):
    def slow(ids, logits):
        time.sleep(0.05)
        return logits

    chat = ChatGem(gem, timeout=0.3, max_tokens=900)
    started = time.perf_counter()
    with pytest.raises(ModelTimeoutError, match=r"after 0\.3 s, its timeout"):
        chat.invoke("Who?", logits_hook=slow)
    with pytest.raises(GenerationTimeout):
        await chat.ainvoke("Who?", logits_hook=slow)
    with pytest.raises(ModelTimeoutError):
        for _ in chat.stream("Who?", logits_hook=slow):
            pass
    with pytest.raises(TimeoutError):
        async for _ in chat.astream("Who?", logits_hook=slow, timeout=0.2):
            pass
    assert chat.invoke("Who?", max_tokens=2, timeout=30).text is not None
    assert time.perf_counter() - started < 10
    with pytest.raises(ValueError, match="timeout"):
        chat.invoke("Who?", timeout=-1)


# LangChain: what a conversation costs


@tool
def look_up(city: str, days: int = 3) -> str:
    """The weather of a city in the days to come."""
    return f"{city}: rain for {days} days"


def conversation(turns):
    messages = [SystemMessage("Answer briefly, in the words of the letter.")]
    for i in range(turns):
        messages += [HumanMessage(f"Who wrote line {i}?"), AIMessage(f"A child wrote line {i}.")]
    return [*messages, HumanMessage("And the last one?")]


def test_messages_are_counted_as_they_are_sent(gem):
    chat, messages = ChatGem(gem, max_tokens=2), conversation(6)
    spent = chat.invoke(messages).usage_metadata["input_tokens"]
    assert chat.get_num_tokens_from_messages(messages) == spent
    told = chat.bind_tools([look_up]).invoke(messages).usage_metadata["input_tokens"]
    assert chat.get_num_tokens_from_messages(messages, tools=[look_up]) == told > spent
    assert chat.get_num_tokens_from_messages([]) == 0


def test_trimmed_messages_fit_the_window(gem):
    chat, messages = ChatGem(gem, max_tokens=16), conversation(80)
    with pytest.raises(ContextLengthError):
        chat.invoke(messages)
    kept = trim_messages(
        messages,
        max_tokens=gem.max_context - 16,
        token_counter=chat,
        include_system=True,
        start_on="human",
    )
    assert len(kept) > 10
    assert chat.invoke(kept).usage_metadata["output_tokens"] == 16


def test_a_counter_of_the_users_own_is_asked(gem):
    chat = ChatGem(gem, custom_get_token_ids=lambda text: [0])
    assert chat.get_num_tokens("many words here") == 1
    assert chat.get_num_tokens_from_messages([HumanMessage("a b"), AIMessage("c d")]) == 2


def test_the_profile_says_what_the_model_can_do(gem):
    profile = ChatGem(gem, max_tokens=77).profile
    assert profile["max_input_tokens"] == gem.max_context
    assert profile["max_output_tokens"] == 77
    assert profile["tool_calling"]
    assert profile["structured_output"]
    assert not profile["image_inputs"]
    assert ChatGem(gem, profile={"max_input_tokens": 100}).profile == {"max_input_tokens": 100}


async def test_an_overflow_is_langchains_and_ours(gem):
    long = "sea " * 3000
    for model in (ChatGem(gem), GemLLM(gem)):
        for kind in (ContextOverflowError, ContextLengthError):
            with pytest.raises(kind, match="context window"):
                model.invoke(long)
            with pytest.raises(kind, match="context window"):
                await model.ainvoke(long)
            with pytest.raises(kind, match="context window"):
                list(model.stream(long))
            with pytest.raises(kind, match="context window"):
                _ = [piece async for piece in model.astream(long)]


def test_a_retry_that_shortens_runs(gem):
    chat = ChatGem(gem, max_tokens=4)
    shorter = (lambda text: text[:100]) | chat
    answer = chat.with_fallbacks([shorter], exceptions_to_handle=(ContextOverflowError,))
    assert answer.invoke("sea " * 3000).text is not None


# LlamaIndex


@pytest.mark.parametrize("name", ["max_tokens", "max_new_tokens", "num_output"])
def test_llama_indexs_longest_answer_by_any_name(gem, name):
    llm = llama_index.GemLLM(gem, **{name: 5})
    assert llm.metadata.num_output == 5
    assert llm.complete("Who?").raw["usage"]["completion_tokens"] == 5
    assert llm.complete("Who?", **{name: 2}).raw["usage"]["completion_tokens"] == 2


def test_a_smaller_context_window_is_told_and_a_larger_one_refused(gem):
    assert llama_index.GemLLM(gem, context_window=512).metadata.context_window == 512
    assert llama_index.GemLLM(gem).metadata.context_window == gem.max_context
    with pytest.raises(OptionError, match="context_window is 99999"):
        llama_index.GemLLM(gem, context_window=99999)


def test_llama_indexs_names_for_retrieving(gem, nodes):
    ann = MetadataFilters(filters=[MetadataFilter(key="user", value="ann")])
    retriever = llama_index.GemRetriever(nodes, gem, top_k=3, filter=ann)
    found = retriever.retrieve("steam")
    assert {node.metadata["user"] for node in found} == {"ann"}
    assert len(found) == 3
    assert len(llama_index.GemReranker(gem, top_k=1).postprocess_nodes(found, query_str="x")) == 1


@pytest.mark.parametrize(
    ("make", "named"),
    [
        (lambda g, s: llama_index.GemLLM(g, temprature=1), "'temprature'.*'temperature'"),
        (lambda g, s: llama_index.GemLLM(g).complete("Who?", n=2), "'n'"),
        (lambda g, s: llama_index.GemLLM(g).complete("Who?", logprobs=True), "'logprobs'"),
        (lambda g, s: llama_index.GemLLM(g, device="meta"), "loaded"),
        (lambda g, s: llama_index.GemEmbedding(g, embed_batchsize=1), "'embed_batch_size'"),
        (lambda g, s: llama_index.GemReranker(g, topn=1), "'topn'.*'top_n'"),
        (lambda g, s: llama_index.GemRetriever(s, g, similarity_topk=1), "'similarity_top_k'"),
        (lambda g, s: llama_index.GemRetriever(s, g, cutoff=1, similarity_cutoff=2), "one option"),
        (lambda g, s: llama_index.GemRetriever(s, g, similarity_top_k=1, k=3), "one option"),
        (lambda g, s: llama_index.GemVectorStore(kindd="flat"), "'kindd'.*'kind'"),
        (lambda g, s: llama_index.GemVectorStore(stores_text=False), "stores_text"),
        (lambda g, s: s.add([], namespace="a"), "namespace"),
        (lambda g, s: s.delete("doc", filters=None), "filters"),
        (lambda g, s: s.query(VectorStoreQuery(query_embedding=[1.0]), mmr_treshold=1), "mmr_thr"),
    ],
)
def test_what_llama_index_would_drop_is_named(gem, nodes, make, named):
    with pytest.raises((OptionError, ValueError, TypeError), match=f"(?s){named}"):
        make(gem, nodes)


# The core


def test_generation_options_by_other_names_and_with_the_likely_one(gem):
    assert gem.generate("Who?", max_tokens=3).usage.completion_tokens == 3
    with pytest.raises(OptionError, match=r"'temprature'; did you mean 'temperature'\?"):
        gem.generate("Who?", temprature=1)
    with pytest.raises(OptionError, match="one option"):
        gem.generate("Who?", max_tokens=3, max_new_tokens=4)
    with pytest.raises(OptionError, match="'filters'"):  # and not "nothing was found"
        GemRAG(gem).answer("Who?", filters={})


def test_time_is_up_for_what_waits_as_well(gem):
    def slow(ids, logits):
        time.sleep(0.05)
        return logits

    before = gem.engine.limits
    gem.engine.limits = Limits(rows=1)
    try:
        first = gem.submit("Who?", max_new_tokens=20, logits_hook=slow)
        second = gem.submit("Which?", timeout=0.2)
        with pytest.raises(GenerationTimeout, match="had 0 tokens"):
            second.result(timeout=0.6)
        assert first.result().usage.completion_tokens == 20
        with pytest.raises(GenerationTimeout):
            llama_index.GemLLM(gem, timeout=0.2).complete("Who?", logits_hook=slow)
    finally:
        gem.engine.limits = before


def test_the_name_is_a_string_in_both_frameworks(gem, folder, nodes):
    named = [
        GemEmbeddings(folder),
        ChatGem(folder),
        GemLLM(folder),
        GemReranker(folder),
        llama_index.GemEmbedding(folder),
        llama_index.GemLLM(folder),
        llama_index.GemReranker(folder),
        llama_index.GemRetriever(nodes, folder),
    ]
    assert {one.model for one in named} == {folder}
    assert len({id(one.gem) for one in named}) == 1
    assert all(isinstance(one.model, str) for one in (GemEmbeddings(gem), ChatGem(gem)))
