"""The training of a skill: passages are read once, only prompts and answers are run."""

from __future__ import annotations

import dataclasses
import math
import sys
import time
import warnings
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from random import Random
from typing import Any

import torch
from torch import nn

from gem_rag.checkpoints.skills import load_skill
from gem_rag.compute.skill import Skill
from gem_rag.config import SkillTask
from gem_rag.errors import GemError
from gem_rag.model import GemModel, load
from gem_rag_train.data.bundled import SETS
from gem_rag_train.data.plan import Plan, hold_out
from gem_rag_train.data.rows import Row
from gem_rag_train.kept.passages import Passages
from gem_rag_train.loop.interrupt import noting_interrupts
from gem_rag_train.loop.job import Job, job_of
from gem_rag_train.loop.lessons import drawn, fitted, lessons_of
from gem_rag_train.loop.preflight import keep_freed_memory, require_extra
from gem_rag_train.loop.schedule import warm_cosine
from gem_rag_train.loop.skill_output import write_checkpoint
from gem_rag_train.loop.state import Average, Best, parameters_of
from gem_rag_train.monitor.live import reports
from gem_rag_train.recipes.skill import SkillTraining

BETAS = 0.9, 0.98
LARGEST_GRADIENT = 1.0  # norm beyond which gradients are clipped
MOST_HELD_OUT: dict[SkillTask, int] = {"answer": 100, "rank": 50}  # rows


@dataclass(frozen=True)
class TrainedSkill:
    """What came of a training.

    Attributes:
        checkpoint: Folder of the checkpoint that has the skill now.
        name: The skill's.
        steps: Of the training.
        heldout_rows: What was measured on; 0: nothing was.
        before: Held-out measures before the first step, by name.
        after: Those of the weights that were kept.
    """

    checkpoint: Path
    name: str
    steps: int
    heldout_rows: int
    before: dict[str, float]
    after: dict[str, float]

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return {**dataclasses.asdict(self), "checkpoint": str(self.checkpoint)}


def train_skill(
    name: str,
    data: Sequence[str | Path],
    *,
    output: str | Path,
    model: str | Path | None = None,
    settings: SkillTraining | None = None,
    init: str | Path | None = None,
    resume: bool = False,
    show_progress: bool | None = None,
) -> TrainedSkill:
    """Train a skill and write it into a checkpoint.

    Args:
        name: What the skill is asked for by.
        data: JSONL files of rows to answer (``context, question, answer``, maybe ``style``) or to
            rank (``question, positive, negatives``); ``bundled:answer`` or ``bundled:rank`` is what
            the bundled skills were trained on.
        output: Folder of the checkpoint it goes into: a new one becomes a copy of `model`, a
            checkpoint of the same base gets the skill beside those it has.
        model: The checkpoint whose base it is for: bundled name, folder or hub id; None is the
            bundled default.
        settings: How; None is the bundled data's recipe, or the defaults.
        init: A skill to go on from: its name in `model`, or its folder.
        resume: Go on from the last saved state; the weights become those of an uninterrupted run.
        show_progress: A live line; None shows one on a terminal.

    Raises:
        GemError: Data, settings, checkpoint or output that cannot be used, nothing to resume, or a
            loss that is not finite.
        KeyboardInterrupt: Ctrl-C; the state was saved.
    """
    require_extra()
    job = job_of(name, data, output=output, model=model, settings=settings, init=init)
    keep_freed_memory()
    return SkillTrainer(job, resume=resume).run(show_progress)


