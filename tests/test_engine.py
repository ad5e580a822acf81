"""Many callers on one model: what each gets is what it would get alone."""

import asyncio
import concurrent.futures
import gc
import multiprocessing
import os
import subprocess
import sys
import threading
import time
from functools import partial

import numpy as np
import pytest
import torch
from tiny import TEXTS, disturb

from gem_rag.engine.scheduler import Limits
from gem_rag.engine.slots import Slots
from gem_rag.engine.work import one_request
from gem_rag.errors import EngineFull, GemError
from gem_rag.model import create

PROMPTS = ["Rivers run", "Who wrote it?", "A kettle " * 12, "sea", "Is it winter in a café?"]


def until(true, seconds=20.0):
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.005)


@pytest.fixture
def idle(gem):
    """The engine, with nothing of earlier tests in it."""
    gc.collect()
    until(lambda: gem.engine.stats().rows == 0)
    before = gem.engine.limits
    yield gem.engine
    gem.engine.limits = before
    gc.collect()
    until(lambda: gem.engine.stats().rows == 0)


def options(i):
    """Requests of one time differ in every way."""
    return {"max_new_tokens": 60 + 17 * i, "temperature": float(i % 2), "seed": i}


def test_rows_join_and_leave_and_each_is_what_it_would_be_alone(gem, idle, monkeypatch):
    alone = [gem.generate(p, **options(i)) for i, p in enumerate(PROMPTS)]
    sizes, run = [], Slots.run
    monkeypatch.setattr(
        Slots, "run", lambda self, slots, ids: sizes.append(len(slots)) or run(self, slots, ids)
    )
    futures = []
    for i, prompt in enumerate(PROMPTS):
        futures.append(gem.submit(prompt, **options(i)))
        time.sleep(0.003)
    assert [future.result() for future in futures] == alone
    assert max(sizes) > 2


def test_after_readings_beside_plain_prompts(gem, idle):
    readings = gem.read(TEXTS)
    alone = [gem.generate("Who?", after=r, max_new_tokens=12) for r in readings]
    plain = gem.generate(PROMPTS[0], max_new_tokens=40)
    beside = gem.submit(PROMPTS[0], max_new_tokens=40)
    futures = [gem.submit("Who?", after=r, max_new_tokens=12) for r in readings]
    assert [future.result() for future in futures] == alone
    assert beside.result() == plain


def test_embedding_and_ranking_beside_streams_change_nothing(gem, idle):
    text = gem.generate(PROMPTS[0], max_new_tokens=80).text
    vectors, ranked = gem.embed_documents(TEXTS), gem.rank("Who?", TEXTS)
    stream = gem.stream(PROMPTS[0], max_new_tokens=80)
    first = next(stream)
    np.testing.assert_allclose(gem.embed_documents(TEXTS), vectors, rtol=0, atol=1e-4)
    assert [r.index for r in gem.rank("Who?", TEXTS)] == [r.index for r in ranked]
    assert first + "".join(stream) == text


def test_a_stream_is_never_far_ahead_of_who_reads_it(gem, idle):
    stream = gem.stream(PROMPTS[0], max_new_tokens=300)
    next(stream)
    before = idle.stats().tokens
    time.sleep(0.5)
    assert idle.stats().tokens - before <= 8
    assert stream.generation.usage.completion_tokens <= 2  # what was read, not what was computed
    stream.close()
    assert idle.stats().rows == 0


def test_a_stream_that_is_dropped_frees_its_place(gem, idle):
    stream = gem.stream(PROMPTS[0], max_new_tokens=300)
    next(stream)
    assert idle.stats().rows == 1
    del stream
    gc.collect()
    until(lambda: idle.stats().rows == 0)


def test_a_slow_reader_does_not_hold_up_the_others(gem, idle):
    slow = gem.stream(PROMPTS[0], max_new_tokens=60)
    shown = [next(slow)]
    expected = gem.generate(PROMPTS[1], max_new_tokens=50)
    assert gem.generate(PROMPTS[1], max_new_tokens=50) == expected
    shown += list(slow)
    assert "".join(shown) == gem.generate(PROMPTS[0], max_new_tokens=60).text


