"""What comes out fits the schema, even from a random model that knows nothing."""

from __future__ import annotations

import copy
import json

import pytest
import torch

from gem_rag.compute.ranker import Ranked
from gem_rag.engine.bulk import Bulk
from gem_rag.engine.calls import parse_calls, without_calls
from gem_rag.engine.request import Requests
from gem_rag.errors import GemError
from gem_rag.text.codec import TextCodec
from gem_rag.text.template import ChatTemplate
from gem_rag.text.tools import Tool

PERSON = {
    "type": "object",
    "properties": {
        "name": {"type": "string"},
        "age": {"type": "integer"},
        "tags": {"type": "array", "items": {"type": "string"}},
        "kind": {"enum": ["a", "b"]},
    },
    "required": ["name", "age", "kind"],
    "additionalProperties": False,
}
ADD = {
    "type": "function",
    "function": {
        "name": "add",
        "description": "Add two numbers.",
        "parameters": {
            "type": "object",
            "properties": {"a": {"type": "integer"}, "b": {"type": "number"}},
            "required": ["a", "b"],
            "additionalProperties": False,
        },
    },
}
OTHER = {"name": "other", "parameters": {"type": "object"}}


@pytest.mark.parametrize("seed", range(12))
def test_json_fits_the_schema_whatever_a_random_model_would_say(gem, seed):
    result = gem.generate("Who?", schema=PERSON, max_new_tokens=200, temperature=1.5, seed=seed)
    found = json.loads(result.text)
    assert set(found) >= {"name", "age", "kind"}
    assert set(found) <= set(PERSON["properties"])
    assert isinstance(found["name"], str)
    assert isinstance(found["age"], int)
    assert found["kind"] in ("a", "b")
    assert result.finish_reason == "stop"


def test_streamed_json_is_the_same(gem):
    whole = gem.generate("Who?", schema=PERSON, max_new_tokens=150)
    assert "".join(gem.stream("Who?", schema=PERSON, max_new_tokens=150)) == whole.text


def test_batched_json_is_the_same(gem):
    prompts = ["Who?", "Which of the rivers runs to the sea?"]
    batch = gem.generate_batch(prompts, schema=PERSON, max_new_tokens=150)
    assert [g.text for g in batch] == [
        gem.generate(p, schema=PERSON, max_new_tokens=150).text for p in prompts
    ]


def test_a_schema_with_references(gem):
    tree = {
        "$defs": {
            "node": {
                "type": "object",
                "properties": {"children": {"type": "array", "items": {"$ref": "#/$defs/node"}}},
                "required": ["children"],
            }
        },
        "$ref": "#/$defs/node",
    }
    result = gem.generate("Tree", schema=tree, max_new_tokens=200, temperature=2.0, seed=3)
    assert "children" in json.loads(result.text)


def test_a_schema_that_cannot_be_enforced_is_refused(gem):
    with pytest.raises(GemError, match="cannot be enforced"):
        gem.generate("x", schema={"type": "nonsense"}, max_new_tokens=5)


@pytest.mark.parametrize("choice", ["any", "add"])
def test_a_forced_call_has_a_known_name_and_fitting_arguments(gem, choice):
    for seed in range(6):
        result = gem.generate(
            "Add 2 and 3",
            tools=[ADD, OTHER],
            tool_choice=choice,
            max_new_tokens=150,
            temperature=1.0,
            seed=seed,
        )
        (call,) = result.tool_calls
        assert call.name in ("add", "other") if choice == "any" else call.name == "add"
        if call.name == "add":
            assert isinstance(call.arguments["a"], int)
            assert len(call.arguments) == 2


@pytest.mark.parametrize(("score", "calls"), [(0.29, 0), (0.31, 1)])
def test_ranking_decides_for_a_model_that_knows_no_tools(gem, monkeypatch, score, calls):
    monkeypatch.setattr(Bulk, "rank", lambda *_: [Ranked(1, score, 0.0)])
    result = gem.generate("Hello", tools=[ADD, OTHER], max_new_tokens=200)
    assert len(result.tool_calls) == calls
    assert bool(result.text) == (not calls)
    if calls:
        assert result.tool_calls[0].name == "other"


def test_a_tools_result_is_answered_in_text(gem, monkeypatch):
    monkeypatch.setattr(Bulk, "rank", lambda *_: [Ranked(0, 9.0, 0.0)])
    messages = [{"role": "user", "content": "Add"}, {"role": "tool", "content": "5"}]
    assert gem.generate(messages, tools=[ADD], max_new_tokens=20).tool_calls == ()


@pytest.mark.model
@pytest.mark.parametrize(
    ("question", "tool"),
    [
        ("What is the weather in San Francisco, CA?", "get_weather"),
        ("Is it raining in Paris?", "get_weather"),
        ("Add 3 and 4", "add"),
        ("Hello, who are you?", None),
        ("Tell me a joke about cats.", None),
        ("Who wrote Faust?", None),
    ],
)
def test_the_default_model_calls_the_tool_that_is_asked_for(default_model, question, tool):
    place = {"type": "object", "properties": {"location": {"type": "string"}}}
    weather = {
        "name": "get_weather",
        "description": "Get weather at a location.",
        "parameters": {**place, "required": ["location"]},
    }
    result = default_model.generate(question, tools=[weather, ADD], max_new_tokens=60)
    assert [c.name for c in result.tool_calls] == ([] if tool is None else [tool])


