"""The server as OpenAI's own client and LangChain's see it."""

import asyncio
import json

import numpy as np
import pytest

pytest.importorskip("fastapi")
openai = pytest.importorskip("openai")

from serving import running, settings_for  # noqa: E402

KETTLE = "The kettle has a warranty of seven years."
ASKED = [{"role": "user", "content": "How long is the warranty?"}]
WEATHER = {
    "type": "function",
    "function": {
        "name": "weather",
        "description": "The weather of a place.",
        "parameters": {
            "type": "object",
            "properties": {"warm": {"type": "boolean"}},
            "required": ["warm"],
        },
    },
}


@pytest.fixture(scope="module")
def server(tiny_checkpoint, tmp_path_factory):
    home = tmp_path_factory.mktemp("openai")
    notes = home / "notes"
    notes.mkdir()
    (notes / "kettle.md").write_text(KETTLE)
    with running(settings_for(home / "home", tiny_checkpoint, paths=[notes])) as found:
        found.all_ready(1)
        yield found


@pytest.fixture(scope="module")
def client(server):
    return openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0)


@pytest.fixture
def chat(client, server):
    def call(**more):
        asked = {"model": server.name, "messages": ASKED, "max_tokens": 6, **more}
        return client.chat.completions.create(**asked)

    return call


def test_one_model_has_three_names_the_plain_one_first(client, server):
    names = [model.id for model in client.models.list()]
    assert names == [server.name, f"{server.name}:docs", f"{server.name}:query"]
    assert client.models.retrieve(names[1]).id == names[1]
    with pytest.raises(openai.NotFoundError, match="there is no model 'gpt-4o'"):
        client.models.retrieve("gpt-4o")


# Embeddings


def test_embeddings_are_the_models_own(client, server, gem):
    found = client.embeddings.create(model=server.name, input=[KETTLE, "Rivers."])
    assert np.allclose(
        [one.embedding for one in found.data], gem.embed_documents([KETTLE, "Rivers."]), atol=1e-5
    )
    assert [one.index for one in found.data] == [0, 1]
    assert found.usage.prompt_tokens == found.usage.total_tokens > 5


@pytest.mark.parametrize("encoding", ["float", "base64"])
def test_both_encodings_say_the_same(server, client, encoding):
    import base64

    asked = {"model": server.name, "input": KETTLE, "encoding_format": encoding}
    (one,) = server.http.post("/v1/embeddings", json=asked).json()["data"]
    given = one["embedding"]
    if encoding == "base64":
        given = np.frombuffer(base64.b64decode(given), "<f4")
    expected = client.embeddings.create(model=server.name, input=KETTLE).data[0].embedding
    assert np.allclose(given, expected, atol=1e-6)


@pytest.mark.parametrize(
    ("suffix", "extra"), [(":query", {}), ("", {"extra_body": {"input_type": "query"}})]
)
def test_questions_are_embedded_as_questions(client, server, gem, suffix, extra):
    found = client.embeddings.create(model=server.name + suffix, input="Who wrote it?", **extra)
    assert np.allclose(found.data[0].embedding, gem.embed_query("Who wrote it?"), atol=1e-5)


@pytest.mark.parametrize(
    ("asked", "says"),
    [
        ({"input": [1, 2, 3]}, "check_embedding_ctx_length=False"),
        ({"input": [[1, 2], [3]]}, "check_embedding_ctx_length=False"),
        ({"input": []}, "0 texts"),
        ({"input": [""]}, "text 0 is ''"),
        ({"input": "a", "dimensions": 7}, "dimensions is 7; the model has 32"),
        ({"input": "word " * 2000}, "the model reads"),
        ({"input": "a", "extra_body": {"input_type": "picture"}}, "input_type"),
        ({"input": "a", "extra_body": {"instruction": "x"}}, "instruction"),
    ],
)
def test_what_would_be_embedded_silently_wrong_is_refused(client, server, asked, says):
    with pytest.raises(openai.BadRequestError) as caught:
        client.embeddings.create(model=server.name, **asked)
    assert says in caught.value.body["message"]
    assert caught.value.body["param"]


def test_the_models_own_dimensions_are_fine(client, server):
    found = client.embeddings.create(model=server.name, input="a", dimensions=32)
    assert len(found.data[0].embedding) == 32


# Chat


def test_a_completion_is_what_the_model_says(chat, gem):
    answer = chat()
    alone = gem.generate(ASKED, max_new_tokens=6)
    (choice,) = answer.choices
    assert choice.message.content == alone.text
    assert (choice.finish_reason, answer.usage.completion_tokens) == ("length", 6)
    assert answer.usage.prompt_tokens == alone.usage.prompt_tokens