def test_a_hook_that_fails_fails_alone(gem, idle):
    def broken(generated, logits):
        if len(generated) == 3:
            raise RuntimeError("broken hook")
        return logits

    good = gem.submit(PROMPTS[0], max_new_tokens=20)
    bad = gem.submit(PROMPTS[1], max_new_tokens=20, logits_hook=broken)
    with pytest.raises(RuntimeError, match="broken hook"):
        bad.result()
    assert good.result() == gem.generate(PROMPTS[0], max_new_tokens=20)


def test_a_hook_may_embed_but_not_generate(gem, idle):
    seen = []

    def embeds(generated, logits):
        seen.append(gem.embed_query("a").shape)
        return logits

    gem.generate(PROMPTS[0], max_new_tokens=2, logits_hook=embeds)
    assert seen == [(gem.dim,)] * 2
    with pytest.raises(GemError, match="wait for itself"):
        gem.generate(PROMPTS[0], logits_hook=lambda *_: gem.generate("a"))


def test_who_would_not_wait_is_told_that_it_is_full(gem, idle):
    idle.limits = Limits(rows=1, queued=1)
    running = gem.stream(PROMPTS[0], max_new_tokens=200)
    next(running)
    waiting = gem.submit(PROMPTS[1], max_new_tokens=3)
    with pytest.raises(EngineFull, match="the limit is 1"):
        gem.submit(PROMPTS[2], wait=False)
    with pytest.raises(EngineFull):
        next(gem.stream(PROMPTS[2], wait=False))
    patient = gem.submit(PROMPTS[2], max_new_tokens=3)  # waits, as callers do by default
    running.close()
    assert len(waiting.result().ids) == len(patient.result().ids) == 3


def test_a_cancelled_request_that_waits_is_never_run(gem, idle):
    idle.limits = Limits(rows=1)
    running = gem.submit(PROMPTS[0], max_new_tokens=60)
    waiting = gem.submit(PROMPTS[1], max_new_tokens=60)
    assert waiting.cancel()
    tokens = len(running.result().ids)
    until(lambda: idle.stats().rows == idle.stats().queued == 0)
    assert tokens == 60


async def test_who_stops_awaiting_a_batch_stops_its_computation(gem, idle):
    task = asyncio.create_task(gem.agenerate_batch(PROMPTS, max_new_tokens=400))
    while idle.stats().rows < 3:
        await asyncio.sleep(0.01)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await asyncio.to_thread(until, lambda: idle.stats().rows == 0)


def test_the_beginning_of_a_prompt_is_not_run_again(gem, idle):
    told = [{"role": "system", "content": "Speak of rivers and of the sea alone. " * 4}]
    ask = lambda words: [*told, {"role": "user", "content": words}]  # noqa: E731
    first = gem.generate(ask("Who?"), max_new_tokens=8)
    hits = idle.stats().prefix_hits
    again = gem.generate(ask("Who?"), max_new_tokens=8)
    other = gem.generate(ask("Where is it?"), max_new_tokens=8)
    assert idle.stats().prefix_hits == hits + 2
    assert again == first
    whole = torch.tensor([other.prompt_ids])
    with torch.inference_mode():
        expected = gem.base.model.generate(whole, max_new_tokens=8, do_sample=False, pad_token_id=1)
    assert list(other.ids) == expected[0, whole.shape[1] :].tolist()


def test_rows_of_very_different_length_do_not_stand_side_by_side(gem, idle):
    long = gem.stream("sea " * 380, max_new_tokens=60)
    next(long)
    short = gem.submit("Who?", max_new_tokens=20)
    assert short.result() == gem.generate("Who?", max_new_tokens=20)
    long.close()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
def test_a_forked_child_makes_its_own_engine(base_folder):
    model = disturb(create(base_folder))
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # threads of OpenMP do not survive a fork
    try:
        expected = model.generate(PROMPTS[0], max_new_tokens=5).ids
        context = multiprocessing.get_context("fork")
        receives, sends = context.Pipe(duplex=False)
        child = context.Process(
            target=lambda: sends.send(model.generate(PROMPTS[0], max_new_tokens=5).ids)
        )
        child.start()
        assert receives.poll(60), "the child hangs"
        assert receives.recv() == expected
        child.join()
    finally:
        torch.set_num_threads(threads)


