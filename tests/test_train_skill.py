"""Training skills: from rows to a checkpoint that has learned them, and what stops a run early."""

import json
import signal
from dataclasses import replace
from pathlib import Path
from random import Random

import pytest
import torch
from safetensors.torch import load_file

from gem_rag.compute.skill import Skill
from gem_rag.config import AdapterConfig, SkillConfig
from gem_rag.errors import GemError
from gem_rag.model import load
from gem_rag_train import SkillTraining, train_skill
from gem_rag_train.data.plan import Plan, hold_out
from gem_rag_train.data.rows import AnswerRow, RankRow
from gem_rag_train.loop import skill as skill_module
from gem_rag_train.loop import skill_output
from gem_rag_train.loop.state import RunFolder
from gem_rag_train.objectives.answering import AnsweringObjective

THINGS = ["kettle", "letter", "engine", "horse"]
ANSWERS = ["seven years", "the sea", "a child", "in winter"]
QUICK = SkillTraining(
    steps=40, rows_per_step=4, learning_rate=2e-2, warmup_steps=2, eval_every=0, heldout=0.0,
    checkpoint_every=100, rank=4, alpha=8.0,
)  # fmt: skip


@pytest.fixture(autouse=True)
def _no_report(monkeypatch):
    """Reports have their own tests."""
    monkeypatch.setattr(skill_output, "write_report", lambda run, checkpoint: None)


@pytest.fixture(scope="module")
def checkpoint(gem, tmp_path_factory):
    return gem.save_pretrained(tmp_path_factory.mktemp("skills") / "checkpoint", card="# mine\n")