def test_a_stream_is_the_completion_in_pieces_with_its_usage(chat):
    whole = chat()
    chunks = list(chat(stream=True, stream_options={"include_usage": True}))
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
    assert text == whole.choices[0].message.content
    assert len(chunks) > 4
    assert chunks[0].choices[0].delta.role == "assistant"
    assert chunks[-2].choices[0].finish_reason == "length"
    assert chunks[-1].usage.total_tokens == whole.usage.total_tokens
    assert len({chunk.id for chunk in chunks}) == 1


def test_stop_strings_end_it_and_are_not_shown(chat):
    whole = chat(max_tokens=12).choices[0].message.content
    stopped = chat(max_tokens=12, stop=[whole[4:7]]).choices[0]
    assert (stopped.message.content, stopped.finish_reason) == (whole[:4], "stop")


def test_a_seed_repeats_a_sample_and_several_answers_differ(chat):
    drawn = [chat(temperature=1.5, seed=s).choices[0].message.content for s in (3, 3, 4)]
    assert drawn[0] == drawn[1] != drawn[2]
    several = chat(temperature=1.5, seed=3, n=2)
    assert [one.message.content for one in several.choices] == [drawn[0], drawn[2]]
    chunks = chat(temperature=1.5, seed=3, n=2, stream=True)
    texts = ["", ""]
    for chunk in chunks:
        for one in chunk.choices:
            texts[one.index] += one.delta.content or ""
    assert texts == [drawn[0], drawn[2]]


def test_an_answer_fits_the_schema_it_was_given(chat):
    schema = {
        "type": "object",
        "properties": {"warm": {"type": "boolean"}},
        "required": ["warm"],
        "additionalProperties": False,
    }
    described = {"type": "json_schema", "json_schema": {"name": "it", "schema": schema}}
    answer = chat(response_format=described, max_tokens=40)
    assert isinstance(json.loads(answer.choices[0].message.content)["warm"], bool)
    assert chat(response_format={"type": "text"}).choices[0].message.content


def test_a_tool_is_called_and_its_result_taken(chat):
    answer = chat(tools=[WEATHER], tool_choice="required", max_tokens=60)
    (choice,) = answer.choices
    (call,) = choice.message.tool_calls
    assert (choice.finish_reason, call.function.name) == ("tool_calls", "weather")
    assert isinstance(json.loads(call.function.arguments)["warm"], bool)
    pieces = chat(tools=[WEATHER], tool_choice="required", max_tokens=60, stream=True)
    deltas = [c for chunk in pieces for c in chunk.choices[0].delta.tool_calls or []]
    assert deltas[0].function.name == "weather"
    assert json.loads("".join(d.function.arguments for d in deltas)) == json.loads(
        call.function.arguments
    )
    after = [
        *ASKED,
        choice.message.model_dump(exclude_none=True),
        {"role": "tool", "tool_call_id": call.id, "content": "It is warm."},
    ]
    assert chat(messages=after, tools=[WEATHER], tool_choice="none").choices[0].message.content


def test_logprobs_say_how_likely_each_token_was(chat, gem):
    import torch

    answer = chat(logprobs=True, top_logprobs=3).choices[0]
    places = answer.logprobs.content
    assert len(places) == 6  # a character may be several of them
    assert all(place.token in answer.message.content for place in places if place.bytes)
    assert [place.token for place in places] == [place.top_logprobs[0].token for place in places]
    assert all(len(place.top_logprobs) == 3 for place in places)  # greedy: the best is chosen

    seen = []
    gem.generate(ASKED, max_new_tokens=6, logits_hook=lambda _, row: seen.append(row) or row)
    expected = [float(torch.log_softmax(row.float(), 0).max()) for row in seen]
    assert np.allclose([place.logprob for place in places], expected, atol=1e-4)

    chunks = [c.choices[0] for c in chat(logprobs=True, stream=True)]
    told = [place for chunk in chunks if chunk.logprobs for place in chunk.logprobs.content]
    assert [place.logprob for place in told] == [place.logprob for place in places]
    assert told[0].top_logprobs == []


@pytest.mark.parametrize(
    "ignored",
    [
        {"user": "me"},
        {"metadata": {"a": "b"}, "store": True},
        {"reasoning_effort": "low"},
        {"service_tier": "auto"},
        {"logit_bias": {}, "frequency_penalty": 0, "presence_penalty": 0.0, "logprobs": False},
        {"modalities": ["text"]},
    ],
)
def test_fields_that_change_nothing_are_ignored(chat, ignored):
    assert chat(**ignored).choices[0].message.content == chat().choices[0].message.content