def test_the_thread_is_there_only_while_there_is_work(gem, idle, monkeypatch):
    from gem_rag.engine import worker

    monkeypatch.setattr(worker, "IDLE_SECONDS", 0.05)
    until(lambda: not any(t.name == "gem-rag" for t in threading.enumerate()))
    gem.generate(PROMPTS[0], max_new_tokens=2)
    until(lambda: not any(t.name == "gem-rag" for t in threading.enumerate()))


def test_stats_count_what_was_done(gem, idle):
    before = idle.stats()
    gem.generate_batch(PROMPTS[:2], max_new_tokens=6)
    until(lambda: idle.stats().tokens >= before.tokens + 10)  # booked after answers are handed over
    after = idle.stats()
    assert after.tokens - before.tokens == 10  # the first token of each comes with its prompt
    assert after.tokens_per_second > 0
    assert after.busy_seconds > before.busy_seconds


async def test_more_streams_than_threads_are_all_read(gem, idle):
    async def read(i):
        return [piece async for piece in gem.astream(f"Rivers {i}", max_new_tokens=12)]

    found = await asyncio.wait_for(asyncio.gather(*[read(i) for i in range(40)]), 60)
    assert all(found)


def test_one_reader_of_more_streams_than_rows_reads_them_all(gem, idle):
    streams = [gem.stream(f"Rivers {i}", max_new_tokens=12) for i in range(20)]
    shown = [[next(stream)] for stream in streams]
    for pieces, stream in zip(shown, streams, strict=True):
        pieces += stream
    alone = [gem.generate(f"Rivers {i}", max_new_tokens=12).text for i in range(20)]
    assert ["".join(pieces) for pieces in shown] == alone


def test_closing_a_stream_that_waits_frees_its_reader(gem, idle):
    idle.limits = Limits(rows=1)
    running = gem.submit(PROMPTS[0], max_new_tokens=200)
    waiting = gem.stream(PROMPTS[1], max_new_tokens=10)
    reader = threading.Thread(target=lambda: list(waiting))
    reader.start()
    until(lambda: idle.stats().queued == 1)
    waiting.close()
    reader.join(10)
    assert not reader.is_alive()
    running.cancel()


def test_higher_limits_are_used_at_once(gem, idle):
    idle.limits = Limits(rows=1)
    running = gem.submit(PROMPTS[0], max_new_tokens=400)
    waiting = gem.submit(PROMPTS[1], max_new_tokens=3)
    until(lambda: idle.stats().queued == 1)
    idle.limits = Limits(rows=2)
    assert waiting.result(20).ids
    running.cancel()


def test_who_waits_for_a_cancelled_request_is_told(gem, idle):
    future = gem.submit(PROMPTS[0], max_new_tokens=300)
    until(lambda: idle.stats().rows == 1)
    future.cancel()
    done, _ = concurrent.futures.wait([future], 20)
    assert done


async def test_a_work_that_was_given_up_leaves_nothing_behind(gem, idle):
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.01):
            await gem.aembed_documents(TEXTS * 400)
    assert gem.embed_query("a").shape == (gem.dim,)
    assert len(gem.generate("a", max_new_tokens=5).ids) == 5


@pytest.mark.parametrize(
    "use", ["print(m.generate('a', max_new_tokens=40).text)", "next(m.stream('a'))"]
)
def test_a_script_may_end_while_something_is_computed(base_folder, use):
    script = f"from gem_rag.model import create; m = create({str(base_folder)!r}); {use}"
    for _ in range(3):
        done = subprocess.run([sys.executable, "-c", script], capture_output=True, check=False)
        assert done.returncode == 0, done.stderr[-500:]


def test_what_a_question_asks_for_in_turn_waits_as_one_request(idle):
    done, hold = [], threading.Event()

    def question():
        with one_request():
            for part in ("embedded", "ranked", "ranked on"):
                idle.call(partial(done.append, part))

    def other(number):
        idle.call(lambda: (time.sleep(0.05), done.append(number)))  # time for the question to go on

    asking = [threading.Thread(target=idle.call, args=(hold.wait,))]
    asking += [threading.Thread(target=question)]
    asking += [threading.Thread(target=other, args=(i,)) for i in range(8)]
    for queued, thread in enumerate(asking):
        thread.start()
        until(lambda queued=queued: idle.stats().queued >= queued)
    hold.set()
    for thread in asking:
        thread.join()
    assert done.index("ranked on") <= 5  # each of the others came before it was asked for
