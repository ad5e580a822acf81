"""ChatGem and GemLLM on a tiny model: what LangChain's suites do not check."""

from __future__ import annotations

import asyncio
import json
import threading
import time

import pytest
from langchain_core.caches import InMemoryCache
from langchain_core.callbacks import BaseCallbackHandler
from langchain_core.load import dumpd, load
from langchain_core.messages import AIMessage, HumanMessage, SystemMessage, ToolMessage
from langchain_core.rate_limiters import InMemoryRateLimiter
from langchain_core.tools import tool
from pydantic import BaseModel, Field

from gem_rag import ChatGem, GemEmbeddings, GemLLM
from gem_rag.engine.slots import Slots
from gem_rag.errors import GemError


@pytest.fixture
def chat(gem):
    return ChatGem(gem, max_tokens=24)


@tool
def add(a: int, b: float) -> float:
    """Add two numbers."""
    return a + b


class Person(BaseModel):
    name: str
    age: int = Field(ge=0, le=150)
    tags: list[str]


def test_an_answer_carries_usage_and_the_models_name(chat):
    answer = chat.invoke("Who?")
    assert isinstance(answer, AIMessage)
    assert answer.usage_metadata["output_tokens"] == 24
    assert answer.usage_metadata["total_tokens"] == answer.usage_metadata["input_tokens"] + 24
    assert answer.response_metadata["model_name"]
    assert answer.response_metadata["finish_reason"] == "length"


def test_a_stream_adds_up_to_the_answer_with_usage(chat):
    whole = chat.invoke("Who?")
    full = None
    for chunk in chat.stream("Who?"):
        full = chunk if full is None else full + chunk
    assert full.content == whole.content
    assert full.usage_metadata == whole.usage_metadata
    assert full.response_metadata["model_name"] == whole.response_metadata["model_name"]


async def test_async_gives_the_same(chat):
    whole = chat.invoke("Who?")
    assert (await chat.ainvoke("Who?")).content == whole.content
    assert "".join([c.content async for c in chat.astream("Who?")]) == whole.content


def test_tokens_are_counted_by_the_model(gem, chat):
    text = "How long is the warranty?"
    assert chat.get_num_tokens(text) == len(gem.codec.encode(text))
    assert chat.get_token_ids(text) == gem.codec.encode(text)


def test_a_batch_is_generated_together_and_equals_single_calls(gem, chat, monkeypatch):
    questions = ["Who?", "Which rivers run to the sea?", "What is a kettle?"]
    single = [chat.invoke(q).content for q in questions]
    sizes = []
    run = Slots.run
    monkeypatch.setattr(
        Slots, "run", lambda self, slots, ids: sizes.append(len(slots)) or run(self, slots, ids)
    )
    assert [a.content for a in chat.batch(questions)] == single
    assert max(sizes) == 3


async def test_an_async_batch_is_generated_together(gem, chat, monkeypatch):
    sizes = []
    run = Slots.run
    monkeypatch.setattr(
        Slots, "run", lambda self, slots, ids: sizes.append(len(slots)) or run(self, slots, ids)
    )
    await chat.abatch(["Who?", "Which?"])
    assert max(sizes) == 2


def test_one_bad_request_in_a_batch_fails_alone(chat):
    good, bad = chat.batch(["Who?", "x " * 3000], return_exceptions=True)
    assert isinstance(good, AIMessage)
    assert isinstance(bad, GemError)


def test_stop_strings_span_tokens_and_never_leak(chat):
    text = chat.invoke("Who?").content
    stop = text[5:9]
    cut = chat.invoke("Who?", stop=[stop])
    assert cut.content == text[: text.index(stop)]
    assert "".join(c.content for c in chat.stream("Who?", stop=[stop])) == cut.content
    assert cut.response_metadata["finish_reason"] == "stop"


def test_settings_of_one_call_win(chat):
    assert chat.invoke("Who?", max_tokens=3).usage_metadata["output_tokens"] == 3
    warm = chat.bind(temperature=1.5, seed=7)
    assert warm.invoke("Who?").content == warm.invoke("Who?").content
    assert warm.invoke("Who?").content != chat.invoke("Who?").content


