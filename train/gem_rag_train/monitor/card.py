"""The model card a run writes beside its checkpoint."""

from __future__ import annotations

import re
from pathlib import Path

from gem_rag.checkpoints.card import CARD, default_card
from gem_rag.checkpoints.names import DEFAULT, EMBEDDED_BASE, public_name, resolve_base
from gem_rag.model import GemModel
from gem_rag_train.data.tasks import sources_of
from gem_rag_train.objectives.teacher import TEACHERS
from gem_rag_train.recipes.config import TrainConfig


def model_card(
    model: GemModel,
    config: TrainConfig,
    *,
    best: float | None = None,
    best_step: int = 0,
    measured_on: str = "",
) -> str:
    """Markdown: how to use the checkpoint, its recipe, data, licences and held-out quality.

    Args:
        model: The checkpoint.
        config: Its recipe.
        best: What ``best_metric`` was with the weights that were kept; None: it was not measured.
        best_step: When that was.
        measured_on: In words.
    """
    teachers = [TEACHERS[config.teacher]] if config.teacher in TEACHERS else []
    rows = [
        f"| {s.name} | {s.requirement} | {s.licence} | {s.what} |"
        for s in [*sources_of(config.shares, config.prose), *teachers]
    ]
    rows += [
        f"| {Path(f).name} | | its owner's | the maker's own file |" for f in config.data_files
    ]
    quality = ""
    if best is not None:
        quality = (
            f"## Held-out quality\n\n{config.best_metric} {best:.3f} at step {best_step} of "
            f"{config.steps}, on {measured_on}; these weights were kept.\n\n"
        )
    return (
        f"{default_card(model.config)}\n## Training data\n\nThe texts are not shipped; the trainer "
        "fetches what has a package.\n\n| source | package | licence | what |\n|---|---|---|---|\n"
        + "\n".join(rows)
        + f"\n\n{quality}## Licence\n\nMade from {public_name(config.base)}, whose licence is "
        f"{_licence(config.base)}, and from the data above; what they allow, its maker may allow."
        f"\n\n## Recipe\n\n```toml\n{_recipe(config)}```\n"
    )


def _licence(base: str) -> str:
    """By the base's own card."""
    if base in (EMBEDDED_BASE, DEFAULT):
        return "Apache-2.0"
    card = resolve_base(base) / CARD
    text = card.read_text(encoding="utf-8", errors="replace") if card.exists() else ""
    found = re.search(r"^license:[ \t]*[\"']?([\w.-]+)", text, re.MULTILINE)
    return found[1] if found else "not in its folder"


def _recipe(config: TrainConfig) -> str:
    """The recipe, without the maker's own folders."""
    import tomli_w

    values = config.to_dict()
    for folder in ("output", "readings"):
        del values[folder]
    for one in ("base", "start_from", "teacher"):
        values[one] = public_name(values[one])
    return tomli_w.dumps(values | {"data_files": [Path(f).name for f in config.data_files]})