@pytest.mark.parametrize(
    ("refused", "param", "code"),
    [
        ({"logprobs": True, "tools": [WEATHER]}, "logprobs", "unsupported_parameter"),
        ({"top_logprobs": 2}, "top_logprobs", "invalid_value"),
        ({"top_logprobs": 21, "logprobs": True}, "top_logprobs", "invalid_value"),
        ({"logit_bias": {"5": 1}}, "logit_bias", "unsupported_parameter"),
        ({"presence_penalty": 0.5}, "presence_penalty", "unsupported_parameter"),
        ({"modalities": ["text", "audio"]}, "modalities", "unsupported_parameter"),
        ({"extra_body": {"repetition_penalty": 2}}, "repetition_penalty", "unsupported_parameter"),
        ({"extra_body": {"where": {"a": 1}}}, "where", "unsupported_parameter"),
        (
            {"tools": [{"type": "custom", "custom": {"name": "a"}}]},
            "tools",
            "unsupported_parameter",
        ),
        ({"temperature": 3}, "temperature", "invalid_value"),
        ({"n": 9}, "n", "invalid_value"),
        ({"messages": []}, "messages", "invalid_value"),
        ({"response_format": {"type": "xml"}}, "response_format", "invalid_value"),
        (
            {
                "response_format": {
                    "type": "json_schema",
                    "json_schema": {"name": "a", "schema": {"type": "wrong"}},
                }
            },
            "response_format",
            "invalid_schema",
        ),
        (
            {"messages": [{"role": "user", "content": "word " * 5000}]},
            "messages",
            "context_length_exceeded",
        ),
        (
            {
                "messages": [
                    {
                        "role": "user",
                        "content": [{"type": "image_url", "image_url": {"url": "data:,"}}],
                    }
                ]
            },
            "messages",
            "invalid_value",
        ),
    ],
)
@pytest.mark.parametrize("stream", [False, True])
def test_what_is_not_honoured_is_refused_by_name(chat, refused, param, code, stream):
    with pytest.raises(openai.BadRequestError) as caught:
        chat(stream=stream, **refused)
    assert (caught.value.body["param"], caught.value.body["code"]) == (param, code)
    assert caught.value.body["message"]


def test_an_unknown_model_is_404_in_openais_shape(chat):
    with pytest.raises(openai.NotFoundError) as caught:
        chat(model="gpt-4o")
    assert caught.value.code == "model_not_found"
    assert "expected one of tiny, tiny:docs, tiny:query" in caught.value.message
    with pytest.raises(openai.BadRequestError, match="embeds questions"):
        chat(model="tiny:query")


# Answers from the documents


def test_answers_from_documents_come_with_citations(chat, server):
    docs = {"model": f"{server.name}:docs", "extra_body": {"threshold": None}}
    answer = chat(**docs)
    (cited,) = answer.citations
    assert (cited["text"], cited["name"]) == (KETTLE, "kettle.md")
    assert answer.choices[0].message.content.endswith(" [1]")
    assert answer.choices[0].message.citations == answer.citations
    chunks = list(chat(stream=True, **docs))
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks)
    assert text.strip() == answer.choices[0].message.content
    assert chunks[-1].citations == answer.citations


def test_where_nothing_is_relevant_nothing_is_cited(chat, server):
    answer = chat(model=f"{server.name}:docs", extra_body={"threshold": 99.0})
    assert (answer.citations, answer.choices[0].finish_reason) == ([], "stop")
    assert "nothing" in answer.choices[0].message.content


def test_small_talk_ends_as_clients_of_the_protocol_know_it(chat, server):
    thanks = [{"role": "user", "content": "Thanks!"}]
    answer = chat(model=f"{server.name}:docs", messages=thanks)
    assert (answer.citations, answer.choices[0].finish_reason) == ([], "stop")


@pytest.mark.parametrize("refused", [{"tools": [WEATHER]}, {"n": 2}])
def test_answers_from_documents_are_one_and_plain(chat, server, refused):
    with pytest.raises(openai.BadRequestError, match="documents"):
        chat(model=f"{server.name}:docs", **refused)


# LangChain


def test_langchains_embeddings(server, gem):
    langchain_openai = pytest.importorskip("langchain_openai")
    options = {"base_url": f"{server.url}/v1", "api_key": "none", "model": server.name}
    found = langchain_openai.OpenAIEmbeddings(**options, check_embedding_ctx_length=False)
    assert np.allclose(found.embed_documents([KETTLE]), gem.embed_documents([KETTLE]), atol=1e-5)
    asking = langchain_openai.OpenAIEmbeddings(
        **{**options, "model": f"{server.name}:query"}, check_embedding_ctx_length=False
    )
    assert np.allclose(asking.embed_query(KETTLE), gem.embed_query(KETTLE), atol=1e-5)


