"""What the training of a skill is asked for: frozen, and kept as TOML beside the skill."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar

from gem_rag.config import SkillTask
from gem_rag.errors import GemError
from gem_rag.text import prompts
from gem_rag_train.recipes.settings import Settings

BUNDLED = "bundled:"  # before the name of a bundled recipe, where data files are named
PROMPTS: dict[SkillTask, str] = {"answer": prompts.ANSWER, "rank": prompts.RELEVANT}
SKILL_METRICS: dict[SkillTask, tuple[str, ...]] = {
    "answer": ("heldout_loss", "heldout_contains", "heldout_f1"),
    "rank": ("heldout_loss", "heldout_recall1"),
}
# Settings that a run may be gone on with under other values: they do not change the weights.
FREE = ("checkpoint_every", "kept_gigabytes")
LEAST_STEPS, MOST_STEPS, EPOCHS = 40, 400, 4


@dataclass(frozen=True)
class SkillTraining(Settings):
    """Settings of the training of one skill.

    Attributes:
        steps: Optimizer steps; 0: four times over all rows, from 40 to 400 steps.
        rows_per_step: Rows of a step: questions, each with its answer or its passages.
        learning_rate: Peak rate; linear warm-up, then a cosine to zero.
        warmup_steps: Of half the steps at most.
        rank: LoRA rank.
        alpha: LoRA alpha.
        targets: Last names of the layers to adapt, such as "q_proj"; empty: all linear.
        prompt: What is put after a passage, with ``{question}`` in it; empty is the task's own.
        after_words: Share of the rows of "answer" in which the skill acts after the user's last
            words only: so it acts where the text was not read ahead but stands in the prompt.
        negatives: Of "rank": passages that each question's own is compared with in a step.
        max_length: Tokens of a passage; the rest is cut.
        shares: How much of the rows each source gets: a file is named by its name without ending,
            a bundled recipe's sources are in its recipe. A source that is not named gets as much as
            those named on average; empty: all rows alike.
        heldout: Share of the rows (100 at most) that are measured on instead of trained on; a
            passage's rows stay together.
        eval_every: Measure so often, and keep the best weights; 0: never, the last are kept.
        best_metric: What decides: "heldout_loss"; for "answer" also "heldout_contains" or
            "heldout_f1", for "rank" "heldout_recall1".
        checkpoint_every: Steps between saved states a run can resume from.
        kept_gigabytes: Of disk, for readings of passages that come more than once.
        seed: Of the start, the order of the rows, and all that is drawn.
    """

    recipes: ClassVar[Path] = Path(__file__).parent / "skills"

    steps: int = 0
    rows_per_step: int = 32
    learning_rate: float = 1e-3
    warmup_steps: int = 20
    rank: int = 8
    alpha: float = 16.0
    targets: tuple[str, ...] = ()
    prompt: str = ""
    after_words: float = 0.25
    negatives: int = 3
    max_length: int = 512
    shares: dict[str, float] = field(default_factory=dict)
    heldout: float = 0.1
    eval_every: int = 50
    best_metric: str = "heldout_loss"
    checkpoint_every: int = 20
    kept_gigabytes: float = 4.0
    seed: int = 0

    def __post_init__(self) -> None:
        self.take_their_kinds()
        for name in ("rows_per_step", "rank", "negatives", "max_length", "checkpoint_every"):
            self.require(vars(self)[name] >= 1, name, ">= 1")
        for name in ("learning_rate", "alpha"):
            self.require(vars(self)[name] > 0, name, "above 0")
        for name in ("steps", "warmup_steps", "eval_every", "kept_gigabytes", "seed"):
            self.require(vars(self)[name] >= 0, name, ">= 0")
        self.require(0 <= self.after_words <= 1, "after_words", "from 0 to 1")
        self.require(0 <= self.heldout < 1, "heldout", "from 0 to below 1")
        self.require(all(v >= 0 for v in self.shares.values()), "shares", "shares >= 0")
        self.require(not self.prompt or "{question}" in self.prompt, "prompt", "{question} in it")
        known = sorted({name for names in SKILL_METRICS.values() for name in names})
        self.require(self.best_metric in known, "best_metric", f"one of {known}")

    @classmethod
    def for_data(
        cls,
        data: Sequence[str | Path],
        overrides: Mapping[str, str] | None = None,
        recipe: Path | None = None,
    ) -> SkillTraining:
        """A recipe file's settings, else those of bundled data, else the defaults.

        Args:
            data: Files, ``bundled:NAME`` among them.
            overrides: ``key=value`` strings over the settings.
            recipe: A .toml file.

        Raises:
            GemError: There is no such recipe, an unknown key, or a value of the wrong type.
        """
        chosen = recipe or bundled_name(data)
        if chosen:
            return cls.from_recipe(chosen, overrides)
        return cls.from_values({}, overrides)

    def require_task(self, task: SkillTask) -> None:
        """Raise `GemError` where a setting is for the other task."""
        known = SKILL_METRICS[task]
        self.require(self.best_metric in known, "best_metric", f"one of {list(known)} for {task!r}")

    def steps_for(self, rows: int) -> int:
        """Steps of a run over so many rows."""
        return self.steps or max(LEAST_STEPS, min(MOST_STEPS, EPOCHS * rows // self.rows_per_step))

    def prompt_for(self, task: SkillTask) -> str:
        """What is put after a passage."""
        return self.prompt or PROMPTS[task]


def bundled_name(data: Sequence[str | Path]) -> str:
    """Which bundled data is asked for, or "".

    Raises:
        GemError: More than one is.
    """
    names = [str(d).removeprefix(BUNDLED) for d in data if str(d).startswith(BUNDLED)]
    if len(names) > 1:
        raise GemError(f"{len(names)} bundled sets of data; expected one, and files of your own")
    return names[0] if names else ""
