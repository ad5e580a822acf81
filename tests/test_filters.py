"""Filters against a plain-Python reading of the same language, on hand-picked and random cases."""

import itertools
import operator
import random

import pytest

from gem_rag.errors import GemIndexError
from gem_rag.index import GemIndex
from gem_rag.index.filters import FilterError
from gem_rag.index.sql import compile_filter

METADATA = {
    "int": {"x": 1},
    "float": {"x": 1.0},
    "true": {"x": True},
    "false": {"x": False},
    "text": {"x": "1"},
    "word": {"x": "kettle"},
    "null": {"x": None},
    "absent": {},
    "list": {"x": ["a", 1, None, True]},
    "dict": {"x": {"y": 2, "z": {"deep": "in"}}},
    "empty": {"x": []},
}


@pytest.fixture(scope="module")
def index():
    index = GemIndex()
    vectors = [[1.0, n] for n in range(len(METADATA))]
    index.add(list(METADATA), vectors, list(METADATA.values()), list(METADATA))
    return index


def matching(index, where):
    found = {record.id for record in index.iterate(where)}
    assert index.count(where) == len(found)
    return found


@pytest.mark.parametrize(
    ("where", "expected"),
    [
        ({"x": 1}, {"int", "float"}),
        ({"x": 1.0}, {"int", "float"}),
        ({"x": True}, {"true"}),
        ({"x": False}, {"false"}),
        ({"x": "1"}, {"text"}),
        ({"x": None}, {"null"}),
        ({"x": {"$eq": 1}}, {"int", "float"}),
        ({"x": {"$ne": 1}}, set(METADATA) - {"int", "float"}),
        ({"x": {"$gt": 0}}, {"int", "float"}),
        ({"x": {"$gte": 1, "$lt": 2}}, {"int", "float"}),
        ({"x": {"$lte": 0.5}}, set()),
        ({"x": {"$gt": "1"}}, {"word"}),
        ({"x": {"$in": [1, "kettle", None]}}, {"int", "float", "word", "null"}),
        ({"x": {"$in": [True]}}, {"true"}),
        ({"x": {"$in": []}}, set()),
        ({"x": {"$nin": [1, "kettle"]}}, set(METADATA) - {"int", "float", "word"}),
        ({"x": {"$nin": []}}, set(METADATA)),
        ({"x": {"$contains": "ett"}}, {"word"}),
        ({"x": {"$contains": "a"}}, {"list"}),
        ({"x": {"$contains": 1}}, {"list"}),
        ({"x": {"$contains": True}}, {"list"}),
        ({"x": {"$contains": None}}, {"list"}),
        ({"x": {"$contains": "1"}}, {"text"}),
        ({"x": {"$icontains": "ETT"}}, {"word"}),
        ({"x": {"$icontains": "A"}}, {"list"}),
        ({"x": {"$icontains": ""}}, {"text", "word"}),
        ({"x": {"$not": {"$icontains": "KETTLE"}}}, set(METADATA) - {"word"}),
        ({"x": {"$size": 0}}, {"empty"}),
        ({"x": {"$size": 4}}, {"list"}),
        ({"x": {"$size": 2}}, set()),
        ({"x": {"$not": {"$size": 0}}}, set(METADATA) - {"empty"}),
        ({"$id": "int"}, {"int"}),
        ({"$id": ["int", "list", "no such"]}, {"int", "list"}),
        ({"$id": []}, set()),
        ({"$id": ["int", "float"], "x": 1.0}, {"int", "float"}),
        ({"$not": {"$id": ["int"]}}, set(METADATA) - {"int"}),
        ({"x": {"$exists": True}}, set(METADATA) - {"absent"}),
        ({"x": {"$exists": False}}, {"absent"}),
        ({"x.y": 2}, {"dict"}),
        ({"x.z.deep": "in"}, {"dict"}),
        ({"x.nothing.there": "in"}, set()),
        ({"$and": [{"x": {"$gt": 0}}, {"x": {"$lt": 2}}]}, {"int", "float"}),
        ({"$or": [{"x": "1"}, {"x": None}]}, {"text", "null"}),
        ({"$not": {"$or": [{"x": 1}, {"x": {"$exists": False}}]}}, None),
        ({"x": {"$not": {"$gt": 0}}}, set(METADATA) - {"int", "float"}),
        ({}, set(METADATA)),
        ({"$not": {}}, set()),
    ],
)
def test_each_operator_matches_exactly_its_chunks(index, where, expected):
    if expected is None:
        expected = set(METADATA) - {"int", "float", "absent"}
    assert matching(index, where) == expected