async def test_the_event_loop_goes_on_during_an_answer(chat):
    beats = []

    async def heart():
        while True:
            beats.append(time.perf_counter())
            await asyncio.sleep(0.005)

    task = asyncio.create_task(heart())
    await chat.ainvoke("Who?", max_tokens=200)
    async for _ in chat.astream("Who?", max_tokens=100):
        pass
    task.cancel()
    assert len(beats) > 20


async def test_cancelling_an_answer_stops_the_computation(gem, chat):
    task = asyncio.create_task(chat.ainvoke("Who?", max_tokens=900))
    await asyncio.sleep(0.2)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    started = time.perf_counter()
    await chat.ainvoke("Who?", max_tokens=1)
    assert time.perf_counter() - started < 5  # the worker is free again


def test_threads_get_their_own_answers(chat):
    questions = [f"Who wrote letter {i}?" for i in range(6)]
    expected = {q: chat.invoke(q).content for q in questions}
    found = {}

    def ask(question):
        found[question] = chat.invoke(question).content

    threads = [threading.Thread(target=ask, args=(q,)) for q in questions]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == expected


def test_one_copy_of_the_weights_serves_every_class(gem, tmp_path):
    folder = gem.save_pretrained(tmp_path / "checkpoint")
    chat, llm, embeddings = ChatGem(str(folder)), GemLLM(str(folder)), GemEmbeddings(str(folder))
    first = [p.data_ptr() for p in chat.gem.base.model.parameters()]
    for other in (llm.gem, embeddings.gem):
        assert [p.data_ptr() for p in other.base.model.parameters()] == first


@pytest.mark.parametrize("choice", ["any", "required", True, "add", {"function": {"name": "add"}}])
def test_forced_tool_calls_fit_the_signature(chat, choice):
    answer = chat.bind_tools([add], tool_choice=choice).invoke("Add", max_tokens=150)
    (call,) = answer.tool_calls
    assert call["name"] == "add"
    assert isinstance(call["args"]["a"], int)
    assert set(call["args"]) == {"a", "b"}
    assert call["id"]
    assert add.invoke(call).content


def test_streamed_tool_calls_are_whole(chat):
    bound = chat.bind_tools([add], tool_choice="any")
    full = None
    for chunk in bound.stream("Add", max_tokens=150):
        full = chunk if full is None else full + chunk
    assert full.content == ""
    assert full.tool_calls[0]["args"] == bound.invoke("Add", max_tokens=150).tool_calls[0]["args"]


@pytest.mark.parametrize("method", ["function_calling", "json_schema", "json_mode"])
@pytest.mark.parametrize("seed", range(3))
def test_structured_output_always_parses_and_fits(gem, seed, method):
    chat = ChatGem(gem, temperature=1.5, seed=seed)
    found = chat.with_structured_output(Person, method=method).invoke("Who?")
    assert isinstance(found, Person)
    assert 0 <= found.age <= 150


def test_structured_output_from_a_dict_and_with_the_raw_message(chat):
    schema = Person.model_json_schema()
    assert set(chat.with_structured_output(schema).invoke("Who?", max_tokens=200)) == {
        "name",
        "age",
        "tags",
    }
    roomy = ChatGem(chat.gem, max_tokens=200)
    out = roomy.with_structured_output(Person, include_raw=True).invoke("Who?")
    assert isinstance(out["parsed"], Person)
    assert out["raw"].tool_calls


def test_a_conversation_with_tools_is_rendered(gem, chat):
    call = {"name": "add", "args": {"a": 1, "b": 2}, "id": "1", "type": "tool_call"}
    messages = [
        SystemMessage("Be brief."),
        HumanMessage([{"type": "text", "text": "1 + 2?"}]),
        AIMessage([{"type": "tool_use", "id": "1", "name": "add", "input": {}}], tool_calls=[call]),
        ToolMessage("3", tool_call_id="1"),
    ]
    from langchain_gem_rag.messages import to_core

    text = gem.codec.prompt(to_core(messages))
    assert '"arguments": {"a": 1, "b": 2}' in text
    assert "3" in text
    assert chat.invoke(messages).content


