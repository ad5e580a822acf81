"""ChatGem's structured output and tool calls: there, whole, as they grow, or an error."""

from __future__ import annotations

import datetime as dt
import json
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Literal

import pytest
from langchain_core.exceptions import OutputParserException
from langchain_core.tools import StructuredTool, tool
from pydantic import BaseModel, ConfigDict, Field, RootModel, SecretStr, ValidationError
from typing_extensions import TypedDict

from gem_rag import ChatGem
from gem_rag.errors import GemError

METHODS = ["function_calling", "json_schema", "json_mode"]


class Node(BaseModel):
    """A node."""

    value: int
    children: list[Node]


class Tree(TypedDict):
    value: int
    children: list[Tree]


class Meeting(BaseModel):
    title: str
    at: dt.time
    code: str = Field(pattern=r"^[A-Z]{2}\d{4}$")


class Odd(BaseModel):
    """What Python has and JSON schema has no word for."""

    tags: set[str]
    path: Path
    data: bytes
    secret: SecretStr


class Cat(BaseModel):
    kind: Literal["cat"]
    lives: int


class Dog(BaseModel):
    kind: Literal["dog"]
    name: str


class Strict(BaseModel):
    model_config = ConfigDict(strict=True)
    pet: Annotated[Cat | Dog, Field(discriminator="kind")]
    born: dt.date


class Numbers(RootModel[list[int]]):
    pass


class Even(BaseModel):
    number: Literal[3]

    def model_post_init(self, _):
        raise ValueError("3 is odd")


@tool
def add(a: int, note: str) -> int:
    """Add a number."""
    return a


def wild(gem, seed=0, **options):
    return ChatGem(gem, temperature=1.3, seed=seed, **options)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("cls", [Node, Meeting, Odd, Strict], ids=lambda cls: cls.__name__)
@pytest.mark.filterwarnings("ignore:a JSON schema asks")
def test_ordinary_classes_come_out_whole(gem, cls, method):
    for seed in range(3):
        chat = wild(gem, seed, max_tokens=160)
        assert isinstance(chat.with_structured_output(cls, method=method).invoke("Who?"), cls)


def test_a_recursive_class_is_told_whole(gem):
    parameters = ChatGem(gem).bind_tools([Node]).kwargs["tools"][0]["function"]["parameters"]
    assert parameters["properties"]["children"]["items"] == {"$ref": "#/$defs/Node"}
    assert "value" in parameters["$defs"]["Node"]["properties"]
    assert "title" not in json.dumps(parameters)


@pytest.mark.parametrize("schema", [Tree, Node.model_json_schema()], ids=["TypedDict", "dict"])
def test_recursive_dicts(gem, schema):
    found = wild(gem).with_structured_output(schema).invoke("Who?")
    assert Node.model_validate(found)


def test_a_class_that_is_a_list(gem):
    found = wild(gem, max_tokens=60).with_structured_output(Numbers).invoke("Who?")
    assert isinstance(found, Numbers)


@pytest.mark.parametrize("method", METHODS)
def test_what_was_cut_off_raises(gem, method):
    chat = ChatGem(gem, max_tokens=12)
    with pytest.raises(OutputParserException, match="max_tokens"):
        chat.with_structured_output(Meeting, method=method).invoke("Who?")
    with pytest.raises(OutputParserException, match="max_tokens"):
        list(chat.with_structured_output(Meeting, method=method).stream("Who?"))
    out = chat.with_structured_output(Meeting, method=method, include_raw=True).invoke("Who?")
    assert out["parsed"] is None
    assert isinstance(out["parsing_error"], OutputParserException)
    assert out["raw"].response_metadata["finish_reason"] == "length"


def test_what_a_class_refuses_raises(gem):
    structured = ChatGem(gem).with_structured_output
    with pytest.raises(ValidationError, match="3 is odd"):
        structured(Even).invoke("Who?")
    out = structured(Even, include_raw=True).invoke("Who?")
    assert "3 is odd" in str(out["parsing_error"])


def test_a_dict_is_checked_by_what_decoding_could_not_be_held_to(gem):
    items = {"type": "array", "items": {"enum": ["a"]}, "minItems": 2, "uniqueItems": True}
    schema = {"title": "S", "type": "object", "properties": {"t": items}, "required": ["t"]}
    with (
        pytest.warns(UserWarning, match="uniqueItems"),
        pytest.raises(OutputParserException, match=r"\$\.t is \[.*uniqueItems"),
    ):
        ChatGem(gem).with_structured_output(schema).invoke("Who?")