def write(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.fixture
def answers(tmp_path):
    rows = [
        {"context": f"The {t} has {a}.", "question": f"what has the {t}?", "answer": a}
        for t, a in zip(THINGS, ANSWERS, strict=True)
    ]
    return write(tmp_path / "answers.jsonl", rows)


@pytest.fixture
def ranks(tmp_path):
    passages = {t: f"The {t} has {a}." for t, a in zip(THINGS, ANSWERS, strict=True)}
    rows = [
        {
            "question": f"what has the {t}?",
            "positive": p,
            "negatives": [other for other in passages.values() if other != p],
        }
        for t, p in passages.items()
    ]
    return write(tmp_path / "ranks.jsonl", rows)


def train(name, data, output, settings=QUICK, **options):
    return train_skill(name, data, output=output, settings=settings, show_progress=False, **options)


def log_of(output, name):
    file = Path(f"{output}.run/skills/{name}/log.jsonl")
    return [json.loads(line) for line in file.read_text().splitlines()]


def test_a_skill_learns_its_rows_and_generation_without_it_stays(checkpoint, answers, tmp_path):
    trained = train("answer", [answers], tmp_path / "out", model=checkpoint)
    before, after = load(checkpoint), load(trained.checkpoint)
    assert after.skills == ["answer"]
    skill = after.parts.skill("answer")
    right = 0
    for row in map(json.loads, answers.read_text().splitlines()):
        (reading,) = after.read([row["context"]])
        asked = skill.config.asked(row["question"])
        said = after.generate(asked, after=reading, skill="answer", max_new_tokens=24).text
        plain = after.generate(asked, after=reading, max_new_tokens=24).text
        (earlier,) = before.read([row["context"]])
        assert plain == before.generate(asked, after=earlier, max_new_tokens=24).text
        right += said == row["answer"]
    assert right == len(THINGS)
    assert after.fingerprint == before.fingerprint
    losses = [row["loss"] for row in log_of(tmp_path / "out", "answer")]
    assert losses[-1] < losses[0] / 3


def test_a_skill_learns_to_rank_its_rows(checkpoint, ranks, tmp_path):
    trained = train("rank", [ranks], tmp_path / "out", replace(QUICK, steps=80), model=checkpoint)
    model = load(trained.checkpoint)
    skill = model.parts.skill("rank")
    for row in map(json.loads, ranks.read_text().splitlines()):
        passages = model.read([row["positive"], *row["negatives"]])
        scores = model.ranker.relevance(passages, model.ranker.judged(row["question"], skill))
        assert scores[0] > 0 > scores[1:].max()
    assert log_of(tmp_path / "out", "rank")[-1]["accuracy"] == 1


@pytest.mark.parametrize("task", ["answers", "ranks"])
def test_an_interrupted_run_resumes_to_the_same_weights(
    checkpoint, task, request, tmp_path, monkeypatch
):
    data = [request.getfixturevalue(task)]
    settings = replace(QUICK, steps=6, rows_per_step=3, eval_every=2, heldout=0.5)
    train("mine", data, tmp_path / "whole", settings, model=checkpoint)
    logged = RunFolder.log

    def log(self, facts):
        logged(self, facts)
        if facts["step"] == 3:
            signal.raise_signal(signal.SIGINT)

    with monkeypatch.context() as patched:
        patched.setattr(RunFolder, "log", log)
        with (
            pytest.warns(UserWarning, match=r"after step 3 of 6.*--resume"),
            pytest.raises(KeyboardInterrupt),
        ):
            train("mine", data, tmp_path / "cut", settings, model=checkpoint)
    assert not (tmp_path / "cut").exists()
    with pytest.raises(GemError, match="holds a run already; pass --resume"):
        train("mine", data, tmp_path / "cut", settings, model=checkpoint)
    other = replace(settings, seed=1)
    with pytest.raises(GemError, match=r"another recipe.*seed"):
        train("mine", data, tmp_path / "cut", other, model=checkpoint, resume=True)
    train("mine", data, tmp_path / "cut", settings, model=checkpoint, resume=True)
    name = "skills/mine/adapter_model.safetensors"
    assert (tmp_path / "cut" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
    assert [row["step"] for row in log_of(tmp_path / "cut", "mine")] == list(range(7))


def test_what_was_held_out_is_measured_and_the_best_weights_are_kept(checkpoint, answers, tmp_path):
    settings = replace(QUICK, steps=6, eval_every=2, heldout=0.5)
    trained = train("mine", [answers], tmp_path / "out", settings, model=checkpoint)
    assert trained.heldout_rows == 2
    assert {"heldout_loss", "heldout_contains", "heldout_f1"} == trained.before.keys()
    measured = {
        r["step"]: r["heldout_loss"]
        for r in log_of(tmp_path / "out", "mine")
        if "heldout_loss" in r
    }
    assert measured.keys() == {0, 2, 4, 6}
    assert trained.after["heldout_loss"] == min(loss for step, loss in measured.items() if step)
    card = (tmp_path / "out" / "skills" / "mine" / "README.md").read_text()
    assert f"| loss, nats | {measured[0]:.3f} | {trained.after['heldout_loss']:.3f} |" in card
    assert "| answers | 4 |" in card
    assert "On 2 rows about passages that were not trained on" in card
    recipe = SkillTraining.from_recipe(tmp_path / "out" / "skills" / "mine" / "recipe.toml")
    assert recipe == settings
    assert not list(Path(f"{tmp_path}/out.run/skills/mine/readings").glob("*"))


def test_a_checkpoint_keeps_all_else_that_is_in_its_folder(checkpoint, answers, ranks, tmp_path):
    out = tmp_path / "out"
    short = replace(QUICK, steps=1)
    train("answer", [answers], out, short, model=checkpoint)
    for name in ("gem_config.json", "adapter_model.safetensors", "special_tokens.safetensors"):
        assert (out / name).read_bytes() == (checkpoint / name).read_bytes()
    assert (out / "README.md").read_text() == "# mine\n"
    (out / "notes.txt").write_text("kept")
    before = (out / "skills/answer/adapter_model.safetensors").read_bytes()
    train("rank", [ranks], out, short, model=checkpoint)  # beside the other skill
    train("more", [answers], out, short, model=out)  # into the very checkpoint
    assert load(out).skills == ["answer", "more", "rank"]
    assert (out / "skills/answer/adapter_model.safetensors").read_bytes() == before
    assert (out / "notes.txt").read_text() == "kept"


def test_a_skill_goes_on_from_another(checkpoint, answers, tmp_path):
    first = train("mine", [answers], tmp_path / "first", model=checkpoint)
    still = replace(QUICK, steps=1, learning_rate=1e-12, rank=2, prompt="\nSo: {question}")
    for init in ("mine", first.checkpoint / "skills" / "mine"):
        out = tmp_path / f"on-{Path(init).is_dir()}"
        train("other", [answers], out, still, model=first.checkpoint, init=init)
        earlier, later = (
            load_file(f / "adapter_model.safetensors")
            for f in (first.checkpoint / "skills/mine", out / "skills/other")
        )
        assert all(torch.equal(earlier[name], later[name]) for name in earlier)
        skill = load(out).parts.skill("other")
        assert skill.config.adapter.rank == 4  # the earlier one's
        assert skill.config.prompt == "\nSo: {question}"
        assert "went on from the skill mine" in skill.card


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([], "holds no rows"),
        (["{"], r"bad.jsonl:1: no JSON"),
        (["[1]"], r"bad.jsonl:1: found list"),
        ([{"text": "a"}], r"bad.jsonl:1: found the fields \['text'\]; expected context"),
        ([{"context": "a", "question": "b", "answer": []}], "'answer' is"),
        ([{"context": " ", "question": "b", "answer": "c"}], "'context' is ' '"),
        ([{"context": "a", "question": "b", "answer": ["c", 3]}], "'answer' is 3"),
        ([{"context": "a", "question": "b", "answer": "c", "style": "long"}], "'style' is 'long'"),
        ([{"question": "b", "positive": "a", "negatives": []}], "'negatives' is"),
        ([{"question": "b", "positive": "a", "negatives": ["a"]}], "is among 'negatives'"),
        ([{"n": i} for i in range(13)], r"(?s)13 rows cannot be used.*:10: .*and 3 more$"),
        (
            [
                {"context": "a", "question": "b", "answer": "c"},
                {"question": "b", "positive": "a", "negatives": ["c"]},
            ],
            "a skill does one of the two",
        ),
    ],
)
def test_rows_that_cannot_be_used_are_named_before_anything_is_loaded(
    checkpoint, rows, message, tmp_path, monkeypatch
):
    monkeypatch.setattr(skill_module, "load", None)
    file = tmp_path / "bad.jsonl"
    file.write_text("".join(f"{r if isinstance(r, str) else json.dumps(r)}\n" for r in rows))
    with pytest.raises(GemError, match=message):
        train("mine", [file], tmp_path / "out", model=checkpoint)


