"""LlamaIndex's GemLLM: classes and tools of all kinds, broken calls, other models' histories."""

import datetime as dt
from pathlib import Path

import pytest
from llama_index.core import PromptTemplate
from llama_index.core.base.llms.types import (
    AudioBlock,
    CitableBlock,
    CitationBlock,
    ImageBlock,
    TextBlock,
    ThinkingBlock,
    ToolCallBlock,
)
from llama_index.core.llms import ChatMessage
from llama_index.core.tools import FunctionTool
from pydantic import BaseModel, Field, SecretStr, ValidationError

from gem_rag.errors import GemError
from llama_index_gem_rag import GemLLM
from llama_index_gem_rag.messages import to_messages

WHO = PromptTemplate("Who is {what}?")


class Node(BaseModel):
    """A node."""

    value: int
    children: list["Node"]


class Odd(BaseModel):
    """What Python has and JSON schema has no word for."""

    tags: set[str]
    path: Path
    data: bytes
    secret: SecretStr


class Meeting(BaseModel):
    """A meeting."""

    title: str
    at: dt.time
    code: str = Field(pattern=r"^[A-Z]{2}\d{4}$")


def grow(node: Node) -> int:
    """Grow a tree."""
    return node.value


def add(a: int, note: str) -> int:
    """Add a number."""
    return a


def said(role, *blocks, **extra):
    return ChatMessage(role=role, blocks=list(blocks), additional_kwargs=extra)


@pytest.mark.filterwarnings("ignore:a JSON schema asks")
@pytest.mark.parametrize("cls", [Node, Odd, Meeting], ids=lambda cls: cls.__name__)
def test_ordinary_classes_come_out_whole(gem, cls):
    llm = GemLLM(gem, max_tokens=100, temperature=1.3)
    for seed in range(3):
        assert isinstance(llm.structured_predict(cls, WHO, {"seed": seed}, what="it"), cls)
    grown = list(llm.stream_structured_predict(cls, WHO, {"seed": 1}, what="it"))
    assert isinstance(grown[-1], cls)


def test_what_was_cut_off_raises(gem):
    llm = GemLLM(gem, max_tokens=6)
    with pytest.raises(ValidationError):
        llm.structured_predict(Meeting, WHO, what="it")
    with pytest.raises(ValidationError):
        list(llm.stream_structured_predict(Meeting, WHO, what="it"))
    raw = llm.chat([ChatMessage("Who?")], schema=Meeting.model_json_schema()).raw
    assert raw["finish_reason"] == "length"
    assert "no JSON" in raw["misfit"]


def test_a_tool_with_a_recursive_argument(gem):
    llm = GemLLM(gem, max_tokens=150)
    tool = FunctionTool.from_defaults(grow)
    response = llm.chat_with_tools([tool], "Grow", tool_required=True)
    (call,) = llm.get_tool_calls_from_response(response)
    assert Node.model_validate(call.tool_kwargs["node"])


@pytest.mark.parametrize(
    "choice",
    [{"type": "any"}, {"type": "tool", "name": "add"}, "required", {"name": "add"}],
    ids=str,
)
def test_a_tool_choice_in_anybodys_words(gem, choice):
    llm = GemLLM(gem, max_tokens=150)
    tools = [FunctionTool.from_defaults(add)]
    response = llm.chat_with_tools(tools, "Add", tool_choice=choice)
    assert llm.get_tool_calls_from_response(response)[0].tool_name == "add"


@pytest.mark.parametrize("limit", [1, 5, 20, 40])
def test_a_broken_call_is_no_content_and_is_named(gem, limit):
    llm = GemLLM(gem, max_tokens=limit)
    asked = {"tools": [FunctionTool.from_defaults(add)], "user_msg": "Add", "tool_required": True}
    last = list(llm.stream_chat_with_tools(**asked))[-1]
    for response in (llm.chat_with_tools(**asked), last):
        assert not response.message.content
        assert response.raw["invalid_tool_calls"]
        with pytest.raises(ValueError, match="raise max_tokens"):
            llm.get_tool_calls_from_response(response)


@pytest.mark.parametrize(
    "block",
    [
        ThinkingBlock(content="hm"),
        ImageBlock(url="https://example.org/drawn.png"),
        AudioBlock(audio=b"x"),
        ToolCallBlock(tool_name="add", tool_kwargs='{"a": '),
    ],
    ids=lambda block: block.block_type,
)
def test_what_another_model_did_beside_its_words_is_left_out(block):
    message = said("assistant", TextBlock(text="Hello"), block)
    assert to_messages([message]) == [{"role": "assistant", "content": "Hello"}]
    if isinstance(block, ImageBlock | AudioBlock):
        for role in ("user", "tool"):
            with pytest.raises(GemError, match=block.block_type):
                to_messages([said(role, block)])


def test_cited_words_are_words():
    words = TextBlock(text="seven years")
    cited = CitationBlock(cited_content=words, source="a", title="b", additional_location_info={})
    page = CitableBlock(title="Manual", source="a", content=[words])
    contents = [m["content"] for m in to_messages([said("assistant", cited), said("user", page)])]
    assert contents == ["seven years", "seven years"]


def test_calls_in_openais_form_are_calls():
    call = {"id": "c", "type": "function", "function": {"name": "add", "arguments": '{"a": 1}'}}
    broken = {"id": "d", "type": "function", "function": {"name": "add", "arguments": "{"}}
    messages = to_messages(
        [said("assistant", tool_calls=[call, broken]), said("tool", tool_call_id="c")]
    )
    assert messages[0]["tool_calls"] == [{"name": "add", "arguments": {"a": 1}}]
    assert messages[1]["name"] == "add"
