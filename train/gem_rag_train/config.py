"""A recipe: everything a run depends on, frozen, and kept as TOML."""

from __future__ import annotations

import dataclasses
import tomllib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from gem_rag.config import AdapterScope, Pooling
from gem_rag.errors import GemError

RECIPES = Path(__file__).parent / "recipes"


@dataclass(frozen=True)
class TrainConfig:
    """Settings of one training run.

    Attributes:
        base: Base model: ``embedded:smollm2-135m-instruct``, a folder or a hub id.
        output: Folder of the checkpoint; the run's state is kept beside it in ``<output>.run``.
        shares: How much of a batch each kind of pair gets (see `gem_rag_train.data`).
        steps: Optimizer steps.
        batch_size: Pairs per step; the other pairs of the batch are the negatives.
        learning_rate: Peak rate of the adapter.
        token_learning_rate: Peak rate of the token vectors.
        warmup_steps: Linear warm-up, then a cosine to zero.
        weight_decay: AdamW's, on the adapter.
        max_grad_norm: Gradients are clipped to this norm.
        max_length: Tokens of each training text.
        checkpoint_every: Steps between saved states a run can resume from.
        heldout_passages: Passages (with a question each) that held-out retrieval is measured on.
        seed: Of the start, the data order and the crops.
        num_special_tokens: K.
        pooling: As in `GemConfig`.
        adapter_scope: As in `GemConfig`.
        embed_layers: As in `GemConfig`; 0 is all.
        adapter_rank: LoRA rank.
        adapter_alpha: LoRA alpha.
        query_instruction: As in `GemConfig`.
        document_instruction: As in `GemConfig`.
        start_from: A checkpoint to go on from (its base, K and adapter must be the recipe's).
        examples: Draw this many pairs once, keep their readings on disk and train on them in
            epochs: each step then costs only the special tokens. 0 draws new pairs each step.
        kept_gigabytes: Bound of those readings.
        written_questions: About so many questions that the model itself writes for passages that
            were drawn (with `examples`): further pairs, without labels.
        neighbours: With a teacher and `examples`, a batch is made of so many texts at a time that
            are near to each other: harder negatives. 1 is by chance.
        teacher: An embedder: "all-MiniLM-L6-v2", a folder or hub id. It is distilled from, finds
            false negatives, and drops written questions that do not lead back to their passage.
        distillation: Weight of the distillation loss; 0 is without a teacher.
        distillation_temperature: Of the similarities it compares.
    """

    base: str = "embedded:smollm2-135m-instruct"
    output: str = "runs/gem"
    shares: dict[str, float] = field(default_factory=lambda: {"crops": 1.0})
    steps: int = 300
    batch_size: int = 64
    learning_rate: float = 5e-4
    token_learning_rate: float = 5e-3
    warmup_steps: int = 10
    weight_decay: float = 0.01
    max_grad_norm: float = 1.0
    max_length: int = 128
    checkpoint_every: int = 20
    heldout_passages: int = 150
    seed: int = 0
    num_special_tokens: int = 4
    pooling: Pooling = "mean"
    adapter_scope: AdapterScope = "tokens"
    embed_layers: int = 0
    adapter_rank: int = 32
    adapter_alpha: float = 32.0
    query_instruction: str = ""
    document_instruction: str = ""
    start_from: str = ""
    examples: int = 0
    kept_gigabytes: float = 20.0
    written_questions: int = 0
    neighbours: int = 1
    teacher: str = ""
    distillation: float = 0.0
    distillation_temperature: float = 0.05

    def __post_init__(self) -> None:
        for name in ("steps", "batch_size", "max_length", "checkpoint_every"):
            if getattr(self, name) < 1:
                raise GemError(f"recipe: {name} is {getattr(self, name)}; expected >= 1")
        if self.batch_size < 2:
            raise GemError("recipe: batch_size is 1; contrastive training needs negatives, so >= 2")
        if self.distillation and not self.teacher:
            raise GemError("recipe: distillation needs a teacher, such as 'all-MiniLM-L6-v2'")
        if self.examples and self.examples < self.batch_size:
            raise GemError(
                f"recipe: examples is {self.examples}; expected 0 or at least batch_size "
                f"({self.batch_size})"
            )

    @classmethod
    def from_recipe(
        cls, name_or_path: str | Path, overrides: dict[str, str] | None = None
    ) -> TrainConfig:
        """Read a bundled recipe by name, or a TOML file; `overrides` are ``key=value`` strings.

        Raises:
            GemError: No such recipe, an unknown key, or a value of the wrong type.
        """
        path = Path(name_or_path)
        if not path.suffix:
            path = RECIPES / f"{name_or_path}.toml"
        if not path.is_file():
            bundled = sorted(p.stem for p in RECIPES.glob("*.toml"))
            raise GemError(f"no recipe {str(name_or_path)!r}; expected a .toml file or {bundled}")
        values = tomllib.loads(path.read_text(encoding="utf-8"))
        for key, text in (overrides or {}).items():
            values[key] = _parse(text)
        known = {f.name for f in dataclasses.fields(cls)}
        if unknown := values.keys() - known:
            raise GemError(f"recipe has unknown keys {sorted(unknown)}; expected {sorted(known)}")
        return cls(**values)

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return dataclasses.asdict(self)


def _parse(text: str) -> Any:
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return text