@pytest.mark.parametrize(
    "where",
    [
        {"x": {"$regex": "a"}},
        {"$nor": [{"x": 1}]},
        {"x": {"y": 2}},
        {"x": {}},
        {"x": [1]},
        {"x": {"$in": "abc"}},
        {"x": {"$in": [[1]]}},
        {"x": {"$gt": True}},
        {"x": {"$gt": None}},
        {"x": {"$gt": float("nan")}},
        {"x": {"$exists": 1}},
        {"x": {"$icontains": 1}},
        {"x": {"$size": -1}},
        {"x": {"$size": True}},
        {"x": {"$size": 1.5}},
        {"$id": 1},
        {"$id": [1]},
        {"x": {"$id": "int"}},
        {"$and": []},
        {"$or": {"x": 1}},
        {"$not": [{"x": 1}]},
        {1: 2},
        [("x", 1)],
        "x = 1",
    ],
)
def test_a_malformed_filter_is_refused(index, where):
    with pytest.raises(FilterError):
        index.count(where)


def test_an_unknown_operator_is_named_with_those_known():
    with pytest.raises(GemIndexError, match=r"'\$near'.*\$contains"):
        compile_filter({"x": {"$near": 1}})


def test_nesting_has_a_limit_with_a_message():
    where = {"x": 1}
    for _ in range(50):
        where = {"$not": where}
    with pytest.raises(FilterError, match="nested deeper"):
        compile_filter(where)


def test_nesting_up_to_the_limit_and_wide_filters_are_run(index):
    where = {"x": "kettle"}
    for _ in range(8):
        where = {"$not": {"$and": [where, {}]}}
    assert matching(index, where) == {"word"}
    many = {"$or": [{"x": f"no {n}"} for n in range(3000)] + [{"x": "kettle"}]}
    assert matching(index, many) == {"word"}
    assert matching(index, {"x": {"$in": [f"no {n}" for n in range(50_000)] + ["1"]}}) == {"text"}


def test_ignoring_case_is_for_every_script():
    index = GemIndex()
    texts = ["Große Straße", "ÉCOLE", "Ωμέγα", "plain"]
    index.add(texts, [[1, n] for n in range(4)], [{"x": text} for text in texts], texts)
    assert matching(index, {"x": {"$icontains": "STRASSE"}}) == {"Große Straße"}
    assert matching(index, {"x": {"$icontains": "école"}}) == {"ÉCOLE"}
    assert matching(index, {"x": {"$icontains": "ωΜΈ"}}) == {"Ωμέγα"}
    assert matching(index, {"x": {"$contains": "école"}}) == set()


KEYS = ["plain", "two words", "a.b", "a..b", ".", "", "%", "?", ":w0", "[0]", "x$[1]", "\x7f"]
KEYS += ['quo"te', "'single'", "a'||'b", "back\\slash", "new\nline", "ünïcödé", "日本"]
KEYS += ['"); DROP TABLE chunks; --']


@pytest.mark.parametrize("key", KEYS)
def test_any_key_and_value_reaches_its_own_chunk_only(key):
    index = GemIndex()
    index.add(["yes", "no"], [[1, 0], [0, 1]], [{key: key}, {"other": key}], ["yes", "no"])
    assert matching(index, {key: key}) == {"yes"}
    assert matching(index, {key: {"$exists": False}}) == {"no"}
    assert matching(index, {key: {"$in": [key]}}) == {"yes"}
    assert matching(index, {key: {"$contains": key}}) == {"yes"}
    assert matching(index, {key: {"$icontains": key.upper()}}) == {"yes"}
    assert matching(index, {key: {"$size": 1}}) == set()
    assert len(index) == 2


@pytest.mark.parametrize("inner", ["b", 'q"', "back\\slash"])
def test_dotted_names_prefer_a_literal_key(inner):
    index = GemIndex()
    metadatas = [
        {f"a.{inner}": 1},
        {"a": {inner: 2}},
        {f"a.{inner}": None, "a": {inner: 2}},
        {"a": 3},
    ]
    index.add(["l", "n", "b", "s"], [[1, n] for n in range(4)], metadatas, ["l", "n", "b", "s"])
    assert matching(index, {f"a.{inner}": 1}) == {"l"}
    assert matching(index, {f"a.{inner}": 2}) == {"n"}
    assert matching(index, {f"a.{inner}": None}) == {"b"}
    assert matching(index, {f"a.{inner}": {"$exists": False}}) == {"s"}


