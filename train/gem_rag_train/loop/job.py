"""What the training of a skill is given, checked before anything is loaded."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gem_rag.checkpoints.folder import ADAPTER_WEIGHTS, holds_something_else, is_base
from gem_rag.checkpoints.names import resolve
from gem_rag.checkpoints.skills import SKILLS
from gem_rag.config import (
    CONFIG_FILE,
    SKILL_CONFIG,
    AdapterConfig,
    GemConfig,
    SkillConfig,
    SkillTask,
)
from gem_rag.errors import GemError
from gem_rag.files import sha256_of
from gem_rag_train.data.bundled import SETS
from gem_rag_train.data.rows import Row, load_rows, task_of
from gem_rag_train.loop.state import STATE, RunFolder
from gem_rag_train.recipes.settings import at_home
from gem_rag_train.recipes.skill import BUNDLED, FREE, SkillTraining, bundled_name


@dataclass(frozen=True)
class Job:
    """A skill to be trained.

    Attributes:
        config: The skill's.
        checkpoint: Folder of the checkpoint whose base it is for.
        output: Folder of the checkpoint it goes into.
        init: Folder of the skill to go on from, if any.
        files: The user's data.
        rows: What they hold.
        bundled: Name of the bundled data, or "".
        settings: How it is trained.
    """

    config: SkillConfig
    checkpoint: Path
    output: Path
    init: Path | None
    files: tuple[Path, ...]
    rows: tuple[Row, ...]
    bundled: str
    settings: SkillTraining

    @property
    def run(self) -> Path:
        """Folder of the run: state, log and kept readings. Each skill has its own."""
        return self.output.with_name(f"{self.output.name}.run") / SKILLS / self.config.name

    @property
    def folder(self) -> Path:
        """Where the skill itself goes."""
        return self.output / SKILLS / self.config.name

    def open_run(self, *, resume: bool) -> RunFolder:
        """The run's folder.

        Raises:
            GemError: A run is there already and is not to be gone on with, or none is of
                these settings and data.
        """
        if not resume and (self.run / STATE).exists():
            raise GemError(
                f"{self.run} holds a run already; pass --resume to go on with it, delete it, or "
                "choose another output"
            )
        recipe = self.settings.to_dict() | self._facts()
        defaults = SkillTraining().to_dict()
        files = [str(file) for file in self.files]
        folder = RunFolder(self.run, recipe, defaults=defaults, free=FREE, files=files)
        if resume:
            folder.require_same()
        return folder

    def _facts(self) -> dict[str, Any]:
        """What decides the weights beside the settings and the files' contents."""
        return {
            "task": self.config.task,
            "base": self.config.base.weights,
            "bundled": self.bundled,
            "init": "" if self.init is None else str(self.init),
        }


def job_of(
    name: str,
    data: Sequence[str | Path],
    *,
    output: str | Path,
    model: str | Path | None,
    settings: SkillTraining | None,
    init: str | Path | None,
) -> Job:
    """Check all that can be checked before the model is loaded; arguments as for `train_skill`.

    Raises:
        GemError: Something is missing, broken, or does not go together.
    """
    chosen = settings if settings is not None else SkillTraining.for_data(data)
    bundled = bundled_name(data)
    if bundled and bundled not in SETS:
        known = ", ".join(BUNDLED + name for name in SETS)
        raise GemError(f"there is no bundled data {bundled!r}; expected {known}")
    files = tuple(Path(at_home(str(d))) for d in data if not str(d).startswith(BUNDLED))
    rows = load_rows(files)
    if not rows and not bundled:
        raise GemError("no data; expected files of rows (JSONL), bundled:answer or bundled:rank")
    task = _task(rows, bundled)
    chosen.require_task(task)
    checkpoint = resolve(model)
    if is_base(checkpoint):
        raise GemError(
            f"{checkpoint} is a plain model, and a skill is part of a checkpoint; make one first "
            "(`gem-rag train default --set base=...`) and train the skill for that"
        )
    base = GemConfig.from_folder(checkpoint)
    if base.adapter_scope == "embedding":
        raise GemError(
            f"{checkpoint} reads texts with its adapter on (adapter_scope 'embedding'): there are "
            "no readings that a skill could act after; train a checkpoint with another scope"
        )
    start = None if init is None else _skill_folder(init, checkpoint)
    folder = Path(at_home(str(output))).absolute()
    _require_output(folder, base, checkpoint)
    config = _config(name, task, base, chosen, start)
    return Job(config, checkpoint, folder, start, files, tuple(rows), bundled, chosen)


