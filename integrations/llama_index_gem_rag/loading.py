"""A model by name, path or object, and what to call it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from gem_rag.checkpoint import BUNDLED
from gem_rag.model import GemModel

Model = str | Path | GemModel | None


def load(model: Model, **options: Any) -> GemModel:
    """The model itself, or the one of this name; the same checkpoint is the same object."""
    if isinstance(model, GemModel):
        return model
    return GemModel.from_pretrained(model, **options)


def name_of(model: Model, loaded: GemModel) -> str:
    """The name or path given, or that of a loaded model, by which it can be loaded again.

    A model that was made here and never saved goes by its base's name.
    """
    if isinstance(model, str | Path):
        return str(model)
    if loaded.path is None:
        return loaded.config.base.name
    return loaded.path.name if loaded.path.parent == BUNDLED else str(loaded.path)
