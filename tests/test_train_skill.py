"""Training skills: from rows to a checkpoint that has learned them, and what stops a run early."""

import json
import signal
from dataclasses import replace
from pathlib import Path

import pytest

from gem_rag.errors import GemError
from gem_rag.model import load
from gem_rag_train import SkillTraining, train_skill
from gem_rag_train.loop import skill_output
from gem_rag_train.loop.state import RunFolder

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