def _task(rows: Sequence[Row], bundled: str) -> SkillTask:
    found = task_of(rows) if rows else None
    of_bundled = SETS[bundled].task if bundled else None
    if found and of_bundled and found != of_bundled:
        raise GemError(
            f"the files' rows are for the task {found!r}, {BUNDLED}{bundled} is for "
            f"{of_bundled!r}; a skill does one of the two: train two"
        )
    task = found or of_bundled
    assert task is not None
    return task


def _skill_folder(init: str | Path, checkpoint: Path) -> Path:
    """A skill's name in the checkpoint, or a folder, as a folder."""
    for folder in (checkpoint / SKILLS / str(init), Path(at_home(str(init)))):
        if (folder / SKILL_CONFIG).is_file() and not (folder / CONFIG_FILE).exists():
            return folder.absolute()
    there = sorted(f.parent.name for f in (checkpoint / SKILLS).glob(f"*/{SKILL_CONFIG}"))
    raise GemError(
        f"no skill {str(init)!r} to go on from: the checkpoint has {', '.join(there) or 'none'}, "
        "and it is no skill's folder"
    )


def _config(
    name: str, task: SkillTask, base: GemConfig, settings: SkillTraining, init: Path | None
) -> SkillConfig:
    """The new skill's config; one that goes on from another keeps that one's adapter and prompt."""
    adapter = AdapterConfig(settings.rank, settings.alpha, settings.targets)
    prompt = settings.prompt_for(task)
    if init is not None:
        earlier = SkillConfig.from_folder(init)
        if earlier.task != task:
            raise GemError(
                f"{init} is for the task {earlier.task!r}, the rows are for {task!r}; go on from a "
                "skill of the same task"
            )
        if earlier.base.weights != base.base.weights:
            raise GemError(
                f"{init} was made for another base ({earlier.base.name}); go on from a skill of "
                "the same base"
            )
        adapter, prompt = earlier.adapter, settings.prompt or earlier.prompt
    return SkillConfig(name, task, base.base, prompt, adapter)


def _require_output(output: Path, base: GemConfig, checkpoint: Path) -> None:
    """Raise `GemError` unless the output is free, or a checkpoint that the skill fits."""
    if holds_something_else(output):
        raise GemError(
            f"{output} holds something that is no checkpoint; choose a new folder, or a checkpoint "
            "of the same base, to which the skill is added"
        )
    if not (output / CONFIG_FILE).exists():
        return
    other = GemConfig.from_folder(output)
    if other.base.weights != base.base.weights or other.preamble_ids != base.preamble_ids:
        raise GemError(
            f"{output} is a checkpoint of another base ({other.base.name}, not {base.base.name}); "
            "choose a new folder, or one of the same base"
        )
    # With scope "always" the skill is learnt on top of the embedding's adapter.
    if base.adapter_scope == "always" and not _same_adapter(output, checkpoint):
        raise GemError(
            f"{output} has another adapter than {checkpoint}, which acts while generating "
            "(adapter_scope 'always'); choose a new folder"
        )


def _same_adapter(one: Path, other: Path) -> bool:
    files = [folder / ADAPTER_WEIGHTS for folder in (one, other)]
    return all(f.exists() for f in files) and sha256_of(files[0]) == sha256_of(files[1])
