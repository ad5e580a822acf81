"""LlamaIndex on one tiny GEM model: embedding, LLM, retriever, reranker, and all of it together."""

import asyncio
import pickle
import re
import runpy
import subprocess
import sys
import threading
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from llama_index.core import Document, PromptTemplate, Settings, StorageContext, VectorStoreIndex
from llama_index.core.base.llms.types import ImageBlock, TextBlock, ToolCallBlock
from llama_index.core.callbacks import CallbackManager, TokenCountingHandler
from llama_index.core.chat_engine import CondensePlusContextChatEngine
from llama_index.core.ingestion import DocstoreStrategy, IngestionPipeline
from llama_index.core.llms import ChatMessage
from llama_index.core.node_parser import SentenceSplitter
from llama_index.core.query_engine import RetrieverQueryEngine
from llama_index.core.schema import MetadataMode, NodeWithScore, QueryBundle, TextNode
from llama_index.core.storage.docstore import SimpleDocumentStore
from llama_index.core.storage.kvstore import SimpleKVStore
from llama_index.core.tools import FunctionTool
from llama_index.core.vector_stores.types import MetadataFilter, MetadataFilters
from pydantic import BaseModel, ConfigDict, Field

from gem_rag.engine.slots import Slots
from gem_rag.errors import GemError, GemIndexError
from gem_rag.model import GemModel
from gem_rag.store import ReadingStore
from llama_index_gem_rag import (
    GemEmbedding,
    GemLLM,
    GemReranker,
    GemRetriever,
    GemVectorStore,
    use_gem,
)

TEXTS = [
    "The kettle has a warranty of seven years.",
    "Rivers run to the sea.",
    "A young child is riding a grey horse!",
    "Who wrote the long letter about steam engines?",
]
QUESTION = "How long is the warranty?"
HELLO = [ChatMessage(role="user", content="Who wrote the letter?")]


@pytest.fixture
def llm(gem):
    return GemLLM(gem, max_tokens=12)


@pytest.fixture
def embed(gem):
    return GemEmbedding(gem)


@pytest.fixture
def store(gem, embed):
    store = GemVectorStore(embed_model=embed)
    nodes = [
        TextNode(id_=str(i), text=text, metadata={"n": i}, start_char_idx=i * 10)
        for i, text in enumerate(TEXTS)
    ]
    for node in nodes:
        node.embedding = embed.get_text_embedding(node.get_content(MetadataMode.EMBED))
    store.add(nodes)
    return store


async def beats_during(awaitable):
    """The result, and how often the loop came round while it was awaited."""
    beats = 0

    async def beat():
        nonlocal beats
        while True:
            await asyncio.sleep(0.001)
            beats += 1

    heart = asyncio.create_task(beat())
    result = await awaitable
    heart.cancel()
    return result, beats