def test_what_does_not_go_together_is_said_before_anything_is_loaded(
    checkpoint, base_folder, answers, ranks, tmp_path, monkeypatch
):
    done = train("mine", [answers], tmp_path / "done", replace(QUICK, steps=1), model=checkpoint)
    monkeypatch.setattr(skill_module, "load", None)

    def refused(message, name="mine", data=(answers,), output=tmp_path / "out", **options):
        with pytest.raises(GemError, match=message):
            train(name, data, output, **{"model": checkpoint} | options)

    refused("does not exist; expected JSONL", data=[tmp_path / "none.jsonl"])
    refused("no data; expected files", data=[])
    refused("no bundled data 'nothing'; expected bundled:answer", data=["bundled:nothing"])
    refused("the files' rows are for the task 'answer'", data=[answers, "bundled:rank"])
    refused("name is 'a/b'; expected letters", name="a/b")
    refused("is a plain model, and a skill is part of a checkpoint", model=base_folder)
    refused("holds something that is no checkpoint", output=tmp_path)
    refused("no skill 'none' to go on from: the checkpoint has none", init="none")
    refused(
        "is for the task 'answer', the rows are for 'rank'",
        data=[ranks], model=done.checkpoint, init="mine",
    )  # fmt: skip
    refused("nothing to resume in", resume=True)
    wrong = replace(QUICK, best_metric="heldout_recall1")
    refused("best_metric is 'heldout_recall1'; expected one of", settings=wrong)


def test_settings_are_checked_by_name():
    with pytest.raises(GemError, match="unknown keys"):
        SkillTraining.for_data([], {"stepz": "3"})
    with pytest.raises(GemError, match="after_words is 2; expected from 0 to 1"):
        SkillTraining.for_data([], {"after_words": "2"})
    with pytest.raises(GemError, match="prompt is 'Go'"):
        SkillTraining(prompt="Go")
    bundled = SkillTraining.for_data(["bundled:answer", "mine.jsonl"], {"steps": "5"})
    assert bundled.steps == 5
    assert bundled.shares["coqa"] == 4
    assert SkillTraining.for_data(["bundled:rank"]).shares.keys() == bundled.shares.keys()
    assert SkillTraining().steps_for(10) == 40
    assert SkillTraining().steps_for(100_000) == 400


