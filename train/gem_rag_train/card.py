"""The model card a run writes beside its checkpoint."""

from __future__ import annotations

import json

from gem_rag.checkpoint import default_card
from gem_rag.model import GemModel
from gem_rag_train.config import TrainConfig
from gem_rag_train.data import sources_of
from gem_rag_train.teacher import TEACHERS


def model_card(model: GemModel, config: TrainConfig) -> str:
    """Markdown: how to use the checkpoint, its recipe, its data and their licences."""
    teachers = [TEACHERS[config.teacher]] if config.teacher in TEACHERS else []
    rows = "".join(
        f"| {s.name} | {s.requirement} | {s.licence} | {s.what} |\n"
        for s in [*sources_of(config.shares), *teachers]
    )
    settings = {k: v for k, v in config.to_dict().items() if k != "output"}
    recipe = json.dumps(settings, indent=2)
    return (
        f"{default_card(model)}\n## Training data\n\nThe texts are not shipped; the trainer "
        f"fetches them.\n\n| source | package | licence | what |\n|---|---|---|---|\n{rows}\n"
        f"## Recipe\n\n```json\n{recipe}\n```\n"
    )
