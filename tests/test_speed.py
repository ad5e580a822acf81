"""What the speed table says of numbers; nothing is timed here."""

import sys
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"


@pytest.fixture(autouse=True)
def _beside(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))


def verdict_of(ours, mine, beside, *, what="decoding, tokens/s", floor=2.0, goal=4.0):
    from speed_rows import TODAY, Aim, verdict

    aim = Aim(what, ours, TODAY, floor=floor, goal=goal)
    return verdict(aim, {what: {**mine, TODAY: beside}}, default="bfloat16")


@pytest.mark.parametrize(("value", "reached"), [(19, "no"), (20, "floor"), (40, "goal")])
def test_a_rate_has_to_be_above_its_bounds(value, reached):
    assert verdict_of("float32", {"float32": value}, 10).reached == reached


@pytest.mark.parametrize(("value", "reached"), [(6, "no"), (5, "floor"), (2, "goal")])
def test_a_time_has_to_be_below_its_bounds(value, reached):
    found = verdict_of("float32", {"float32": value}, 10, what="start, s", floor=0.5, goal=0.25)
    assert found.reached == reached


def test_the_default_is_what_a_user_gets_and_the_best_is_the_best():
    mine = {"float32": 10, "bfloat16": 20, "int4": 30}
    assert verdict_of("default", mine, 10).value == 20
    assert verdict_of("best", mine, 10).side == "int4"
    assert verdict_of("best", mine, 10, what="start, s").side == "float32"


def test_what_was_not_measured_is_not_judged():
    assert verdict_of("int8", {"float32": 10}, 10) is None


def test_the_tables_name_whose_numbers_these_are_and_what_was_left_out():
    from speed_report import tables
    from speed_rows import STREAM, TODAY

    text = tables(
        {
            "samples": {STREAM: {"bfloat16": [90.0, 88.0, 89.0], TODAY: [25.0]}},
            "default": "bfloat16",
            "machine": "a machine",
            "threads": 2,
            "rounds": 2,
            "quick": False,
            "sides": {TODAY: "/home/someone/env, torch 2.13.0"},
            "left_out": {"int8": "no kernel"},
        }
    )
    assert f"| {STREAM} | 89 (bfloat16) | 25 (today) | 3.56 | >= 3.30 |  | floor |" in text
    assert "Left out: int8: no kernel." in text
    assert "/home" not in text


def test_a_page_of_the_docs_has_room_for_every_table():
    from speed_report import PAGE

    page = PAGE.read_text(encoding="utf-8")
    for name in ("speed", "profile", "scaling"):
        assert page.count(f"<!-- {name}:begin -->") == page.count(f"<!-- {name}:end -->") == 1


def stub(name, code):
    """A side whose process runs this."""
    from sides import Side

    return Side(name, [sys.executable, "-c", code], ("row",))


def test_the_sides_take_turns_and_one_that_fails_is_named(capsys):
    from speed import in_turns

    said = (
        "import json; print('loading'); print(json.dumps({'what': 'a', 'found': {'x, s': [%d]}}))"
    )
    sides = [stub("one", said % 1), stub("broken", "raise ValueError('no such kernel')")]
    sides.append(stub("two", said % 2))
    found, failed = in_turns(sides, 2, lambda side: side.run([], threads=1), "row")
    assert found == {"x, s": {"one": [1, 1], "two": [2, 2]}}
    assert failed == {"broken": "ValueError: no such kernel"}
    order = [
        line.split(", ")[2] for line in capsys.readouterr().err.splitlines() if "round" in line
    ]
    assert [said.split(":")[0] for said in order] == ["one", "two", "one", "two"]


def test_no_side_waits_passively(monkeypatch):
    monkeypatch.setenv("OMP_WAIT_POLICY", "passive")
    seen = "import json, os; print(json.dumps({'what': '', 'found': dict(os.environ)}))"
    found = stub("one", seen).run([], threads=3)
    assert "OMP_WAIT_POLICY" not in found
    assert found["OMP_NUM_THREADS"] == "3"


def test_slopes_are_those_of_growth():
    from scaling import crossing, slope

    assert slope({10: 3.0, 100: 30.0, 1000: 300.0}) == pytest.approx(1)
    assert slope({10: 3.0, 100: 3.0}) == pytest.approx(0)
    assert crossing({10: 1.0, 1000: 100.0}, 10.0) == pytest.approx(100)


def test_the_growth_tables_leave_open_what_was_not_measured():
    from scaling import FILLING, GROWING, QUESTION, tables

    rows = {n: dict.fromkeys((*GROWING, QUESTION, FILLING), n / 1000) for n in (1000, 10_000)}
    flat = {n: {"ms": n / 1000, "build": 1.0} for n in rows}
    kinds = {"flat": flat, "hnsw": {1000: flat[1000]}}
    text = tables({"machine": "a machine", "rows": rows, "kinds": kinds})
    assert "| flat | 1 ms (1 s) | 10 ms (1 s) | 1.00 |" in text
    assert "| hnsw | 1 ms (1 s) |  |  |" in text
    assert "(6 ms) at some 5,500 chunks" in text
