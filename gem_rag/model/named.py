"""Models by what is at hand: a loaded one, a name, or a base to start from."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

from gem_rag.arguments import require_known
from gem_rag.checkpoints.base import chosen_device
from gem_rag.checkpoints.folder import new_parts
from gem_rag.engine.work import apart
from gem_rag.errors import OptionError
from gem_rag.model.gem_model import GemModel

Model = str | Path | GemModel | None  # what everything takes that needs a model
LOADING = ("device", "dtype", "revision", "forward")


def create(base: str | Path, **options: Any) -> GemModel:
    """A new, untrained model: see `new_parts`."""
    return GemModel(apart(partial(new_parts, base, **options)))


def as_model(model: Model, **options: Any) -> GemModel:
    """A loaded model as it is, or the shared one of a name.

    Args:
        model: Either.
        **options: As for `GemModel.from_pretrained`.

    Raises:
        OptionError: There is no such option, or a loaded model is not what it asks for.
    """
    require_known(options, LOADING, "GemModel.from_pretrained")
    if not isinstance(model, GemModel):
        return GemModel.from_pretrained(model, **options)
    for name, wanted in options.items():
        if wanted not in (None, "auto") and not _is_loaded_with(model, name, wanted):
            raise OptionError(
                f"got a loaded model, and {name}={wanted!r}, which it was not loaded with; give "
                "its name instead, or load it that way"
            )
    return model


def _is_loaded_with(model: GemModel, name: str, wanted: Any) -> bool:
    if name == "device":
        mine, asked = model.base.device, chosen_device(wanted)
        return mine.type == asked.type and asked.index in (None, mine.index)
    if name == "dtype":
        return model.base.number_format == str(wanted).removeprefix("torch.")
    return model.origin is not None and bool(model.origin.options[name] == wanted)


def name_of(model: GemModel, given: Model = None) -> str:
    """What a loaded model can be loaded by again: the name given, or where it is from.

    A model that was made here goes by its base's name.
    """
    if isinstance(given, str | Path):
        return str(given)
    if model.path is None or model.origin is None:
        return model.config.base.name
    return model.origin.name
