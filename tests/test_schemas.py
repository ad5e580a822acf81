"""JSON schemas: walked as schemas, and values held against them."""

from __future__ import annotations

import datetime as dt
import enum
import ipaddress
import uuid
import warnings
from typing import Literal

import pytest
from llguidance import LLMatcher
from pydantic import AwareDatetime, Base64Bytes, HttpUrl, IPvAnyAddress, TypeAdapter

from gem_rag.engine.closing import Shortest
from gem_rag.engine.enforce import enforceable, json_rule, without_looking
from gem_rag.engine.fit import misfit
from gem_rag.text.schemas import arguments, at_root, closed, untitled


class Color(enum.Enum):
    RED = "red"
    BLUE = "blue"


def shortest(schema):
    return Shortest(LLMatcher.grammar_from_lark(f"start: {json_rule(schema)}"))


NODE = {
    "$defs": {
        "Node": {
            "type": "object",
            "title": "Node",
            "properties": {"title": {"type": "string"}, "next": {"$ref": "#/$defs/Node"}},
        }
    },
    "$ref": "#/$defs/Node",
}


def test_a_recursive_schema_stands_at_its_root_and_still_refers_to_itself():
    schema = at_root(NODE)
    assert schema["type"] == "object"
    assert schema["properties"]["next"] == {"$ref": "#/$defs/Node"}
    assert schema["$defs"] == NODE["$defs"]


def test_values_that_look_like_schemas_are_left_alone():
    value = {"type": "object", "properties": {}, "title": "x"}
    schema = {"type": "object", "title": "T", "properties": {"title": {"const": value}}}
    assert closed(untitled(schema))["properties"] == {"title": {"const": value}}


@pytest.mark.parametrize("parameters", [None, {}, {"type": "object"}])
def test_a_tool_without_arguments_takes_none(parameters):
    assert arguments(parameters) == {
        "type": "object",
        "properties": {},
        "additionalProperties": False,
    }


def test_a_tools_arguments_are_an_object_whatever_else_they_may_be():
    assert arguments({"type": ["object", "null"], "properties": {"a": {}}})["type"] == "object"


def test_a_tool_with_a_choice_of_arguments_is_not_closed():
    choice = {"oneOf": [{"properties": {"a": {}}}, {"properties": {"b": {}}}]}
    assert arguments(choice) == {**choice, "type": "object"}


@pytest.mark.parametrize(
    ("schema", "fits", "does_not"),
    [
        ({"uniqueItems": True}, [1, True, "1"], [1, 1.0]),
        ({"not": {"type": "null"}}, 0, None),
        ({"contains": {"const": 2}, "maxContains": 1}, [1, 2], [2, 2]),
        ({"propertyNames": {"pattern": "^a"}}, {"ab": 1}, {"b": 1}),
        ({"oneOf": [{"required": ["a"]}, {"required": ["b"]}]}, {"a": 1}, {"a": 1, "b": 1}),
        ({"if": {"required": ["a"]}, "then": {"required": ["b"]}}, {"c": 1}, {"a": 1}),
        ({"dependentRequired": {"a": ["b"]}}, {"b": 1}, {"a": 1}),
        ({"pattern": r"^(?!x)"}, "ax", "xa"),
        ({"properties": {"n": {"items": {"minimum": 2}}}}, {"n": [2]}, {"n": [1]}),
        ({"additionalProperties": False}, {}, {"a": 1}),
        ({"prefixItems": [{"type": "integer"}], "items": False}, [1], [1, 2]),
        ({"items": [{"type": "integer"}], "additionalItems": False}, [1], [1, 2]),
        ({"type": ["integer", "null"]}, 2.0, 2.5),
        ({"enum": [1, "a"]}, 1.0, True),
        ({"multipleOf": 0.1}, 0.3, 0.35),
        ({"type": "integer"}, 10**30, float("inf")),
    ],
    ids=lambda value: str(value)[:30],
)
def test_what_decoding_cannot_be_held_to_is_found_afterwards(schema, fits, does_not):
    assert misfit(fits, schema) is None
    assert misfit(does_not, schema)


def test_what_is_malformed_in_a_schema_says_nothing():
    assert misfit({"a": 1}, {"dependentRequired": ["a"], "required": True}) is None


def test_a_misfit_is_named_by_its_place():
    schema = {"properties": {"tags": {"items": {"maxLength": 2}}}}
    assert misfit({"tags": ["ab", "abc"]}, schema) == '$.tags[1] is "abc"; expected maxLength 2'


