"""Metadata, filters and counts as people have them: dates, numpy's numbers, paths, enums."""

import datetime as dt
import enum
from decimal import Decimal
from pathlib import Path
from uuid import UUID

import numpy as np
import pytest
from llama_index.core.schema import TextNode

from gem_rag.errors import GemIndexError
from gem_rag.index import GemIndex
from llama_index_gem_rag import GemVectorStore

BERLIN = dt.timezone(dt.timedelta(hours=2))


class Colour(enum.Enum):
    RED = "red"


class Level(enum.IntEnum):
    HIGH = 3


def stored(value):
    index = GemIndex()
    index.add(["x"], None, [{"it": value}], ["x"])
    assert [r.id for r in index.iterate({"it": {"$exists": True}})] == ["x"]
    return next(iter(index)).metadata["it"]


@pytest.mark.parametrize(
    ("value", "held"),
    [
        (dt.date(2024, 1, 2), "2024-01-02"),
        (dt.datetime(2024, 1, 2, 3, 4), "2024-01-02T03:04:00"),
        (dt.datetime(2024, 1, 2, 3, 4, tzinfo=BERLIN), "2024-01-02T01:04:00+00:00"),
        (dt.time(3, 4), "03:04:00"),
        (np.datetime64("2024-01-02"), "2024-01-02"),
        (np.datetime64("2024-01-02T03:04:05.5", "ns"), "2024-01-02T03:04:05.500000"),
        (np.int64(3), 3),
        (np.uint8(3), 3),
        (np.float32(0.5), 0.5),
        (np.float64(0.1), 0.1),
        (np.longdouble(2), 2.0),
        (np.bool_(True), True),
        (np.str_("a"), "a"),
        (np.array([[1, 2], [3, 4]]), [[1, 2], [3, 4]]),
        (np.array(3), 3),
        (Path("/a/b.txt"), "/a/b.txt"),
        (UUID(int=3), "00000000-0000-0000-0000-000000000003"),
        (Decimal("19.99"), 19.99),
        (Decimal("1E+2"), 100),
        (Decimal("1E+20"), 1e20),
        (Colour.RED, "red"),
        (Level.HIGH, 3),
        ((1, ("a", None)), [1, ["a", None]]),
        ({"deep": [{Colour.RED: np.int16(1)}]}, {"deep": [{"red": 1}]}),
    ],
)
def test_what_can_be_held_without_loss_is(value, held):
    found = stored(value)
    assert (found, type(found)) == (held, type(held))


@pytest.mark.parametrize(
    ("metadata", "named"),
    [
        (
            {"lasts": dt.timedelta(days=1)},
            r"key 'lasts' is '1 day, 0:00:00' \(datetime.timedelta\)",
        ),
        ({"a": {"b": [1, b"x"]}}, r"key 'a.b\[1\]' is \"b'x'\" \(bytes\)"),
        ({"d": Decimal("0.12345678901234567890123")}, r"key 'd' is .* \(decimal.Decimal\)"),
        ({"d": Decimal("NaN")}, "key 'd' is 'NaN'"),
        ({"d": Decimal("1E+999999")}, "key 'd' is .* \\(decimal.Decimal\\)"),
        ({"t": dt.datetime.min.replace(tzinfo=BERLIN)}, "key 't' is .*datetime.datetime"),
        ({"n": float("nan")}, r"key 'n' is 'nan' \(float\); numbers are finite"),
        ({"n": np.float32("inf")}, r"key 'n' is 'inf' \(numpy.float32\); numbers are finite"),
        ({"t": np.datetime64("NaT")}, r"key 't' is 'NaT' \(numpy.datetime64\)"),
        ({"t": np.timedelta64(3, "s")}, "key 't' is '3 seconds'"),
        ({"c": np.complex64(1)}, r"key 'c' .* \(numpy.complex64\)"),
        ({"o": object()}, r"key 'o' .* \(object\)"),
        ({"a": {1: 2}}, r"key 'a' is a dict with the key 1 \(int\); use string keys"),
        ({"s": "\ud800"}, "key 's' .* remove surrogates"),
    ],
)
def test_what_cannot_is_refused_by_key_and_type(metadata, named):
    with pytest.raises(GemIndexError, match=rf"metadata of 'x'.*{named}"):
        GemIndex().add(["x"], None, [metadata], ["x"])


def test_times_of_pandas_are_times():
    pandas = pytest.importorskip("pandas")
    moment = pandas.Timestamp("2024-01-02T03:04", tz="Europe/Berlin")
    assert stored(moment) == "2024-01-02T02:04:00+00:00"
    with pytest.raises(GemIndexError, match="key 'it' is 'NaT'"):
        stored(pandas.NaT)


def test_metadata_that_holds_itself_is_refused():
    loop = []
    loop.append(loop)
    with pytest.raises(GemIndexError, match=r"key 'l.*nested too deeply"):
        GemIndex().add(["x"], None, [{"l": loop}], ["x"])