def test_numbers_compare_to_the_last_bit():
    rng = random.Random(0)
    values = [rng.random() * 10 ** rng.randint(-8, 8) for _ in range(500)] + [
        2**53 + 1,
        -(2**62),
        0.1,
    ]
    index = GemIndex()
    index.add([""] * len(values), [[1, 1]] * len(values), [{"x": value} for value in values])
    for value in values:
        assert index.count({"x": value}) == 1
        assert index.count({"x": {"$in": [value]}}) == 1
        assert index.count({"x": {"$gt": value}}) == sum(other > value for other in values)


def holds(where, metadata):
    """The language once more, in plain Python."""
    return all(entry(key, value, metadata) for key, value in where.items())


def entry(key, value, metadata):
    match key:
        case "$and":
            return all(holds(w, metadata) for w in value)
        case "$or":
            return any(holds(w, metadata) for w in value)
        case "$not":
            return not holds(value, metadata)
    present, found = key in metadata, metadata.get(key)
    tests = value if isinstance(value, dict) else {"$eq": value}
    return all(test(op, x, present, found) for op, x in tests.items())


def is_number(value):
    return isinstance(value, int | float) and not isinstance(value, bool)


def same(a, b):
    return a == b and (type(a) is type(b) or (is_number(a) and is_number(b)))


def test(op, x, present, found):
    orders = {"$gt": operator.gt, "$gte": operator.ge, "$lt": operator.lt, "$lte": operator.le}
    if op in orders:
        comparable = (is_number(found) and is_number(x)) or type(found) is type(x) is str
        return comparable and orders[op](found, x)
    return {
        "$eq": lambda: present and same(found, x),
        "$ne": lambda: not (present and same(found, x)),
        "$in": lambda: present and any(same(found, y) for y in x),
        "$nin": lambda: not (present and any(same(found, y) for y in x)),
        "$exists": lambda: present is x,
        "$contains": lambda: (
            (type(found) is type(x) is str and x in found)
            or (isinstance(found, list) and any(same(y, x) for y in found))
        ),
        "$icontains": lambda: (
            (isinstance(found, str) and x.casefold() in found.casefold())
            or (
                isinstance(found, list)
                and any(isinstance(y, str) and y.casefold() == x.casefold() for y in found)
            )
        ),
        "$size": lambda: isinstance(found, list) and len(found) == x,
    }[op]()


test.__test__ = False  # not for pytest


def random_filter(rng, depth=0):
    scalars = [0, 1, 1.0, -2, True, False, None, "a", "ab", "b", ""]
    if depth < 3 and rng.random() < 0.5:
        op = rng.choice(["$and", "$or", "$not"])
        parts = [random_filter(rng, depth + 1) for _ in range(rng.randint(1, 3))]
        return {op: parts[0] if op == "$not" else parts}
    operators = "$eq $ne $gt $gte $lt $lte $in $nin $contains $icontains $size $exists"
    op = rng.choice(operators.split())
    if op in ("$in", "$nin"):
        operand = rng.sample(scalars, rng.randint(0, 3))
    elif op == "$exists":
        operand = rng.random() < 0.5
    elif op == "$icontains":
        operand = rng.choice(["A", "aB", ""])
    elif op == "$size":
        operand = rng.randint(0, 2)
    elif op in ("$gt", "$gte", "$lt", "$lte"):
        operand = rng.choice([0, 1, -2, "a", "ab", ""])
    else:
        operand = rng.choice(scalars)
    return {rng.choice("xyz"): {op: operand}}


def test_random_filters_agree_with_plain_python():
    rng = random.Random(7)
    values = [0, 1, 1.5, -2, True, False, None, "a", "ab", "", ["a", 1], [True, None], {"a": 1}]
    metadatas = [dict(zip("xy", pair, strict=True)) for pair in itertools.product(values, values)]
    metadatas += [{"z": value} for value in values] + [{}]
    ids = [str(n) for n in range(len(metadatas))]
    index = GemIndex()
    index.add(ids, [[1, 0]] * len(ids), metadatas, ids)
    for _ in range(300):
        where = random_filter(rng)
        expected = {i for i, metadata in zip(ids, metadatas, strict=True) if holds(where, metadata)}
        assert matching(index, where) == expected, where
