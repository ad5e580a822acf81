"""A model by name, path or object, and what to call it."""

from __future__ import annotations

from pathlib import Path

from gem_rag import checkpoint
from gem_rag.model import GemModel

Model = str | Path | GemModel | None
load = checkpoint.as_model


def name_of(model: Model, loaded: GemModel) -> str:
    """The name or path given, or that of a loaded model, by which it can be loaded again."""
    return str(model) if isinstance(model, str | Path) else checkpoint.name_of(loaded)