def test_langchains_chat(server):
    langchain_openai = pytest.importorskip("langchain_openai")
    options = {"base_url": f"{server.url}/v1", "api_key": "none", "max_tokens": 6}
    llm = langchain_openai.ChatOpenAI(**options, model=server.name, stream_usage=True)
    whole = llm.invoke("How long is the warranty?")
    assert (whole.usage_metadata["output_tokens"], whole.response_metadata["finish_reason"]) == (
        6,
        "length",
    )
    chunks = list(llm.stream("How long is the warranty?"))
    assert "".join(chunk.content for chunk in chunks) == whole.content
    bound = langchain_openai.ChatOpenAI(**{**options, "max_tokens": 60}, model=server.name)
    called = bound.bind_tools([WEATHER], tool_choice="weather").invoke("Is it warm?")
    assert isinstance(called.tool_calls[0]["args"]["warm"], bool)

    async def both():
        return await asyncio.gather(llm.ainvoke("Who?"), llm.ainvoke("Why?"))

    assert all(answer.content for answer in asyncio.run(both()))


def test_langchains_structured_output(server):
    langchain_openai = pytest.importorskip("langchain_openai")
    from pydantic import BaseModel

    class Weather(BaseModel):
        """The weather."""

        warm: bool

    llm = langchain_openai.ChatOpenAI(
        base_url=f"{server.url}/v1", api_key="none", model=server.name, max_tokens=60
    )
    for method in ("json_schema", "function_calling"):
        answer = llm.with_structured_output(Weather, method=method).invoke("Is it warm?")
        assert isinstance(answer, Weather)


# Ranks


def test_documents_are_put_in_order_in_every_shape(server, gem):
    texts = ["Rivers run to the sea.", KETTLE]
    expected = [one.index for one in gem.rank("warranty of the kettle?", texts)]
    asked = {"query": "warranty of the kettle?", "documents": [texts[0], {"text": texts[1]}]}
    found = server.http.post("/v1/rerank", json={**asked, "model": server.name}).json()
    assert [one["index"] for one in found["results"]] == expected
    scores = [one["relevance_score"] for one in found["results"]]
    assert 1 > scores[0] > scores[1] > 0
    assert found["results"][0]["document"] == {"text": texts[expected[0]]}
    assert found["usage"]["total_tokens"] > 10
    best = server.http.post("/v1/rerank", json={**asked, "top_n": 1, "return_documents": False})
    assert [one.keys() for one in best.json()["results"]] == [{"index", "relevance_score"}]
    tei = {"query": asked["query"], "texts": texts, "raw_scores": True, "return_text": True}
    rows = server.http.post("/rerank", json=tei).json()
    assert [(row["index"], row["text"]) for row in rows] == [(i, texts[i]) for i in expected]
    answer = server.http.post("/v1/rerank", json={**asked, "model": "other"})
    assert (answer.status_code, answer.json()["error"]["code"]) == (404, "model_not_found")


def test_the_documentations_example_runs(server, capsys):
    import re
    from pathlib import Path

    page = (Path(__file__).parent.parent / "docs" / "server.md").read_text()
    (code,) = re.findall(r"```py\n(.*?)```", page, re.S)
    exec(code.replace("http://127.0.0.1:8377", server.url), found := {})
    assert len(found["vectors"].data) == 2
    assert found["questions"].embed_query("a") != found["passages"].embed_query("a")
    assert capsys.readouterr().out


def test_the_table_names_every_field_of_openais_client_and_keeps_its_word(server):
    import re
    from pathlib import Path

    from openai.types import embedding_create_params
    from openai.types.chat import completion_create_params

    page = (Path(__file__).parent.parent / "docs" / "server.md").read_text()
    rows = re.findall(r"^\| (.+?) \| (.+?) \|$", page, re.M)
    said = {name: what for names, what in rows for name in re.findall(r"`(\w+)", names)}
    chat = completion_create_params.CompletionCreateParamsBase.__annotations__
    fields = {*chat, "stream", *embedding_create_params.EmbeddingCreateParams.__annotations__}
    assert fields <= said.keys()
    plain = {"model": server.name, "messages": ASKED, "max_tokens": 2}
    for name in chat:
        body = {**plain, name: {"odd": True}}  # nothing that any field takes
        answer = server.http.post("/v1/chat/completions", json=body)
        expected = 200 if said[name] == "ignored" else 400
        assert (name, answer.status_code) == (name, expected)
        assert "not known" not in answer.text