@pytest.fixture
def days():
    """A note a day, told in every way there is."""
    index = GemIndex()
    times = {
        "date": dt.date(2024, 1, 1),
        "midday": dt.datetime(2024, 1, 1, 12),
        "fraction": dt.datetime(2024, 1, 1, 12, 0, 0, 500),
        "berlin": dt.datetime(2024, 1, 2, 1, 30, tzinfo=BERLIN),  # the day before in UTC
        "utc": dt.datetime(2024, 1, 2, 0, 0, 1, tzinfo=dt.UTC),
    }
    index.add(list(times), None, [{"when": t} for t in times.values()], list(times))
    return index


def test_dates_compare_as_they_follow_each_other(days):
    def ids(**test):
        return [r.id for r in days.iterate({"when": {f"${k}": v for k, v in test.items()}})]

    order = ["date", "midday", "fraction", "berlin", "utc"]
    assert ids(gte=dt.date(2024, 1, 1)) == order
    assert ids(lt=dt.date(2024, 1, 2)) == order[:4]
    assert ids(gt=dt.datetime(2024, 1, 1, 12)) == order[2:]
    assert ids(eq=dt.datetime(2024, 1, 1, 23, 30, tzinfo=dt.UTC)) == ["berlin"]
    assert ids(**{"in": [dt.date(2024, 1, 1), np.datetime64("2024-01-01T12:00")]}) == order[:2]
    assert ids(gt=dt.datetime(2024, 1, 2, 2, 0, 0, tzinfo=BERLIN)) == ["utc"]


def test_filters_take_what_metadata_takes():
    index = GemIndex()
    metadata = {
        "n": np.int64(3),
        "id": UUID(int=3),
        "c": Colour.RED,
        "tags": (1, 2),
        "p": Path("/a"),
    }
    index.add(["x", "y"], None, [metadata, {}], ["x", "y"])
    for where in (
        {"n": np.int32(3)},
        {"n": {"$gt": np.float32(2.5), "$lt": Decimal("3.5")}},
        {"n": {"$in": np.array([1, 3])}},
        {"id": UUID(int=3)},
        {"c": Colour.RED},
        {"p": {"$in": (Path("/a"), Path("/b"))}},
        {"tags": {"$contains": np.uint8(2), "$size": np.int64(2)}},
        {"c": {"$exists": np.bool_(True)}},
        {"$id": np.array(["x"])},
        {"$not": {"n": {"$exists": False}}},
    ):
        assert [r.id for r in index.iterate(where)] == ["x"], where
    with pytest.raises(GemIndexError, match=r"\$eq takes a string.*timedelta"):
        index.count({"n": dt.timedelta(days=1)})


def test_numpys_whole_numbers_count_chunks():
    index = GemIndex()
    index.add(["a kettle", "the kettle", "river"], np.eye(3))
    two = np.int64(2)
    assert len(index.search([1, 0, 0], two)) == 2
    assert len(index.search(text="kettle", k=two)) == 2
    assert len(index.search([1, 0, 0], two, text="kettle", distinct=True)) == 2
    assert len(index.mmr([1, 0, 0], two, fetch_k=np.int32(3))) == 2
    assert len(index.without_vectors(two)) == 0
    assert len(list(index.iterate(batch_size=two))) == 3
    for wrong in (2.5, "2", None):
        with pytest.raises(GemIndexError, match=r"k is .* expected a whole number"):
            index.search([1, 0, 0], wrong)


def test_mmr_counts_equal_texts_once_where_that_is_asked():
    index = GemIndex()
    index.add(["same", "same", "same", "other"], [[1, 0], [1, 0], [1, 0], [0.6, 0.8]])
    assert [hit.text for hit in index.mmr([1, 0], 2, lambda_mult=1)] == ["same", "same"]
    assert [h.text for h in index.mmr([1, 0], 2, lambda_mult=1, distinct=True)] == ["same", "other"]
    found = index.mmr([1, 0], 2, fetch_k=2, lambda_mult=1, distinct=True)
    assert [h.text for h in found] == ["same", "other"]


def test_llama_indexs_nodes_hold_them_too():
    store = GemVectorStore()
    moment = dt.datetime(2024, 1, 1, 12, tzinfo=dt.UTC)
    metadata = {"n": np.int64(3), "when": moment, "of": Colour.RED}
    store.add([TextNode(id_="x", text="x", embedding=[1.0], metadata=metadata)])
    [node] = store.get_nodes()
    assert node.metadata == {"n": 3, "when": "2024-01-01T12:00:00+00:00", "of": "red"}
    assert [r.id for r in store.client.iterate({"when": {"$gte": moment}})] == ["x"]
    wrong = TextNode(id_="y", text="y", embedding=[1.0], metadata={"lasts": dt.timedelta(days=1)})
    with pytest.raises(GemIndexError, match=r"metadata of 'y'.* key 'lasts' .*timedelta"):
        store.add([wrong])