def test_a_call_once_begun_is_held_to_the_grammar(gem):
    """The start of a call is put into the model's mouth; what follows must fit."""
    ids = gem.codec.encode("<tool_call>")
    hook = Requests(gem.reader, None).grammars.tools([Tool.of(ADD)], "auto", 100)

    def forced(generated, logits):
        if len(generated) < len(ids):
            logits = logits.clone()
            logits[ids[len(generated)]] = 1e9
            return logits
        return hook(generated, logits)

    result = gem.generate("Add", logits_hook=forced, max_new_tokens=100)
    (call,) = parse_calls(result.text)
    assert call.name == "add"


def test_a_call_after_some_words_is_held_to_the_grammar_too(gem, monkeypatch):
    monkeypatch.setattr(ChatTemplate, "renders_tools", True)  # nothing is decided by ranking
    ids = gem.codec.encode("So it is:<tool_call>")
    tools = {"tools": [ADD], "max_new_tokens": 100}
    start, grammars = Requests._constraint, []

    def led(self, options, known, choice, room):
        hook = start(self, options, known, choice, room)
        grammars.append(hook)

        def forced(generated, logits):
            if len(generated) < len(ids):
                return torch.zeros_like(logits).index_fill(
                    0, torch.tensor(ids[len(generated)]), 1e9
                )
            return hook(generated, logits)

        return forced

    monkeypatch.setattr(Requests, "_constraint", led)
    result = gem.generate("Add", **tools)
    (call,) = result.tool_calls
    assert call.name == "add"
    assert result.text == "So it is:"
    with gem.stream("Add", **tools) as stream:
        assert "".join(stream) == "So it is:"
    assert stream.generation.tool_calls == result.tool_calls


def test_calls_of_tools_that_were_not_offered_are_text():
    text = 'Look: <tool_call>{"name": "nope", "arguments": {}}</tool_call>'
    assert parse_calls(text, ["add"]) == ()
    assert parse_calls(text)[0].name == "nope"
    assert "".join(without_calls(iter(["Look: <tool", *text[11:]]), ["add"])) == text
    assert "".join(without_calls(iter(text), ["nope"])) == "Look: "
    assert list(without_calls(iter(["a < b ", "<tool", "s>"]), ["add"])) == ["a < b ", "<tools>"]


def test_none_hides_the_tools(gem):
    without = gem.generate("Hello", max_new_tokens=10)
    hidden = gem.generate("Hello", tools=[ADD], tool_choice="none", max_new_tokens=10)
    assert hidden.prompt_ids == without.prompt_ids


def test_an_unknown_tool_is_named(gem):
    with pytest.raises(GemError, match=r"'nope'.*add"):
        gem.generate("x", tools=[ADD], tool_choice="nope", max_new_tokens=5)


def test_tools_calls_and_results_reach_a_template_that_knows_none_of_them(gem):
    messages = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": [{"type": "text", "text": "2 + 3?"}]},
        {
            "role": "assistant",
            "content": None,
            "tool_calls": [{"name": "add", "arguments": {"a": 2, "b": 3}}],
        },
        {"role": "tool", "name": "add", "content": "5"},
    ]
    text = gem.codec.prompt(messages, tools=[Tool.of(ADD)])
    assert "Be brief." in text
    assert "Add two numbers." in text
    assert "2 + 3?" in text
    assert '<tool_call>{"name": "add", "arguments": {"a": 2, "b": 3}}</tool_call>' in text
    assert "Result of add: 5" in text


def test_a_template_that_knows_tools_renders_them_itself(gem):
    tokenizer = copy.deepcopy(gem.codec.tokenizer)
    tokenizer.chat_template = (
        "{% for t in tools %}TOOL {{ t.function.name }}{% endfor %}<tool_call>"
    )
    assert "TOOL add" in TextCodec(tokenizer).prompt("x", tools=[Tool.of(ADD)])


def test_a_template_without_a_system_role_gets_its_words_in_the_users_message(gem):
    tokenizer = copy.deepcopy(gem.codec.tokenizer)
    tokenizer.chat_template = (
        "{% for m in messages %}{% if m.role == 'system' %}{{ raise_exception('no') }}{% endif %}"
        "[{{ m.role }}] {{ m.content }}{% endfor %}"
    )
    messages = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hi"}]
    assert TextCodec(tokenizer).prompt(messages) == "[user] Be brief.\n\nHi"


def test_a_long_prompt_beside_it_shortens_no_structured_answer(gem):
    prompts = ["sea " * 950, "Who?"]
    options = {"schema": PERSON, "max_new_tokens": 150}
    batch = gem.generate_batch(prompts, **options)
    assert gem.max_context - len(batch[0].prompt_ids) < 100  # its own answer has to close early
    assert [g.text for g in batch] == [gem.generate(p, **options).text for p in prompts]


def test_of_a_long_message_the_end_decides_about_tools(gem, monkeypatch):
    ranked = []
    rank = Bulk.rank

    def seen(self, query, tools):
        ranked.append(query)
        return rank(self, query, tools)

    monkeypatch.setattr(Bulk, "rank", seen)
    long = "sea " * 2000 + "Add 2 and 3"
    with pytest.raises(GemError, match="truncate=True"):
        gem.generate(long, tools=[ADD])
    result = gem.generate(long, tools=[ADD], truncate=True, max_new_tokens=60)
    assert len(result.prompt_ids) + 60 == gem.max_context
    assert ranked[0].endswith("sea Add 2 and 3")
    assert long.endswith(ranked[0])
    assert gem.generate("Add 2 and 3", tools=[ADD], max_new_tokens=5)
    assert ranked[1:] == ["Add 2 and 3"]
