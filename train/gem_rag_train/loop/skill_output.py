"""The end of a skill's training: the skill in a checkpoint, with card, recipe and report."""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Mapping

from gem_rag.checkpoints.skills import SKILLS, write_skill
from gem_rag.compute.skill import Skill
from gem_rag.config import CONFIG_FILE
from gem_rag.files import atomic_dir, atomic_write
from gem_rag_train.data.bundled import SETS
from gem_rag_train.loop.job import Job
from gem_rag_train.monitor.report import write_report
from gem_rag_train.monitor.skill_card import skill_card
from gem_rag_train.recipes.config import RECIPE


def write_checkpoint(
    job: Job,
    skill: Skill,
    *,
    sources: Mapping[str, int],
    steps: int,
    best_step: int,
    heldout: int,
    before: Mapping[str, float],
    after: Mapping[str, float],
) -> None:
    """Write the skill into the output, which becomes a copy of the checkpoint if it is new.

    Args:
        job: Says where.
        skill: The trained one.
        sources: How many rows each source has.
        steps: Of the training.
        best_step: Whose weights these are; 0: the last one's.
        heldout: Rows that were measured on.
        before: What was measured before the first step.
        after: What was measured with these weights.
    """
    kept = f"the weights of step {best_step or steps} of {steps} were kept"
    card = skill_card(
        job.config,
        job.settings,
        data=sorted(sources.items()),
        sources=SETS[job.bundled].sources if job.bundled else (),
        before=before,
        after=after,
        at=kept,
        heldout=heldout,
        init="" if job.init is None else job.init.name,
    )
    trained = dataclasses.replace(skill, card=card)
    if not (job.output / CONFIG_FILE).exists():
        with atomic_dir(job.output) as fresh:
            shutil.copytree(job.checkpoint, fresh, dirs_exist_ok=True)
            own = fresh / SKILLS / skill.name
            shutil.rmtree(own, ignore_errors=True)
            own.mkdir(parents=True)
            write_skill(trained, own)
            (own / RECIPE).write_text(job.settings.to_toml(), encoding="utf-8")
    else:
        with atomic_dir(job.folder) as fresh:
            write_skill(trained, fresh)
            (fresh / RECIPE).write_text(job.settings.to_toml(), encoding="utf-8")
    atomic_write(job.run / RECIPE, job.settings.to_toml())
    write_report(job.run, job.folder)