def test_long_passages_are_cut_and_said_to_be(checkpoint, answers, tmp_path):
    rows = [json.loads(line) for line in answers.read_text().splitlines()]
    rows[0]["context"] *= 20
    data = write(tmp_path / "long.jsonl", rows)
    with pytest.warns(UserWarning, match="1 of 4 passages have more than 40 tokens"):
        train(
            "mine",
            [data],
            tmp_path / "out",
            replace(QUICK, steps=1, max_length=40),
            model=checkpoint,
        )


def test_rows_of_a_passage_stand_together_and_shares_are_kept():
    def row(passage, i, source):
        return AnswerRow(f"{source} {passage}", f"question {i}", ("yes",), source=source)

    rows = [row(p, i, "many") for p in range(40) for i in range(6)]
    rows += [row(p, 0, "few") for p in range(60)]
    plan = Plan(
        rows, {"many": 3.0, "few": 1.0}, steps=200, rows_per_step=16, seed=0,
        drawn=lambda row, rng: row.drawn(rng),
    )  # fmt: skip
    drawn = [row for step in plan.steps for row in step]
    assert len(drawn) == 3200
    assert sum(row.source == "few" for row in drawn) == pytest.approx(800, rel=0.1)
    passages = sum(
        len({row.context for row in step if row.source == "many"}) for step in plan.steps
    )
    assert passages < 0.45 * sum(row.source == "many" for row in drawn)
    left, aside = hold_out(rows, {"many": 3.0, "few": 1.0}, 0.5, 40, 0)
    assert {row.context for row in left}.isdisjoint(row.context for row in aside)
    assert 40 <= len(aside) <= 41
    assert {row.source for row in aside} == {"many", "few"}
    with pytest.raises(GemError, match=r"shares names \['more'\]"):
        hold_out(rows, {"more": 1.0}, 0.5, 40, 0)


def test_a_held_out_passage_is_no_negative_in_training():
    passages = [f"passage {i}" for i in range(10)]
    rows = [
        RankRow(f"question {i}", p, tuple(q for q in passages if q != p))
        for i, p in enumerate(passages)
    ]
    left, aside = hold_out(rows, {}, 0.3, 50, 0)
    assert len(aside) == 3
    held_out = {row.positive for row in aside}
    assert all(held_out.isdisjoint(row.texts) for row in left)


def test_a_score_is_the_same_alone_and_among_others_and_needs_a_skill_that_ranks(
    checkpoint, answers, ranks, tmp_path
):
    short = replace(QUICK, steps=2)
    train("rank", [ranks], tmp_path / "out", short, model=checkpoint)
    train("answer", [answers], tmp_path / "out", short, model=checkpoint)
    model = load(tmp_path / "out")
    judged = model.ranker.judged("what has the kettle?", model.parts.skill("rank"))
    readings = model.read(["The kettle has seven years.", "Rivers run to the sea, all of them."])
    together = model.ranker.relevance(readings, judged)
    for reading, score in zip(readings, together, strict=True):
        assert model.ranker.relevance([reading], judged)[0] == pytest.approx(score, abs=1e-4)
    tokens = model.codec.encode_texts([r.text for r in readings], None)
    assert model.ranker.relevance(tokens, judged) == pytest.approx(together, abs=1e-4)
    with pytest.raises(GemError, match="is for the task 'answer'; expected one that ranks"):
        model.ranker.judged("what?", model.parts.skill("answer"))
    with pytest.raises(ValueError, match="the query is empty"):
        model.ranker.judged(" ", model.parts.skill("rank"))


def test_gradients_with_transformers_forward_are_those_of_our_own(checkpoint, answers, tmp_path):
    rows = [
        AnswerRow(r["context"], r["question"], (r["answer"],))
        for r in map(json.loads, answers.read_text().splitlines())
    ]
    found = []
    for forward in ("auto", "transformers"):
        model = load(checkpoint, dtype="float32", forward=forward)
        assert (model.parts.decoder is None) == (forward == "transformers")
        torch.manual_seed(0)
        config = SkillConfig("mine", "answer", model.config.base, "\n{question}", AdapterConfig(4))
        skill = Skill.new(model.base, config)
        objective = AnsweringObjective(model.parts, skill, after_words=0.5)
        objective.backward(rows, model.read([row.context for row in rows]), Random(0))
        found.append([p.grad for p in skill.adapter.parameters()])
    assert any(bool(g.abs().max() > 1e-4) for g in found[0])
    for own, theirs in zip(*found, strict=True):
        torch.testing.assert_close(own, theirs, rtol=1e-3, atol=1e-6)
