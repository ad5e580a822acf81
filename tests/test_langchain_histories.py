"""Conversations that other providers' models have had, taken over by ChatGem."""

from __future__ import annotations

import pytest
from langchain_core.messages import (
    AIMessage,
    ChatMessage,
    HumanMessage,
    SystemMessage,
    ToolMessage,
)

from gem_rag import ChatGem
from gem_rag.errors import GemError
from langchain_gem_rag.messages import to_core

SILENT = [
    {"type": "server_tool_call", "id": "s", "name": "web_search", "args": {"q": "x"}},
    {"type": "server_tool_result", "tool_call_id": "s", "output": "found"},
    {"type": "invalid_tool_call", "id": "i", "name": "f", "args": "{", "error": "cut"},
    {"type": "non_standard", "value": {"anything": 1}},
    {"type": "redacted_thinking", "data": "secret"},
    {"type": "thinking", "thinking": "hm", "signature": "s"},
    {"type": "reasoning", "summary": []},
    {"type": "web_search_call", "id": "w", "status": "completed"},
    {"type": "image", "url": "https://example.org/drawn.png"},
    {"type": "made_up_tomorrow", "id": 1},
]


@pytest.mark.parametrize("block", SILENT, ids=lambda block: block["type"])
def test_what_another_model_did_beside_its_words_is_left_out(gem, block):
    history = [HumanMessage("Hi"), AIMessage(["Hello ", block, {"type": "text", "text": "you."}])]
    assert to_core(history)[1] == {"role": "assistant", "content": "Hello you."}
    chat = ChatGem(gem, max_tokens=2)
    plain = [HumanMessage("Hi"), AIMessage("Hello you."), HumanMessage("And?")]
    assert chat.invoke([*history, plain[2]]).content == chat.invoke(plain).content


def test_words_of_all_kinds_are_taken_over():
    refused = AIMessage([{"type": "refusal", "refusal": "I will not."}])
    assert to_core([refused])[0]["content"] == "I will not."
    asked = [
        {"type": "input_text", "text": "Read "},
        {"type": "text-plain", "text": "this "},
        {"type": "document", "source": {"type": "text", "data": "page "}},
        {"type": "tool_result", "tool_use_id": "1", "content": [{"type": "text", "text": "too"}]},
    ]
    assert to_core([HumanMessage(asked)])[0]["content"] == "Read this page too"


@pytest.mark.parametrize(
    "call",
    [
        {"type": "function_call", "name": "add", "arguments": '{"a": 1}', "call_id": "c"},
        {"type": "tool_use", "name": "add", "input": {"a": 1}, "id": "c"},
        {"type": "tool_call", "name": "add", "args": {"a": 1}, "id": "c"},
    ],
    ids=lambda call: call["type"],
)
def test_calls_in_blocks_are_calls(call):
    messages = to_core([AIMessage([call]), ToolMessage("2", tool_call_id="c")])
    assert messages[0]["tool_calls"] == [{"name": "add", "arguments": {"a": 1}}]
    assert messages[1]["name"] == "add"


def test_calls_that_stand_twice_are_made_once():
    call = {"name": "add", "args": {"a": 1}, "id": "c", "type": "tool_call"}
    block = {"type": "function_call", "name": "add", "arguments": '{"a": 1}', "call_id": "c"}
    (message,) = to_core([AIMessage([block], tool_calls=[call])])
    assert len(message["tool_calls"]) == 1


def test_old_function_calls_and_broken_ones():
    old = AIMessage("", additional_kwargs={"function_call": {"name": "f", "arguments": "{}"}})
    assert to_core([old])[0]["tool_calls"] == [{"name": "f", "arguments": {}}]
    broken = AIMessage("", additional_kwargs={"function_call": {"name": "f", "arguments": "{"}})
    assert "tool_calls" not in to_core([broken])[0]


@pytest.mark.parametrize(
    ("named", "role"), [("developer", "system"), ("human", "user"), ("model", "assistant")]
)
def test_roles_by_other_names(named, role):
    assert to_core([ChatMessage(role=named, content="x")])[0]["role"] == role


@pytest.mark.parametrize("kind", ["image_url", "image", "input_audio", "video", "file", "unheard"])
@pytest.mark.parametrize("message", [HumanMessage, SystemMessage])
def test_what_a_user_shows_is_never_left_out_silently(message, kind):
    with pytest.raises(GemError, match=kind):
        to_core([message([{"type": "text", "text": "See"}, {"type": kind, "url": "x"}])])


def test_a_picture_among_a_tools_results_is_refused_by_name():
    inner = [{"type": "text", "text": "A map"}, {"type": "image", "source": {"type": "base64"}}]
    with pytest.raises(GemError, match="image"):
        to_core([HumanMessage([{"type": "tool_result", "content": inner}])])