def test_images_are_refused_by_name(chat):
    image = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}
    with pytest.raises(GemError, match="image_url"):
        chat.invoke([HumanMessage([image])])


def test_settings_survive_being_written_and_read(gem, tmp_path):
    folder = gem.save_pretrained(tmp_path / "checkpoint")
    chat = ChatGem(str(folder), max_tokens=7, stop=["x"])
    again = load(dumpd(chat), valid_namespaces=["langchain_gem_rag"], allowed_objects=[ChatGem])
    assert again.max_tokens == 7
    assert again.invoke("Who?").content == chat.invoke("Who?").content


def test_one_call_may_name_another_checkpoint(gem, chat, tmp_path):
    folder = str(gem.save_pretrained(tmp_path / "other"))
    assert chat.invoke("Who?", model=folder).content == chat.invoke("Who?").content


def test_caching_callbacks_and_rate_limits_work(gem):
    class Counts(BaseCallbackHandler):
        started = tokens = 0

        def on_chat_model_start(self, *args, **kwargs):
            self.started += 1

        def on_llm_new_token(self, *args, **kwargs):
            self.tokens += 1

    counts = Counts()
    limiter = InMemoryRateLimiter(requests_per_second=1000, max_bucket_size=10)
    chat = ChatGem(gem, max_tokens=8, cache=InMemoryCache(), rate_limiter=limiter)
    first = chat.invoke("Who?", config={"callbacks": [counts]})
    started = time.perf_counter()
    assert chat.invoke("Who?").content == first.content
    assert time.perf_counter() - started < 1
    assert list(chat.stream("Which?", config={"callbacks": [counts]}))
    assert counts.started == 2
    assert counts.tokens >= 1


def test_a_completion_cache_tells_settings_apart(gem):
    cache = InMemoryCache()
    short, long = (GemLLM(gem, max_tokens=n, cache=cache) for n in (2, 12))
    assert len(short.invoke("The kettle")) < len(long.invoke("The kettle"))
    assert long.invoke("The kettle").startswith(short.invoke("The kettle"))


def test_a_prompt_too_long_can_be_cut(gem, chat):
    long = "sea " * 3000
    for model in (chat, GemLLM(gem, max_tokens=4)):
        with pytest.raises(GemError, match="truncate=True"):
            model.invoke(long)
        assert model.invoke(long, truncate=True, max_new_tokens=4)
    assert ChatGem(gem, truncate=True, max_tokens=4).invoke(long, max_tokens=None).content


def test_an_interrupted_answer_is_not_computed_further(gem, chat, monkeypatch):
    waiting = []
    submit = type(gem).submit

    def interrupted(self, request, **options):
        future = submit(self, request, **options)
        waiting.append(future)
        monkeypatch.setattr(future, "result", raises, raising=False)
        return future

    def raises(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(type(gem), "submit", interrupted)
    for call in (lambda: chat.invoke("Who?", max_tokens=400), lambda: GemLLM(gem).invoke("Who")):
        with pytest.raises(KeyboardInterrupt):
            call()
        assert waiting.pop().cancelled()


def test_a_completion_model_continues_text_as_it_stands(gem):
    llm = GemLLM(gem, max_tokens=10)
    expected = gem.generate("The kettle", raw=True, max_new_tokens=10).text
    assert llm.invoke("The kettle") == expected
    assert "".join(llm.stream("The kettle")) == expected
    assert llm.batch(["The kettle", "Who"])[0] == expected
    result = llm.generate(["The kettle", "Who"])
    assert result.llm_output["token_usage"]["output_tokens"] == 20
    assert json.dumps(result.llm_output)


async def test_a_completion_models_async_twins_agree(gem):
    llm = GemLLM(gem, max_tokens=10)
    expected = llm.invoke("The kettle")
    assert await llm.ainvoke("The kettle") == expected
    assert "".join([piece async for piece in llm.astream("The kettle")]) == expected
    assert (await llm.abatch(["The kettle", "Who"]))[0] == expected