def test_without_llama_index_the_missing_extra_is_named():
    code = (
        "import sys; sys.modules['llama_index'] = None; sys.modules['llama_index.core'] = None\n"
        "from gem_rag.errors import MissingExtraError\n"
        "try:\n    import llama_index_gem_rag\n"
        "except MissingExtraError as error:\n    print(error)"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "pip install 'gem-rag[llama-index]'" in run.stdout


def test_all_classes_share_one_copy_of_the_weights(gem, tmp_path):
    folder = gem.save_pretrained(tmp_path / "model")
    store = GemVectorStore()
    retriever = GemRetriever(store, folder)
    users = [
        GemEmbedding(folder).gem,
        GemEmbedding(str(folder)).gem,
        GemLLM(folder).gem,
        GemReranker(folder).readings.model,
        retriever.readings.model,
    ]
    pointers = {tuple(p.data_ptr() for p in model.base.model.parameters()) for model in users}
    assert len(pointers) == 1
    assert GemLLM(gem).gem is GemEmbedding(gem).gem is gem


# Embedding


def test_queries_are_not_texts_and_texts_are_unchanged(gem, embed):
    text = "Who wrote\nthe letter?"
    query = embed.get_query_embedding(text)
    np.testing.assert_allclose(query, gem.embed_query(text), atol=1e-6)
    as_text = embed.get_text_embedding(text)
    np.testing.assert_allclose(as_text, gem.embed_documents([text])[0], atol=1e-6)
    assert not np.allclose(query, as_text, atol=1e-3)
    assert not np.allclose(as_text, embed.get_text_embedding(text.replace("\n", " ")), atol=1e-4)
    assert np.linalg.norm(query) == pytest.approx(1, abs=1e-5)


def test_a_batch_is_the_same_as_one_by_one(gem):
    embed = GemEmbedding(gem, embed_batch_size=3)
    together = embed.get_text_embedding_batch(TEXTS)
    single = [embed.get_text_embedding(text) for text in TEXTS]
    np.testing.assert_allclose(together, single, atol=1e-5)
    assert embed.get_text_embedding_batch([]) == []


async def test_async_embedding_gives_the_same_without_blocking(embed):
    many = TEXTS * 10
    vectors, beats = await beats_during(embed.aget_text_embedding_batch(many))
    assert beats > 0
    np.testing.assert_allclose(vectors, embed.get_text_embedding_batch(many), atol=1e-5)
    (query, one) = await asyncio.gather(
        embed.aget_query_embedding(QUESTION), embed.aget_text_embedding(TEXTS[0])
    )
    np.testing.assert_allclose(query, embed.get_query_embedding(QUESTION), atol=1e-6)
    np.testing.assert_allclose(one, embed.get_text_embedding(TEXTS[0]), atol=1e-6)


async def test_a_cache_of_vectors_does_not_take_texts_for_queries(gem, embed):
    calls = CallbackManager([counter := TokenCountingHandler()])
    cached = GemEmbedding(gem, embeddings_cache=SimpleKVStore(), callback_manager=calls)
    text = TEXTS[0]
    as_text = cached.get_text_embedding(text)
    assert cached.get_text_embedding(text) == as_text
    query = pytest.approx(embed.get_query_embedding(text), abs=1e-6)
    assert cached.get_query_embedding(text) == query
    assert await cached.aget_query_embedding(text) == query
    assert cached.get_text_embedding(text) == as_text != query
    assert len(counter.embedding_token_counts) == 5


def test_embedding_from_several_threads(embed):
    expected = embed.get_text_embedding(TEXTS[0])
    found = []
    work = [
        threading.Thread(target=lambda: found.append(embed.get_text_embedding(TEXTS[0])))
        for _ in range(4)
    ]
    for thread in work:
        thread.start()
    for thread in work:
        thread.join()
    assert len(found) == 4
    np.testing.assert_allclose(found, [expected] * 4, atol=1e-5)


def test_embedding_with_kept_readings_is_the_same(gem, embed):
    readings = ReadingStore(gem)
    keeping = GemEmbedding(gem, readings=readings)
    np.testing.assert_allclose(
        keeping.get_text_embedding_batch(TEXTS), embed.get_text_embedding_batch(TEXTS), atol=1e-5
    )
    assert readings.info().in_memory == len(TEXTS)


def test_embedding_is_serialised_and_restored(gem, tmp_path):
    folder = str(gem.save_pretrained(tmp_path / "model"))
    embed = GemEmbedding(folder, embed_batch_size=7)
    again = GemEmbedding.from_dict(embed.to_dict())
    assert (again.model_name, again.embed_batch_size) == (folder, 7)
    assert again.fingerprint == gem.fingerprint == embed.to_dict()["fingerprint"]
    assert again.gem is embed.gem


def test_embedding_is_pickled_by_its_models_name(gem, tmp_path):
    """As an ingestion pipeline does for its worker processes."""
    embed = GemEmbedding(GemModel.from_pretrained(gem.save_pretrained(tmp_path / "model")))
    assert embed.model_name == str(tmp_path / "model")
    again = pickle.loads(pickle.dumps(embed))
    assert again.gem is embed.gem
    assert again.get_query_embedding("a") == pytest.approx(embed.get_query_embedding("a"))


# Completing and chatting


def test_metadata_is_true(gem, llm):
    metadata = llm.metadata
    assert metadata.context_window == gem.max_context
    assert metadata.num_output == 12
    assert metadata.is_chat_model
    assert metadata.is_function_calling_model
    assert metadata.model_name == gem.config.base.name


def test_complete_and_chat_say_what_the_model_says(gem, llm):
    expected = gem.generate("Who wrote the letter?", max_new_tokens=12)
    assert llm.complete("Who wrote the letter?").text == expected.text
    assert llm.chat(HELLO).message.content == expected.text
    assert llm.chat(HELLO).message.role == "assistant"


def test_a_formatted_prompt_is_taken_as_it_stands(gem, llm):
    expected = gem.generate("Rivers run", max_new_tokens=12, raw=True).text
    assert llm.complete("Rivers run", formatted=True).text == expected
    assert llm.complete("Rivers run").text != expected
    wrapping = GemLLM(gem, max_tokens=12, completion_to_prompt=lambda prompt: f"{prompt} run")
    assert wrapping.complete("Rivers").text == expected


def test_the_whole_conversation_reaches_the_model(gem, llm):
    messages = [
        ChatMessage(role="system", content="Be short."),
        ChatMessage(role="user", blocks=[TextBlock(text="One."), TextBlock(text="Two.")]),
        ChatMessage(role="assistant", content=None),
        ChatMessage(role="user", content="Three."),
    ]
    plain = [
        {"role": "system", "content": "Be short."},
        {"role": "user", "content": "One.\nTwo."},
        {"role": "assistant", "content": ""},
        {"role": "user", "content": "Three."},
    ]
    assert llm.chat(messages).message.content == gem.generate(plain, max_new_tokens=12).text


def test_what_is_not_text_is_refused(llm):
    picture = ImageBlock(image=b"\x89PNG\r\n\x1a\n" + b"0" * 20, image_mimetype="image/png")
    with pytest.raises(GemError, match="'image'; this model takes text only"):
        llm.chat([ChatMessage(role="user", blocks=[picture])])


def test_usage_is_in_raw(gem, llm):
    raw = llm.chat(HELLO).raw
    generation = gem.generate("Who wrote the letter?", max_new_tokens=12)
    assert raw["usage"]["prompt_tokens"] == generation.usage.prompt_tokens
    assert raw["usage"]["completion_tokens"] == generation.usage.completion_tokens
    assert raw["usage"]["total_tokens"] == generation.usage.total_tokens
    assert raw["finish_reason"] == generation.finish_reason
    assert raw["model"] == llm.model_name
    assert llm.complete("Who wrote the letter?").raw == raw
    assert list(llm.stream_chat(HELLO))[-1].raw == raw
    assert list(llm.stream_complete("Who wrote the letter?"))[-1].raw == raw


def test_llama_indexs_token_counter_counts_them(gem):
    counter = TokenCountingHandler()
    llm = GemLLM(gem, max_tokens=5, callback_manager=CallbackManager([counter]))
    usage = llm.chat(HELLO).raw["usage"]
    assert counter.prompt_llm_token_count == usage["prompt_tokens"]
    assert counter.completion_llm_token_count == usage["completion_tokens"]


def test_streams_grow_to_the_whole(llm):
    whole = llm.chat(HELLO).message.content
    for pieces in (list(llm.stream_chat(HELLO)), list(llm.stream_complete(HELLO[0].content))):
        assert "".join(piece.delta for piece in pieces) == whole
        assert len(pieces) > 2
    texts = [piece.message.content for piece in llm.stream_chat(HELLO)]
    assert all(later.startswith(earlier) for earlier, later in pairwise(texts))
    assert texts[-1] == whole


def test_options_of_a_call_go_before_the_objects(gem, llm):
    def tokens(**options):
        return llm.chat(HELLO, **options).raw["usage"]["completion_tokens"]

    assert tokens(max_tokens=3) == tokens(max_new_tokens=3) == 3
    assert llm.complete("Who?", max_tokens=2).raw["usage"]["completion_tokens"] == 2
    sampling = {"temperature": 1.5, "seed": 5, "top_p": 0.9, "top_k": 20}
    expected = gem.generate("Who wrote the letter?", max_new_tokens=12, **sampling).text
    assert llm.chat(HELLO, **sampling).message.content == expected
    assert llm.chat(HELLO, **{**sampling, "seed": 6}).message.content != expected
    assert llm.chat(HELLO).message.content != expected
    set_before = GemLLM(gem, max_tokens=12, **sampling)
    assert set_before.chat(HELLO).message.content == expected
    assert set_before.chat(HELLO, temperature=0).message.content == llm.chat(HELLO).message.content
    with pytest.raises(TypeError, match="no_such_option"):
        llm.chat(HELLO, no_such_option=1)


def test_stop_strings_may_span_tokens(gem, llm):
    whole = llm.chat(HELLO, max_tokens=30).message.content
    pieces = list(gem.stream("Who wrote the letter?", max_new_tokens=30))
    border = len("".join(pieces[:8]))
    stop = whole[border - 2 : border + 2]  # the end of one piece and the start of the next
    expected = whole[: whole.find(stop)]
    assert llm.chat(HELLO, max_tokens=30, stop=[stop]).message.content == expected
    assert llm.complete(HELLO[0].content, max_tokens=30, stop=stop).text == expected
    streamed = [r.delta for r in llm.stream_chat(HELLO, max_tokens=30, stop=[stop])]
    assert "".join(streamed) == expected
    assert GemLLM(gem, max_tokens=30, stop=[stop]).chat(HELLO).message.content == expected
    assert llm.chat(HELLO, max_tokens=30, stop=[stop]).raw["finish_reason"] == "stop"


async def test_async_twins_give_the_same(llm):
    chat, complete = llm.chat(HELLO), llm.complete("Who?")
    assert (await llm.achat(HELLO)).message.content == chat.message.content
    assert (await llm.achat(HELLO)).raw == chat.raw
    assert (await llm.acomplete("Who?")).raw == complete.raw
    assert (await llm.acomplete("Rivers", formatted=True)).text == (
        llm.complete("Rivers", formatted=True).text
    )
    streamed = [r async for r in await llm.astream_chat(HELLO)]
    assert "".join(r.delta for r in streamed) == chat.message.content
    assert streamed[-1].raw == chat.raw
    streamed = [r async for r in await llm.astream_complete("Who?")]
    assert "".join(r.delta for r in streamed) == streamed[-1].text == complete.text


async def test_the_loop_runs_on_during_a_long_generation(llm):
    async def stream_all():
        return [r async for r in await llm.astream_chat(HELLO, **long)]

    long = {"max_tokens": 120, "temperature": 2.0, "seed": 3}
    for call in (llm.achat(HELLO, **long), llm.acomplete("Who?", **long), stream_all()):
        _, beats = await beats_during(call)
        assert beats >= 10


async def test_leaving_an_async_stream_stops_the_computation(gem, llm):
    steps = 0

    def count(_, logits):
        nonlocal steps
        steps += 1
        return logits

    stream = await llm.astream_chat(HELLO, max_tokens=200, logits_hook=count)
    async for response in stream:
        if response.delta:
            break
    await stream.aclose()
    await asyncio.sleep(0.2)  # what was under way, a few tokens
    after = steps
    await asyncio.sleep(0.1)
    assert steps == after < 20


@pytest.mark.parametrize("streamed", [False, True])
async def test_cancelling_stops_the_computation(llm, streamed):
    steps = 0

    def count(_, logits):
        nonlocal steps
        steps += 1
        return logits

    async def ask():
        if streamed:
            return [r async for r in await llm.astream_chat(HELLO, **options)]
        return await llm.achat(HELLO, **options)

    options = {"max_tokens": 400, "logits_hook": count}
    task = asyncio.create_task(ask())
    while steps < 3:
        await asyncio.sleep(0.001)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await asyncio.sleep(0.3)
    after = steps
    await asyncio.sleep(0.1)
    assert steps == after < 400


async def test_async_calls_at_one_time_are_generated_together_and_the_same(gem, llm, monkeypatch):
    batches = []
    run = Slots.run
    monkeypatch.setattr(
        Slots, "run", lambda self, slots, ids: batches.append(len(slots)) or run(self, slots, ids)
    )
    questions = ["Who?", "Who wrote the letter?", "Is it a river?"]
    answers = await asyncio.gather(*[llm.acomplete(question) for question in questions])
    assert max(batches) == 3
    assert [a.text for a in answers] == [llm.complete(question).text for question in questions]


def test_system_prompt_and_predict(gem):
    llm = GemLLM(gem, max_tokens=8, system_prompt="Be short.")
    messages = [{"role": "system", "content": "Be short."}, {"role": "user", "content": "Say x"}]
    expected = gem.generate(messages, max_new_tokens=8).text
    assert llm.predict(PromptTemplate("Say {what}"), what="x") == expected


def test_llm_is_serialised_and_restored(gem, tmp_path):
    folder = str(gem.save_pretrained(tmp_path / "model"))
    llm = GemLLM(folder, max_tokens=7, temperature=0.5, seed=3, stop=["x"])
    again = GemLLM.from_dict(llm.to_dict())
    assert (again.max_tokens, again.temperature, again.seed, again.stop) == (7, 0.5, 3, ["x"])
    assert again.gem is llm.gem
    assert llm.to_dict()["class_name"] == "GemLLM"


# Structured answers


class Place(BaseModel):
    """Somewhere."""

    model_config = ConfigDict(extra="forbid")
    name: str = Field(max_length=12)
    size: int
    near_sea: bool


WHERE = PromptTemplate("Where is {what}?")
WILD = {"temperature": 1.5, "max_tokens": 200}


@pytest.mark.parametrize("seed", range(4))
def test_structured_predict_always_gives_the_class(llm, seed):
    place = llm.structured_predict(Place, WHERE, {**WILD, "seed": seed}, what="the kettle")
    assert isinstance(place, Place)


async def test_async_and_streamed_structured_predict_give_the_same(llm):
    options = {**WILD, "seed": 1}
    place = llm.structured_predict(Place, WHERE, options, what="it")
    assert await llm.astructured_predict(Place, WHERE, options, what="it") == place
    grown = list(llm.stream_structured_predict(Place, WHERE, options, what="it"))
    assert grown[-1] == place
    assert len(grown) > 3
    assert any(part.name is not None and part.near_sea is None for part in grown[:-1])
    stream = await llm.astream_structured_predict(Place, WHERE, options, what="it")
    assert [part.model_dump() async for part in stream] == [part.model_dump() for part in grown]


async def test_as_structured_llm(llm):
    structured = llm.as_structured_llm(Place)
    options = {**WILD, "seed": 2}
    response = structured.chat(HELLO, **options)
    assert isinstance(response.raw, Place)
    assert Place.model_validate_json(response.message.content) == response.raw
    assert (await structured.achat(HELLO, **options)).raw == response.raw
    assert structured.complete(HELLO[0].content, **options).raw == response.raw
    assert list(structured.stream_chat(HELLO, **options))[-1].raw == response.raw


def test_a_schema_in_a_call(llm):
    text = llm.chat(HELLO, schema=Place.model_json_schema(), max_tokens=200).message.content
    Place.model_validate_json(text)


# Tools


def add(a: int, b: int) -> int:
    """Add two numbers."""
    return a + b


def shout(text: str) -> str:
    """Say it loudly."""
    return text.upper()


ADD, SHOUT = FunctionTool.from_defaults(add), FunctionTool.from_defaults(shout)
CALLING = {"temperature": 1.0, "max_tokens": 200, "seed": 4}


async def test_a_tool_is_called_where_one_is_required(llm):
    asked = {"tools": [ADD, SHOUT], "user_msg": "2 and 3?", "tool_required": True, **CALLING}
    response = llm.chat_with_tools(**asked)
    (call,) = llm.get_tool_calls_from_response(response)
    assert call.tool_name in ("add", "shout")
    assert set(call.tool_kwargs) == ({"a", "b"} if call.tool_name == "add" else {"text"})
    assert call.tool_id
    same = llm.get_tool_calls_from_response(await llm.achat_with_tools(**asked))
    assert [(c.tool_name, c.tool_kwargs) for c in same] == [(call.tool_name, call.tool_kwargs)]
    last = list(llm.stream_chat_with_tools(**asked))[-1]
    (streamed,) = llm.get_tool_calls_from_response(last)
    assert (streamed.tool_name, streamed.tool_kwargs) == (call.tool_name, call.tool_kwargs)
    stream = await llm.astream_chat_with_tools(**asked)
    (streamed,) = llm.get_tool_calls_from_response([r async for r in stream][-1])
    assert (streamed.tool_name, streamed.tool_kwargs) == (call.tool_name, call.tool_kwargs)


@pytest.mark.parametrize(
    ("choice", "expected"),
    [
        ("add", "add"),
        ("shout", "shout"),
        ({"type": "function", "function": {"name": "add"}}, "add"),
    ],
    ids=str,
)
def test_the_tool_chosen_is_the_tool_called(llm, choice, expected):
    response = llm.chat_with_tools([ADD, SHOUT], "Do it.", tool_choice=choice, **CALLING)
    assert [c.tool_name for c in llm.get_tool_calls_from_response(response)] == [expected]


def test_no_tool_no_call(llm):
    response = llm.chat_with_tools([ADD], "Do it.", tool_choice="none", max_tokens=5)
    assert llm.get_tool_calls_from_response(response, error_on_no_tool_call=False) == []
    with pytest.raises(ValueError, match="tool_required=True"):
        llm.get_tool_calls_from_response(response)
    assert llm.chat_with_tools([], "Do it.", max_tokens=5).message.content is not None


def test_predict_and_call_runs_the_tool(llm):
    answer = llm.predict_and_call([ADD], "2 and 3?", tool_choice="add", **CALLING)
    (output,) = answer.sources
    assert output.tool_name == "add"
    assert output.raw_output == sum(output.raw_input["kwargs"].values())


def test_only_one_call_where_parallel_ones_are_not_allowed(llm):
    from llama_index.core.base.llms.types import ChatResponse

    calls = [ToolCallBlock(tool_call_id=str(i), tool_name="add", tool_kwargs={}) for i in range(2)]
    response = ChatResponse(message=ChatMessage(role="assistant", blocks=list(calls)))
    both = llm._validate_chat_with_tools_response(response, [ADD], True)
    assert both.message.blocks == calls
    one = llm._validate_chat_with_tools_response(response, [ADD], False)
    assert one.message.blocks == calls[:1]


def test_calls_and_results_reach_the_model(gem, llm):
    call = ToolCallBlock(tool_call_id="c1", tool_name="add", tool_kwargs='{"a": 2, "b": 3}')
    messages = [
        ChatMessage(role="user", content="2 and 3?"),
        ChatMessage(role="assistant", blocks=[call]),
        ChatMessage(role="tool", content="5", additional_kwargs={"tool_call_id": "c1"}),
    ]
    plain = [
        {"role": "user", "content": "2 and 3?"},
        {
            "role": "assistant",
            "content": "",
            "tool_calls": [{"name": "add", "arguments": {"a": 2, "b": 3}}],
        },
        {"role": "tool", "content": "5", "name": "add"},
    ]
    assert llm.chat(messages).message.content == gem.generate(plain, max_new_tokens=12).text


async def test_in_an_agent(gem):
    from llama_index.core.agent.workflow import FunctionAgent

    llm = GemLLM(gem, max_tokens=200, temperature=0.8, seed=1)
    heard = []

    def note(text: str) -> str:
        """Keep a note."""
        heard.append(text)
        return "kept"

    tool = FunctionTool.from_defaults(note, return_direct=True)
    agent = FunctionAgent(tools=[tool], llm=llm, initial_tool_choice="note", system_prompt="Hi.")
    response = await agent.run("Keep a note.")
    assert len(heard) == 1
    assert [call.tool_name for call in response.tool_calls] == ["note"]


# Retrieving and ranking


def test_the_retriever_ranks_by_query_likelihood(gem, store):
    retriever = GemRetriever(store, gem, similarity_top_k=4)
    nodes = retriever.retrieve(QUESTION)
    scores = [node.score for node in nodes]
    assert len(scores) == 4
    assert scores == sorted(scores, reverse=True)
    texts = [node.node.get_content(MetadataMode.EMBED) for node in nodes]
    likely = {r.index: r.score / -r.floor for r in gem.rank(QUESTION, texts)}
    cosines = gem.embed_documents(texts) @ gem.embed_query(QUESTION)
    words = {hit.id: hit.word_score for hit in store.client.search(text=QUESTION)}
    weights = gem.config.relevance
    expected = [
        likely[i] + weights.words * words.get(n.node_id, 0.0) + weights.cosine * cosines[i]
        for i, n in enumerate(nodes)
    ]
    np.testing.assert_allclose(scores, expected, atol=1e-3)
    assert nodes[0].node.start_char_idx == int(nodes[0].node_id) * 10


def test_the_query_is_not_embedded_as_a_text(gem, store):
    retriever = GemRetriever(store, gem, mode="vector", rank=False, similarity_top_k=4)
    nodes = retriever.retrieve(TEXTS[0])
    vector = gem.embed_query(TEXTS[0])
    texts = [n.node.get_content(MetadataMode.EMBED) for n in nodes]
    cosines = gem.embed_documents(texts) @ vector
    np.testing.assert_allclose([n.score for n in nodes], cosines, atol=1e-5)
    assert list(cosines) == sorted(cosines, reverse=True)


async def test_retriever_options(gem, store):
    def ids(**options):
        return [n.node_id for n in GemRetriever(store, gem, **options).retrieve(QUESTION)]

    assert len(ids(similarity_top_k=3)) == 3
    assert len(ids(similarity_top_k=4, candidates=1)) == 4
    assert ids(candidates=1, similarity_top_k=1) == ids(rank=False, similarity_top_k=1)
    some = MetadataFilters(filters=[MetadataFilter(key="n", value=[1, 3], operator="in")])
    assert set(ids(filters=some, similarity_top_k=2)) == {"1", "3"}
    scored = GemRetriever(store, gem, similarity_top_k=4).retrieve(QUESTION)
    assert ids(similarity_top_k=4, cutoff=scored[1].score - 1e-4) == [n.node_id for n in scored[:2]]
    assert ids(cutoff=100.0) == []
    plain = ids(rank=False, similarity_top_k=4)
    assert ids(rank=False, similarity_top_k=4, mmr_threshold=1.0) == plain
    assert set(ids(rank=False, similarity_top_k=4, mmr_threshold=0.1)) == set(plain)
    with pytest.raises(GemError, match="similarity_top_k 0"):
        GemRetriever(store, gem, similarity_top_k=0)


async def test_the_async_retriever_gives_the_same_without_blocking(gem, store):
    retriever = GemRetriever(store, gem, similarity_top_k=3)
    nodes, beats = await beats_during(retriever.aretrieve(QUESTION))
    assert beats > 0
    expected = GemRetriever(store, gem, similarity_top_k=3).retrieve(QUESTION)
    assert [n.node_id for n in nodes] == [n.node_id for n in expected]
    assert [n.score for n in nodes] == pytest.approx([n.score for n in expected], abs=1e-4)


def test_kept_readings_are_not_read_again(gem, count_reads):
    """From ingestion to ranking each node is read once."""
    readings = ReadingStore(gem)
    embed = GemEmbedding(gem, readings=readings)
    store = GemVectorStore(embed_model=embed)
    nodes = [TextNode(id_=str(i), text=text, metadata={"n": i}) for i, text in enumerate(TEXTS)]
    context = StorageContext.from_defaults(vector_store=store)
    VectorStoreIndex(nodes, storage_context=context, embed_model=embed)
    count_reads.clear()
    fresh = GemRetriever(store, gem, similarity_top_k=4)
    expected = fresh.retrieve(QUESTION)
    assert len(count_reads) == len(TEXTS)
    count_reads.clear()
    nodes = GemRetriever(store, gem, similarity_top_k=4, readings=readings).retrieve(QUESTION)
    assert fresh.retrieve(QUESTION) == expected
    assert count_reads == []
    assert [n.node_id for n in nodes] == [n.node_id for n in expected]


def test_vectors_and_readings_of_another_model_are_errors(gem, store, base_folder):
    from gem_rag.config import AdapterConfig
    from gem_rag.model import create

    other = create(base_folder, num_special_tokens=3, adapter=AdapterConfig(rank=4, alpha=8))
    assert other.fingerprint != gem.fingerprint
    with pytest.raises(GemIndexError, match=r"model|fingerprint"):
        GemRetriever(store, other).retrieve(QUESTION)
    unknown = GemVectorStore()
    unknown.add([TextNode(text="x", embedding=[1.0] * gem.dim)])
    with pytest.raises(GemIndexError, match="does not say which model"):
        GemRetriever(unknown, gem).retrieve(QUESTION)
    foreign = ReadingStore(gem)
    other.parts.reading_fingerprint = "another"
    with pytest.raises(GemError, match="another model"):
        GemReranker(other, readings=foreign)
    with pytest.raises(GemError, match="give a ReadingStore of this model"):
        GemEmbedding(other, readings=foreign)


async def test_the_reranker(gem):
    nodes = [NodeWithScore(node=TextNode(id_=str(i), text=t)) for i, t in enumerate(TEXTS)]
    expected = gem.rank(QUESTION, TEXTS)
    reranker = GemReranker(gem)
    ranked = reranker.postprocess_nodes(nodes, query_str=QUESTION)
    assert [int(n.node_id) for n in ranked] == [r.index for r in expected]
    assert [n.score for n in ranked] == pytest.approx([r.score for r in expected], abs=1e-4)
    assert [n.score for n in nodes] == [None] * 4  # those given are left as they are
    again = await reranker.apostprocess_nodes(nodes, QueryBundle(QUESTION))
    assert again == ranked
    assert GemReranker(gem, top_n=2).postprocess_nodes(nodes, query_str=QUESTION) == ranked[:2]
    above = GemReranker(gem, cutoff=ranked[0].score - 1e-4)
    assert [n.node_id for n in above.postprocess_nodes(nodes, query_str=QUESTION)] == [
        ranked[0].node_id
    ]
    assert reranker.postprocess_nodes([], query_str=QUESTION) == []
    with pytest.raises(ValueError, match="needs the question"):
        reranker.postprocess_nodes(nodes)
    assert reranker.readings.info().in_memory == 4


# Together


@pytest.fixture
def settings(gem):
    before = dict(vars(Settings))
    use_gem(gem)
    Settings.llm.max_tokens = 10
    yield Settings
    vars(Settings).clear()
    vars(Settings).update(before)
    from llama_index.core.utils import set_global_tokenizer

    set_global_tokenizer(None)


DOCUMENTS = [Document(id_=f"d{i}", text=text) for i, text in enumerate(TEXTS)]


def test_use_gem_sets_everything_from_one_model(gem, settings):
    assert settings.llm.gem is settings.embed_model.gem is gem
    assert use_gem(gem, max_tokens=9, temperature=0.1) is gem
    assert (settings.llm.max_tokens, settings.llm.temperature) == (9, 0.1)
    assert settings.tokenizer("Rivers run") == gem.codec.backend.encode("Rivers run").ids


def gem_index(gem):
    store = GemVectorStore(embed_model=GemEmbedding(gem))
    context = StorageContext.from_defaults(vector_store=store)
    return VectorStoreIndex.from_documents(DOCUMENTS, storage_context=context)


async def test_a_query_may_be_embedded_by_other_texts(gem):
    store = GemVectorStore(embed_model=GemEmbedding(gem))
    nodes = [TextNode(text=t, embedding=gem.embed_documents([t])[0].tolist()) for t in TEXTS if t]
    store.add(nodes)
    retriever = GemRetriever(store, gem, rank=False, similarity_top_k=2)
    bundle = QueryBundle("Who?", custom_embedding_strs=["Rivers run", "to the sea"])
    mean = gem.embed_queries(bundle.embedding_strs).mean(0)
    expected = retriever.retrieve(QueryBundle("Who?", embedding=mean.tolist()))
    assert [n.score for n in retriever.retrieve(bundle)] == [n.score for n in expected]
    assert await retriever.aretrieve(bundle) == expected


async def test_in_a_vector_store_index(gem, settings):
    index = gem_index(gem)
    retriever = index.as_retriever(similarity_top_k=2)
    nodes = retriever.retrieve(QUESTION)
    vectors = gem.embed_documents(TEXTS) @ gem.embed_query(QUESTION)
    best = np.argsort(-vectors)[:2]
    assert [n.node.ref_doc_id for n in nodes] == [f"d{i}" for i in best]
    assert [n.score for n in nodes] == pytest.approx(vectors[best].tolist(), abs=1e-5)
    assert await retriever.aretrieve(QUESTION) == nodes
    mmr = index.as_retriever(
        vector_store_query_mode="mmr", vector_store_kwargs={"mmr_threshold": 1.0}
    )
    assert [n.node_id for n in mmr.retrieve(QUESTION)] == [n.node_id for n in nodes]
    index.delete_ref_doc("d0")
    index.insert(Document(id_="new", text="A new letter."))
    left = {n.ref_doc_id for n in index.vector_store.get_nodes()}
    assert left == {"d1", "d2", "d3", "new"}


def test_an_index_is_reopened_from_its_folder(gem, settings, tmp_path):
    embed = GemEmbedding(gem)
    store = GemVectorStore(tmp_path / "index", embed)
    context = StorageContext.from_defaults(vector_store=store)
    index = VectorStoreIndex.from_documents(DOCUMENTS, storage_context=context)
    before = index.as_retriever().retrieve(QUESTION)
    store.close()
    again = VectorStoreIndex.from_vector_store(GemVectorStore(tmp_path / "index", embed))
    assert again.as_retriever().retrieve(QUESTION) == before


async def test_in_a_retriever_query_engine(gem, settings):
    store = gem_index(gem).vector_store
    retriever = GemRetriever(store, gem, similarity_top_k=2)
    engine = RetrieverQueryEngine.from_args(retriever, node_postprocessors=[GemReranker(gem)])
    response = engine.query(QUESTION)
    assert response.response
    assert len(response.source_nodes) == 2
    asynchronous = await engine.aquery(QUESTION)
    assert asynchronous.response == response.response
    streaming = RetrieverQueryEngine.from_args(
        retriever, node_postprocessors=[GemReranker(gem)], streaming=True
    )
    assert "".join(streaming.query(QUESTION).response_gen) == response.response


@pytest.mark.parametrize("mode", ["context", "condense_plus_context", "condense_question", "best"])
async def test_in_a_chat_engine(gem, settings, mode):
    settings.llm.max_tokens = 6
    engine = gem_index(gem).as_chat_engine(chat_mode=mode, similarity_top_k=1)
    first = engine.chat("How long is the warranty?")
    assert isinstance(first.response, str)
    second = await engine.achat("And the river?")
    assert isinstance(second.response, str)
    assert len(engine.chat_history) >= 4 or mode == "best"


def test_in_a_streaming_chat_engine_over_the_retriever(gem, settings):
    retriever = GemRetriever(gem_index(gem).vector_store, gem)
    engine = CondensePlusContextChatEngine.from_defaults(retriever)
    streamed = engine.stream_chat(QUESTION)
    text = "".join(streamed.response_gen)
    assert text
    assert streamed.response == text.strip()
    assert len(streamed.source_nodes) == 2


async def test_in_an_ingestion_pipeline(gem, settings):
    store = GemVectorStore(embed_model=GemEmbedding(gem))
    pipeline = IngestionPipeline(
        transformations=[SentenceSplitter(chunk_size=64, chunk_overlap=0), GemEmbedding(gem)],
        vector_store=store,
        docstore=SimpleDocumentStore(),
        docstore_strategy=DocstoreStrategy.UPSERTS_AND_DELETE,
    )
    assert len(pipeline.run(documents=DOCUMENTS)) == 4
    assert len(pipeline.run(documents=DOCUMENTS)) == 0  # nothing changed
    changed = [Document(id_="d0", text="The kettle is grey now."), *DOCUMENTS[2:]]
    assert len(await pipeline.arun(documents=changed)) == 1
    assert {n.text for n in store.get_nodes()} == {d.text for d in changed}


def test_the_chatbot_example_runs(gem, settings, tmp_path, capsys):
    example = Path(__file__).parent.parent / "examples" / "llama_index_chatbot.py"
    assert len(example.read_text().splitlines()) < 40
    for i, text in enumerate(TEXTS):
        (tmp_path / f"{i}.md").write_text(text)
    questions = iter([QUESTION, ""])
    main = runpy.run_path(str(example))["main"]
    main(tmp_path, model=gem, ask=lambda _: next(questions))
    said = capsys.readouterr().out
    assert said.count(".md]") == 1


@pytest.mark.model
def test_the_chatbot_example_finds_the_answer(default_model, settings, tmp_path, capsys):
    example = Path(__file__).parent.parent / "examples" / "llama_index_chatbot.py"
    for i, text in enumerate(TEXTS):
        (tmp_path / f"{i}.md").write_text(text)
    questions = iter(["How long is the warranty of the kettle?", ""])
    main = runpy.run_path(str(example))["main"]
    main(tmp_path, model=default_model, ask=lambda _: next(questions))
    said = capsys.readouterr().out
    assert "seven" in said or "7 years" in said
    assert "[0.md]" in said


def test_the_page_names_tests_that_exist():
    root = Path(__file__).parent
    page = (root.parent / "docs" / "llama-index.md").read_text()
    tests = "".join(f.read_text() for f in root.glob("test_*.py"))
    rows = [line.split("|") for line in page.splitlines() if line.startswith("| ")][1:]
    assert len(rows) > 15
    for _, what, ours, *_ in rows:
        named = re.findall(r"`(test_\w+)`", ours)
        assert named, f"{what}: no test stands behind this cell"
        for name in named:
            assert f"def {name}(" in tests, name


def test_the_page_on_the_tiny_model(gem, settings, tmp_path, monkeypatch):
    page = (Path(__file__).parent.parent / "docs" / "llama-index.md").read_text()
    (code,) = re.findall(r"```python\n(.*?)```", page, re.S)
    assert len([line for line in code.splitlines() if line.strip()]) <= 12
    monkeypatch.setattr(GemModel, "from_pretrained", lambda *_, **__: gem)
    monkeypatch.chdir(tmp_path)
    exec(compile(code.replace("use_gem()", "use_gem(max_tokens=16)"), "page", "exec"), {})