class SkillTrainer:
    """A run: the skill, its rows, the optimizer, and the step they are at."""

    def __init__(self, job: Job, *, resume: bool) -> None:
        self.job = job
        self.folder = job.open_run(resume=resume)
        self.model = load(job.checkpoint)
        self.model.parts.adapter.requires_grad_(False)
        self.skill = _start(job, self.model)
        self.model.parts.skills[job.config.name] = self.skill
        rows = _all_rows(job, self.model)
        self.sources = Counter(row.source for row in rows)
        s = job.settings
        rows, self.heldout = _held_out(rows, s, MOST_HELD_OUT[job.config.task])
        self.steps = s.steps_for(len(rows))
        self.plan = Plan(
            rows,
            s.shares,
            steps=self.steps,
            rows_per_step=s.rows_per_step,
            seed=s.seed,
            drawn=partial(drawn, negatives=s.negatives),
        )
        again = self.plan.again | {text for row in self.heldout for text in row.texts}
        disk = int(s.kept_gigabytes * 1e9)
        self.passages = Passages(self.model, again, job.run / "readings", disk)
        self.lessons = lessons_of(self.model, self.skill, self.passages, after_words=s.after_words)
        self.optimizer = torch.optim.AdamW(
            self.skill.adapter.parameters(), weight_decay=0.0, betas=BETAS
        )
        self.best = Best()
        self.step = 0
        if resume:
            self.step, self.best, _ = self.folder.load(self.optimizer)

    def run(self, show_progress: bool | None = None) -> TrainedSkill:
        """Train to the last step, saving the state on the way, and write the skill."""
        show = sys.stderr.isatty() if show_progress is None else show_progress
        self.folder.trim_log(self.step or -1)  # what was measured at 0 is measured again
        with (
            noting_interrupts() as interrupt,
            reports(self.steps, self.step, show=show, tensorboard=None) as report,
        ):
            if self.step == 0 and self._measures:
                self.folder.log({"step": 0} | self.lessons.measure(self.heldout))
            while self.step < self.steps and not interrupt.came:
                facts = self.train_step()
                facts |= self._measure()
                report(facts)
                self.folder.log(facts)
                if self.step % self.job.settings.checkpoint_every == 0:
                    self._save()
        if self.step < self.steps:
            self._save()
            warnings.warn(
                f"stopped after step {self.step} of {self.steps}; the state is saved in "
                f"{self.job.run}: the same command with --resume goes on",
                stacklevel=2,
            )
            raise KeyboardInterrupt
        return self._finish()

    def train_step(self) -> dict[str, float]:
        """One optimizer step, in the thread that reads: see `Engine.call`; what to report."""
        return self.model.engine.call(self._step)

    @torch.inference_mode(False)
    @torch.enable_grad()
    def _step(self) -> dict[str, float]:
        started = time.perf_counter()
        s = self.job.settings
        rate = s.learning_rate * warm_cosine(self.step, self.steps, s.warmup_steps)
        self.optimizer.zero_grad(set_to_none=True)
        outcome = self.lessons.backward(
            self.plan.steps[self.step], Random(f"{s.seed}:{self.step}:step")
        )
        parameters = parameters_of(self.optimizer)
        norm = float(nn.utils.clip_grad_norm_(parameters, LARGEST_GRADIENT))
        for what, value in (("loss", outcome.loss), ("gradients' norm", norm)):
            self._require_finite(what, value)
        self.optimizer.param_groups[0]["lr"] = rate
        self.optimizer.step()
        self.step += 1
        facts = {"step": self.step, "loss": outcome.loss, **outcome.facts}
        facts |= {"grad_norm": norm, "lr": rate, "seconds": time.perf_counter() - started}
        return facts | {"tokens_per_second": outcome.tokens / facts["seconds"]}

    def _require_finite(self, what: str, value: float) -> None:
        if not math.isfinite(value):
            raise GemError(
                f"the {what} is {value} at step {self.step}; look for broken texts among the rows, "
                f"or start anew with a lower learning rate: delete {self.job.run}"
            )

    @property
    def _measures(self) -> bool:
        return self.job.settings.eval_every > 0 and bool(self.heldout)

    def _measure(self) -> dict[str, float]:
        """Held-out quality, where it is due; keeps the best weights."""
        due = self.step % max(1, self.job.settings.eval_every) == 0 or self.step == self.steps
        if not (self._measures and due):
            return {}
        found = self.lessons.measure(self.heldout)
        metric = self.job.settings.best_metric
        self.best.offer(found[metric], metric, self.step, parameters_of(self.optimizer))
        return found

    def _save(self) -> None:
        self.folder.save(self.step, self.optimizer, self.best, Average())

    def _finish(self) -> TrainedSkill:
        """Write the best weights as the skill, with card, recipe and report."""
        self._save()
        if self.best.weights:
            with torch.no_grad():
                for own, best in zip(
                    self.skill.adapter.parameters(), self.best.weights, strict=True
                ):
                    own.copy_(best)
        trained = TrainedSkill(
            self.job.output,
            self.job.config.name,
            self.steps,
            len(self.heldout) if self._measures else 0,
            self.folder.measured(0),
            self.folder.measured(self.best.step or self.steps),
        )
        write_checkpoint(
            self.job,
            self.skill,
            sources=self.sources,
            steps=self.steps,
            best_step=self.best.step,
            heldout=trained.heldout_rows,
            before=trained.before,
            after=trained.after,
        )
        self.passages.forget()
        self.folder.close()
        return trained


def _start(job: Job, model: GemModel) -> Skill:
    """The skill as it is before the first step: untrained, or an earlier one's weights."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(job.settings.seed)
        skill = Skill.new(model.base, job.config)
    if job.init is not None:
        earlier = load_skill(model.parts, job.init)
        with torch.no_grad():
            for own, old in zip(
                skill.adapter.parameters(), earlier.adapter.parameters(), strict=True
            ):
                own.copy_(old)
    return skill


def _all_rows(job: Job, model: GemModel) -> list[Row]:
    """The user's rows and the bundled ones, their passages cut to what is read."""
    rows = list(job.rows)
    if job.bundled:
        rows += SETS[job.bundled].build(model.codec.backend, job.settings.seed)
    length = min(job.settings.max_length, model.config.max_text_tokens)
    return fitted(model, rows, length)


def _held_out(
    rows: Sequence[Row], settings: SkillTraining, most: int
) -> tuple[list[Row], list[Row]]:
    """Rows to train on, and those to measure on."""
    if not settings.eval_every or not settings.heldout:
        return list(rows), []
    left, aside = hold_out(rows, settings.shares, settings.heldout, most, settings.seed)
    if not aside:
        warnings.warn(
            "the rows are about too few passages to hold some out: nothing is measured, and the "
            "last weights are kept",
            stacklevel=4,
        )
    return left, aside
