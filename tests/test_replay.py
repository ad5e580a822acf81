"""Steps of decoding that are recorded and replayed, as on a card, say what they say alone."""

import gc
import time

import pytest
import torch
from pretend_graph import Pretended, PretendGraph
from test_skills import skilled
from tiny import disturb, make_base

from gem_rag.compute import replay
from gem_rag.compute.parts import Parts
from gem_rag.compute.replay import WithoutHost
from gem_rag.config import AdapterConfig
from gem_rag.model import create

PROMPTS = ["Rivers run", "Who wrote it?", "A kettle " * 12]
LONG = {"max_new_tokens": 90, "speculate": False}


def test_what_waits_is_found_before_anything_is_recorded():
    number = torch.tensor([1.0])
    with torch.inference_mode(), WithoutHost():
        assert (number + 1).shape == (1,)
        for asked in (lambda: int(number), lambda: bool(number > 0), number.nonzero):
            with pytest.raises(RuntimeError, match="waits for the device"):
                asked()


@pytest.fixture
def pretended(monkeypatch):
    found = Pretended()
    monkeypatch.setattr(replay, "recorded", found)
    return found


@pytest.fixture(scope="module", params=["llama", "mistral", "qwen3", "gemma3", "phi3"])
def family(request, tmp_path_factory):
    base = make_base(tmp_path_factory.mktemp(request.param) / "base", request.param)
    return disturb(create(base, dtype="float32", adapter=AdapterConfig(rank=4, alpha=8)))


@pytest.fixture
def model(family, monkeypatch):
    """One that never ends an answer by itself."""
    monkeypatch.setattr(Parts, "end_ids", frozenset())
    family.parts.replays = True
    yield family
    family.parts.replays = False
    family.parts.skills.clear()


def by_itself(model, ask):
    model.parts.replays = False
    said = ask()
    model.parts.replays = True
    return said


def test_a_replayed_answer_is_the_one_without(model, pretended):
    def ask():
        return model.generate(PROMPTS[0], **LONG).ids

    expected = by_itself(model, ask)
    assert pretended.replayed == 0
    assert ask() == expected
    assert len(expected) == 90
    assert model.parts.replays
    assert pretended.replayed >= 80


def test_rows_that_join_and_leave_say_what_they_say_without(model, pretended):
    def ask():
        asked = [
            model.submit(prompt, **LONG | {"max_new_tokens": 30 + 25 * i})
            for i, prompt in enumerate(PROMPTS)
        ]
        return [future.result().ids for future in asked]

    expected = by_itself(model, ask)
    assert ask() == expected
    assert len(pretended.graphs) >= 2
    assert pretended.replayed >= 60


def test_a_skill_that_acts_in_all_rows_is_replayed_and_mixed_ones_are_run(model, pretended):
    skilled(model)
    (reading,) = model.read(["The kettle has a warranty of seven years."])

    def ask(skills):
        asked = [
            model.submit("\nHow long?", after=reading, skill=skill, **LONG) for skill in skills
        ]
        return [future.result().ids for future in asked]

    alike, mixed = ["answer", "answer"], ["answer", None]
    expected = [by_itself(model, lambda each=each: ask(each)) for each in (alike, mixed)]
    assert expected[1][0] != expected[1][1]
    assert ask(alike) == expected[0]
    replayed = pretended.replayed
    assert replayed >= 80
    assert ask(mixed) == expected[1]
    assert pretended.replayed <= replayed + 10  # those of a row that began sooner


def test_a_skill_that_learns_is_recorded_anew(model, pretended):
    skill = skilled(model)
    (reading,) = model.read(["The kettle has a warranty of seven years."])

    def ask():
        return model.generate("\nHow long?", after=reading, skill="answer", **LONG).ids

    before = ask()
    with torch.no_grad():
        for weight in skill.adapter.parameters():
            weight.mul_(-1.5)
    after = ask()
    assert after == by_itself(model, ask)
    assert after != before


def test_what_waits_for_the_host_is_not_replayed(model, pretended, monkeypatch):
    expected = by_itself(model, lambda: model.generate(PROMPTS[1], **LONG).ids)
    rotary = model.parts.decoder._rotary

    def stretched(x, positions, *kind):
        assert int(positions.max()) >= 0  # as those of `rope_type="dynamic"` are
        return rotary(x, positions, *kind)

    monkeypatch.setattr(model.parts.decoder, "_rotary", stretched)
    assert model.generate(PROMPTS[1], **LONG).ids == expected
    assert pretended.replayed == 0
    assert not model.parts.replays


def test_what_comes_out_otherwise_is_not_replayed(model, monkeypatch):
    expected = by_itself(model, lambda: model.generate(PROMPTS[1], **LONG).ids)
    replayed = []

    def wrong(run, device):
        return (lambda: replayed.append(1)), run() + 1000

    monkeypatch.setattr(replay, "recorded", wrong)
    assert model.generate(PROMPTS[1], **LONG).ids == expected
    assert replayed == [1]
    assert not model.parts.replays


def test_recorded_steps_go_with_their_rows(model, pretended):
    model.generate(PROMPTS[0], **LONG)
    held = [graph for graph in pretended.graphs if graph.replayed]
    assert held
    end = time.monotonic() + 10  # the worker lets go of its last row in its own time
    while any(type(one) is replay.Step for one in gc.get_objects()):
        assert time.monotonic() < end
        time.sleep(0.01)
        gc.collect()


def test_a_pretended_graph_does_what_was_recorded_and_no_more():
    number, added = torch.tensor([1.0, 2.0]), 3.0

    def run():
        held = number * 2
        held.view(2, 1)[0] += added
        return held

    with PretendGraph() as graph:
        out = run()
    number.copy_(torch.tensor([10.0, 20.0]))
    added = 5.0
    graph.again()
    assert out.tolist() == [23.0, 40.0], "the number that Python saw is the old one"
    with pytest.raises(RuntimeError, match=r"item|_local_scalar_dense"), PretendGraph():
        number.sum().item()
    with pytest.raises(RuntimeError, match="lift_fresh"), PretendGraph():
        number + torch.tensor([1.0, 2.0])
