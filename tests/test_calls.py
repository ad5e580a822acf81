"""Tool calls in answers: whole, cut off, and while they are written."""

from __future__ import annotations

import json

import pytest

from gem_rag.engine.calls import CallPiece, ToolCall, taken_apart, with_calls
from gem_rag.errors import GemError
from gem_rag.text.template import ChatTemplate
from gem_rag.text.tools import choice_of

ADD = {
    "name": "add",
    "parameters": {
        "type": "object",
        "properties": {"a": {"type": "integer"}, "note": {"type": "string"}},
        "required": ["a", "note"],
    },
}
WHOLE = '<tool_call>{"name": "add", "arguments": {"a": 2, "note": "x"}}'
FORCED = {"tools": [ADD], "tool_choice": "any"}


def cuts(text):
    return [text[:length] for length in range(1, len(text) + 1)]


@pytest.mark.parametrize("rest", ["", "</tool_call>", "</tool_", "\n", "</tool_call> Done."])
def test_a_whole_call_needs_no_end(rest):
    said = taken_apart(f"Well: {WHOLE}{rest}", ["add"])
    assert said.text == "Well: "
    assert said.calls == (ToolCall("add", {"a": 2, "note": "x"}),)
    assert not said.broken


def test_a_call_of_which_only_the_last_brace_is_missing_is_whole():
    assert taken_apart(WHOLE[:-1], ["add"]).calls == taken_apart(WHOLE, ["add"]).calls


@pytest.mark.parametrize("text", cuts(WHOLE)[1:-2])
def test_a_call_that_was_cut_off_is_no_words(text):
    said = taken_apart(text, ["add"])
    assert said.text == ""
    (broken,) = said.broken
    assert broken.name in ("", "add")
    assert WHOLE[text.find("{", 20) :].startswith(broken.arguments) or not broken.arguments


def test_tags_inside_arguments_are_arguments():
    call = {"name": "add", "arguments": {"a": 1, "note": "</tool_call><tool_call>{"}}
    text = f"<tool_call>{json.dumps(call)}</tool_call>"
    assert taken_apart(text, ["add"]).calls == (ToolCall("add", call["arguments"]),)


def test_of_several_calls_the_broken_one_is_apart():
    said = taken_apart(f"{WHOLE}</tool_call>\n{WHOLE[:40]}", ["add"])
    assert len(said.calls) == len(said.broken) == 1
    assert said.text == ""


@pytest.mark.parametrize(
    "text", ["a <", "Use <tool_call> here.", '<tool_call>{"name": "other", "arguments": {', "<"]
)
def test_words_stay_words(text):
    assert taken_apart(text, ["add"]).text == text
    assert "".join(with_calls(iter(text), ["add"])) == text


@pytest.mark.parametrize("before", ["", "So: "])
@pytest.mark.parametrize("text", [WHOLE, f"{WHOLE}</tool_call>", WHOLE[:50], WHOLE[:20], "<tool"])
def test_streamed_pieces_are_what_the_whole_answer_says(before, text):
    said = taken_apart(before + text, ["add"])
    pieces = list(with_calls(iter(before + text), ["add"]))
    assert "".join(p for p in pieces if isinstance(p, str)) == said.text
    calls = [p for p in pieces if isinstance(p, CallPiece)]
    assert "".join(p.name for p in calls) == "".join(call.name for call in said.found)
    arguments = "".join(p.arguments for p in calls)
    assert [p.is_broken for p in calls if p.is_broken] == [True] * len(said.broken)
    for call in said.calls:
        assert json.loads(arguments) == call.arguments
        assert len(calls) > 10
    for call in said.broken:
        assert arguments == call.arguments


@pytest.mark.parametrize("limit", [1, 3, 9, 20, 40, 60])
def test_a_call_cut_by_the_limit_leaves_no_text(gem, limit):
    options = {**FORCED, "max_new_tokens": limit}
    result = gem.generate("Add", **options)
    assert result.text == ""
    assert len(result.tool_calls) + len(result.invalid_tool_calls) == 1
    with gem.stream("Add", **options) as stream:
        assert "".join(stream) == ""
    assert stream.generation.invalid_tool_calls == result.invalid_tool_calls


@pytest.mark.parametrize(
    ("given", "meant"),
    [
        (None, "auto"),
        (True, "any"),
        (False, "none"),
        ("required", "any"),
        ("add", "add"),
        ({"type": "any"}, "any"),
        ({"type": "required"}, "any"),
        ({"type": "auto", "disable_parallel_tool_use": True}, "auto"),
        ({"type": "none"}, "none"),
        ({"type": "tool", "name": "add"}, "add"),
        ({"type": "function", "name": "add"}, "add"),
        ({"type": "function", "function": {"name": "add"}}, "add"),
        ({"tool": {"name": "add"}}, "add"),
    ],
    ids=str,
)
def test_a_tool_choice_in_anybodys_words(gem, given, meant):
    assert choice_of(given) == meant
    if meant in ("any", "add"):
        call = gem.generate("x", tools=[ADD], tool_choice=given, max_new_tokens=120).tool_calls[0]
        assert call.name == "add"