@pytest.mark.parametrize("method", ["function_calling", "json_schema"])
async def test_dicts_grow_while_they_are_streamed(gem, method):
    chat = ChatGem(gem, max_tokens=150)
    structured = chat.with_structured_output(Meeting.model_json_schema(), method=method)
    grown = list(structured.stream("Who?"))
    assert grown[-1] == structured.invoke("Who?")
    assert len(grown) > 5
    assert all(before.keys() <= after.keys() for before, after in pairwise(grown))
    assert [state async for state in structured.astream("Who?")] == grown


def test_objects_come_as_soon_as_they_are_valid(gem):
    grown = list(ChatGem(gem, max_tokens=150).with_structured_output(Meeting).stream("Who?"))
    assert grown
    assert all(isinstance(state, Meeting) for state in grown)


async def test_tool_calls_are_streamed_as_they_are_written(gem):
    bound = ChatGem(gem, max_tokens=150).bind_tools([add], tool_choice={"type": "any"})
    chunks = list(bound.stream("Add"))
    written = [c for chunk in chunks for c in chunk.tool_call_chunks]
    assert len(written) > 5
    assert [c["name"] for c in written if c["name"]] == ["add"]
    assert len({c["id"] for c in written if c["id"]}) == 1
    assert json.loads("".join(c["args"] for c in written))
    full = chunks[0]
    for chunk in chunks[1:]:
        full += chunk
    assert full.content == ""
    assert full.usage_metadata
    (call,) = full.tool_calls
    assert call["args"] == bound.invoke("Add").tool_calls[0]["args"]
    pieces = [c async for chunk in bound.astream("Add") for c in [*chunk.tool_call_chunks]]
    assert [c["args"] for c in pieces] == [c["args"] for c in written]


@pytest.mark.parametrize("limit", [1, 5, 12, 30, 40, 50])
def test_a_broken_call_is_invalid_and_no_content(gem, limit):
    bound = ChatGem(gem, max_tokens=limit).bind_tools([add], tool_choice="any")
    answer = bound.invoke("Add")
    full = None
    for chunk in bound.stream("Add"):
        full = chunk if full is None else full + chunk
    for message in (answer, full):
        assert message.content == ""
        assert message.tool_calls == []
        assert len(message.invalid_tool_calls) == 1
    assert answer.invalid_tool_calls[0]["error"]


@pytest.mark.filterwarnings("ignore:a JSON schema asks")
def test_a_servers_tool_is_called_whatever_its_schema_says(gem):
    schema = {
        "$schema": "http://json-schema.org/draft-07/schema#",
        "type": "object",
        "properties": {
            "ids": {"type": "array", "items": {"type": "string", "format": "slug"}},
            "never": {"not": {}},
        },
        "required": ["ids"],
        "if": {"required": ["never"]},
        "then": {"propertyNames": {"pattern": "^(?!x)"}},
    }
    schema["properties"]["ids"]["uniqueItems"] = True
    remote = StructuredTool(
        name="remote", description="Far away.", args_schema=schema, func=lambda **given: given
    )
    answer = ChatGem(gem, max_tokens=120).bind_tools([remote], tool_choice="any").invoke("Go")
    assert isinstance(answer.tool_calls[0]["args"]["ids"], list)


def provider_strategy(cls):
    """What LangChain's agents bind for `ProviderStrategy(cls)`."""
    schema = {"name": cls.__name__, "schema": cls.model_json_schema()}
    return {"type": "json_schema", "json_schema": schema}


@pytest.mark.parametrize("tools", [[], [add]], ids=["alone", "beside tools"])
def test_a_response_format_holds_the_answer(gem, tools):
    chat = ChatGem(gem, max_tokens=150)
    bound = chat.bind_tools(tools, strict=True, response_format=provider_strategy(Meeting))
    answer = bound.invoke("Who?")
    assert answer.tool_calls or Meeting.model_validate_json(answer.content)
    held = chat.bind_tools(
        tools, tool_choice="none", response_format=provider_strategy(Meeting)
    ).invoke("Who?")
    assert Meeting.model_validate_json(held.content)


def test_other_response_formats(gem):
    chat = ChatGem(gem, max_tokens=60)
    assert isinstance(json.loads(chat.invoke("x", response_format=Numbers).content), list)
    held = chat.invoke("x", response_format={"type": "json_object"}).content
    assert isinstance(json.loads(held), dict)
    assert chat.invoke("x", response_format={"type": "text"}).content == chat.invoke("x").content
    with pytest.raises(GemError, match="response_format"):
        chat.invoke("x", response_format={"type": "xml"})


def test_an_agent_with_a_response_format(gem):
    agents = pytest.importorskip("langchain.agents")
    strategy = pytest.importorskip("langchain.agents.structured_output").ProviderStrategy
    agent = agents.create_agent(
        ChatGem(gem, max_tokens=150), [add], response_format=strategy(Meeting)
    )
    state = agent.invoke({"messages": [("user", "Who?")]})
    assert isinstance(state["structured_response"], Meeting)