def test_a_recursive_schema_is_followed_as_deep_as_the_value():
    value = {"title": "a", "next": {"title": "b", "next": {"title": 3}}}
    assert misfit(value, NODE)
    value["next"]["next"]["title"] = "c"
    assert misfit(value, NODE) is None


@pytest.mark.parametrize(
    ("pattern", "wider"),
    [
        (r"^(?!^[-+.]*$)[+-]?0*\d*\.?\d*$", r"^[+-]?0*\d*\.?\d*$"),
        (r"\bcat\B(?<=a(b[)])c)s", "cats"),
        (r"[\b(?=]\(?!", r"[\b(?=]\(?!"),
    ],
)
def test_what_looks_around_is_left_out_of_a_pattern(pattern, wider):
    assert without_looking(pattern) == wider


def test_what_cannot_be_enforced_is_noted():
    schema = {
        "properties": {
            "a": {"pattern": r"(a)\1"},
            "b": {"$ref": "https://example.org/b.json"},
            "c": {"enum": [{"pattern": r"(a)\1"}]},
        }
    }
    kept, notes = enforceable(schema)
    assert kept == {"properties": {"a": {}, "b": {}, "c": schema["properties"]["c"]}}
    assert len(notes) == 2


@pytest.mark.parametrize(
    "kind",
    [
        *(dt.date, dt.time, dt.datetime, dt.timedelta, AwareDatetime),
        *(uuid.UUID, ipaddress.IPv4Address, IPvAnyAddress, HttpUrl, Base64Bytes, list[str], int),
        ipaddress.IPv4Network,
    ],
    ids=str,
)
def test_the_shortest_answer_of_a_kind_is_one(kind):
    adapter = TypeAdapter(kind)
    ending = shortest(adapter.json_schema()).ending(b"")
    adapter.validate_json(ending)


@pytest.mark.parametrize(
    ("schema", "begun", "ending"),
    [
        ({"type": "string", "format": "email"}, b'"jo.x', b'@1.aa"'),
        ({"type": "string", "format": "time"}, b'"19:3', b'1:11Z"'),
        ({"type": "string", "pattern": r"^[A-Z]{2}-\d{3}$"}, b'"QX-1', b'11"'),
        ({"type": "string"}, '"caf\u00e9'.encode()[:-1], b'\x80"'),
        ({"type": "string"}, b'"a\\', b'""'),
        (closed(NODE), b'{"title": "a", "next": {', b"}}"),
        ({"anyOf": [{"type": "null"}, {"type": "string"}, {"type": "integer"}]}, b"", b"1"),
        ({"type": "array", "items": {"enum": ["long", "no"]}, "minItems": 2}, b"[", b'"no", "no"]'),
    ],
    ids=str,
)
def test_an_answer_is_ended_the_shortest_way(schema, begun, ending):
    found = shortest(schema).ending(begun)
    assert len(found) == len(ending)
    assert schema.get("type") != "string" or schema.get("format") != "email" or found == ending


@pytest.mark.parametrize("key", [Literal["p", "q"], Color, dt.date, uuid.UUID], ids=str)
def test_keys_of_a_kind_are_held_to_it(key):
    schema = {**TypeAdapter(dict[key, int]).json_schema(), "minProperties": 1}
    written = shortest(schema).ending(b'{"')
    TypeAdapter(dict[key, int]).validate_json(b'{"' + written)


def test_a_union_of_recursive_classes_comes_to_its_end():
    number = {"type": "object", "properties": {"number": {"type": "number"}}}
    both = [{"$ref": "#/$defs/sum"}, {"$ref": "#/$defs/number"}]
    total = {"type": "object", "properties": {"a": {"anyOf": both}, "b": {"anyOf": both}}}
    schema = {
        "$defs": {
            "sum": {**total, "required": ["a", "b"]},
            "number": {**number, "required": ["number"]},
        },
        "$ref": "#/$defs/sum",
    }
    ending = shortest(closed(schema)).ending(b"")
    assert len(ending) == len(b'{"a": {"number": 1}, "b": {"number": 1}}')


def test_a_schema_is_warned_of_once():
    schema = {"type": "array", "items": {"const": "warned of once"}, "uniqueItems": True}
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        json_rule(schema)
        json_rule(schema)
    assert [("uniqueItems" in str(w.message)) for w in seen] == [True]
