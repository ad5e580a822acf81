"""Whose turn it is: no model, no thread, no clock."""

from dataclasses import dataclass, field

import pytest

from gem_rag.engine.scheduler import Limits, Prompt, Scheduler, Step, Unit


@dataclass(eq=False)
class Row:
    is_prompted: bool = False
    is_wanted: bool = True
    kv_bytes: int = 1
    width: int = 1
    name: str = field(default="")


def running(*rows, limits=None):
    """A scheduler in which these rows have been prompted."""
    scheduler = Scheduler(limits or Limits())
    scheduler.add_rows(rows)
    scheduler.next()
    for row in rows:
        row.is_prompted = True
    return scheduler


def test_nothing_to_do_is_nothing():
    assert Scheduler(Limits()).next() is None


def test_a_row_alone_is_prompted_in_one_pass_and_then_stepped():
    scheduler, row = Scheduler(Limits()), Row()
    scheduler.add_rows([row])
    assert scheduler.next() == Prompt((row,), None)
    row.is_prompted = True
    assert scheduler.next() == Step((row,))


def test_a_row_beside_others_is_prompted_in_chunks_between_their_steps():
    old, new = Row(), Row()
    scheduler = running(old)
    scheduler.add_rows([new])
    chunk = scheduler.next()
    assert chunk == Prompt((new,), scheduler.limits.chunk_tokens)
    scheduler.spent(chunk, 0.1)
    steps = 0
    while isinstance(action := scheduler.next(), Step):
        assert action.rows == (old,)
        scheduler.spent(action, 0.02)
        steps += 1
    assert steps == 5  # as long as the chunk took
    assert action == chunk


def test_other_work_gets_its_share_between_steps_and_no_more():
    scheduler = running(Row())
    seconds = {"step": 0.0, "unit": 0.0}
    for _ in range(200):
        if scheduler.queued == 0:
            scheduler.add_unit("work")
        action = scheduler.next()
        kind, took = ("unit", 0.1) if isinstance(action, Unit) else ("step", 0.03)
        seconds[kind] += took
        scheduler.spent(action, took)
    assert 0.8 < seconds["unit"] / seconds["step"] < 1.2


def test_what_waits_longest_comes_first():
    scheduler = Scheduler(Limits())
    row = Row()
    scheduler.add_unit("first")
    scheduler.add_rows([row])
    scheduler.add_unit("second")
    seen = [scheduler.next() for _ in range(2)]
    assert seen == [Unit("first"), Prompt((row,), scheduler.limits.chunk_tokens)]
    row.is_prompted = True
    assert scheduler.next() == Unit("second")


def test_rows_are_admitted_in_order_up_to_the_limits():
    rows = [Row(name=str(i)) for i in range(5)]
    scheduler = running(*rows, limits=Limits(rows=3))
    assert list(scheduler.running) == rows[:3]
    assert scheduler.queued == 2
    scheduler.remove(rows[1])
    scheduler.next()
    assert list(scheduler.running) == [rows[0], rows[2], rows[3]]
    assert scheduler.queued == 1


def test_memory_bounds_rows_but_one_alone_always_runs():
    large, small = Row(kv_bytes=100), Row(kv_bytes=1)
    scheduler = running(large, small, limits=Limits(kv_bytes=10))
    assert list(scheduler.running) == [large]
    scheduler.remove(large)
    scheduler.next()
    assert list(scheduler.running) == [small]


def test_rows_that_nobody_reads_are_left_out_of_steps():
    read, unread = Row(), Row()
    scheduler = running(read, unread)
    unread.is_wanted = False
    assert scheduler.next() == Step((read,))
    read.is_wanted = False
    assert scheduler.next() is None
    unread.is_wanted = True
    assert scheduler.next() == Step((unread,))


@pytest.mark.parametrize("admitted", [True, False])
def test_a_removed_row_is_forgotten(admitted):
    rows = [Row(), Row()]
    scheduler = running(*rows, limits=Limits(rows=1))
    gone, left = rows if admitted else rows[::-1]
    scheduler.remove(gone)
    action = scheduler.next()
    assert action.rows == (left,)
    assert scheduler.queued == 0


def test_a_long_prompt_that_is_over_leaves_no_debt():
    scheduler, long = Scheduler(Limits()), Row()
    scheduler.add_rows([long])
    action = scheduler.next()
    long.is_prompted = True
    scheduler.spent(action, 30.0)
    scheduler.remove(long)
    running_row = Row()
    scheduler.add_rows([running_row])
    scheduler.next()
    running_row.is_prompted = True
    scheduler.add_unit("work")
    assert scheduler.next() == Unit("work")


def test_however_long_something_took_others_wait_a_bounded_time():
    scheduler = running(Row())
    scheduler.add_unit("long")
    scheduler.spent(scheduler.next(), 10.0)
    scheduler.add_unit("next")
    steps = 0
    while isinstance(action := scheduler.next(), Step):
        scheduler.spent(action, 0.05)
        steps += 1
    assert steps <= 6  # a quarter of a second


def test_rows_that_nobody_reads_keep_nobody_out():
    unread, waiting = Row(), Row()
    scheduler = running(unread, limits=Limits(rows=1))
    unread.is_wanted = False
    scheduler.add_rows([waiting])
    assert scheduler.next().rows == (waiting,)


def test_a_wide_row_takes_the_places_of_several():
    wide, narrow, late = Row(width=3), Row(), Row()
    scheduler = running(wide, narrow, late, limits=Limits(rows=4))
    assert list(scheduler.running) == [wide, narrow]
    assert scheduler.queued == 1
    assert scheduler.next() == Step((wide, narrow))
    scheduler.remove(narrow)
    assert scheduler.next() == Step((wide, late))


def test_a_row_that_is_wider_than_the_limit_runs_alone():
    wide, other = Row(width=9), Row()
    scheduler = running(wide, other, limits=Limits(rows=4))
    assert list(scheduler.running) == [wide]
    scheduler.limits = Limits(rows=16)
    assert scheduler.next() == Step((wide, other))
    scheduler.limits = Limits(rows=4)
    assert scheduler.next() == Step((wide,))


def test_what_a_request_asks_for_later_does_not_wait_behind_requests_that_came_after_it():
    scheduler = Scheduler(Limits())
    mine = scheduler.add_unit("my question embedded")
    scheduler.add_unit("another's")
    assert scheduler.next() == Unit("my question embedded")
    scheduler.add_unit("my passages ranked", mine)
    scheduler.add_unit("a third's")
    units = [scheduler.next().work for _ in range(3)]
    assert units == ["my passages ranked", "another's", "a third's"]