def test_a_tool_choice_that_says_nothing_is_refused(gem):
    with pytest.raises(GemError, match="tool_choice is"):
        gem.generate("x", tools=[ADD], tool_choice={"type": "sometimes"})


@pytest.mark.parametrize("seed", range(4))
def test_beside_tools_a_schema_holds_what_is_no_call(gem, monkeypatch, seed):
    monkeypatch.setattr(ChatTemplate, "renders_tools", True)  # the model chooses
    schema = {"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"]}
    options = {"tools": [ADD], "schema": schema, "max_new_tokens": 120, "temperature": 2.0}
    result = gem.generate("x", **options, seed=seed)
    assert result.tool_calls or isinstance(json.loads(result.text)["n"], int)
    assert result.misfit is None


def test_a_tools_own_references_are_followed(gem):
    point = {"type": "object", "properties": {"x": {"type": "integer"}}, "required": ["x"]}
    parameters = {
        "type": "object",
        "properties": {"a": point, "b": {"$ref": "#/properties/a"}},
        "required": ["a", "b"],
    }
    tools = [{"name": "line", "parameters": parameters}]
    (call,) = gem.generate("x", tools=tools, tool_choice="any", max_new_tokens=200).tool_calls
    assert isinstance(call.arguments["b"]["x"], int)


@pytest.mark.parametrize(
    "parameters",
    [
        {"type": "object", "properties": {"a": {"type": "nonsense"}}},
        {"type": "object", "properties": {"a": {"$ref": "#/$defs/missing"}}, "required": ["a"]},
        {"type": "object", "properties": {"a": {"pattern": r"(?=x)(a)\1", "type": "string"}}},
        {"type": "object", "propertyNames": {"pattern": "^a"}, "if": {}, "then": {"not": {}}},
    ],
    ids=str,
)
def test_a_servers_tool_is_called_whatever_its_schema_says(gem, parameters):
    tools = [{"name": "t", "parameters": parameters}]
    with pytest.warns(UserWarning, match="taken as a note"):
        result = gem.generate("x", tools=tools, tool_choice="any", max_new_tokens=150)
    assert result.tool_calls[0].name == "t"


def test_what_does_not_fit_says_why(gem):
    schema = {"type": "array", "items": {"enum": ["a"]}, "minItems": 2, "uniqueItems": True}
    assert "uniqueItems" in gem.generate("x", schema=schema, max_new_tokens=60).misfit
    cut = gem.generate("x", schema=schema, max_new_tokens=3)
    assert cut.finish_reason == "length"
    assert "no JSON" in cut.misfit
    assert gem.generate("x", max_new_tokens=3).misfit is None


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize(
    "inner",
    [
        {"type": "string", "format": "time"},
        {"type": "string", "format": "email"},
        {"type": "string", "pattern": r"^[A-Z]{3}-[0-9a-f]{6}$"},
        {"type": "string", "minLength": 10},
        {"type": "number", "minimum": 100},
        {"type": "array", "items": {"type": "string"}, "minItems": 3},
    ],
    ids=str,
)
def test_near_the_limit_every_kind_is_closed(gem, inner, seed):
    schema = {
        "type": "object",
        "properties": {"text": {"type": "string"}, "inner": inner},
        "required": ["text", "inner"],
        "additionalProperties": False,
    }
    for limit in (60, 90):
        result = gem.generate("x", schema=schema, max_new_tokens=limit, temperature=1.5, seed=seed)
        assert result.finish_reason == "stop"
        assert result.misfit is None


@pytest.mark.parametrize("limit", [20, 60, 100])
def test_what_needs_room_is_not_begun_near_the_limit(gem, limit):
    inner = {
        "type": "object",
        "properties": {name: {"type": "string", "minLength": 3} for name in ("one", "two", "six")},
        "required": ["one", "two", "six"],
        "additionalProperties": False,
    }
    schema = {"type": "array", "items": {"anyOf": [inner, {"type": "null"}]}, "minItems": 2}
    for seed in range(4):
        options = {"max_new_tokens": limit, "temperature": 2.0, "seed": seed}
        assert gem.generate("x", schema=schema, **options).misfit is None
    needed = {**schema, "items": inner}
    assert gem.generate("x", schema=needed, max_new_tokens=20).finish_reason == "length"
