"""A checkpoint on the hub, under the user's own login."""

from __future__ import annotations

from pathlib import Path

from gem_rag.errors import GemError
from gem_rag_train.monitor.report import REPORT
from gem_rag_train.recipes.config import RECIPE, TrainConfig


def make_repository(config: TrainConfig) -> None:
    """The hub's repository that the checkpoint goes to, with the user's own login.

    Raises:
        GemError: The hub cannot be reached, or does not allow it.
    """
    from huggingface_hub import HfApi

    name = config.push_to_hub
    try:
        HfApi().create_repo(name, exist_ok=True, private=config.hub_private or None)
    except Exception as error:  # whatever its HTTP library raises, which is not always the same
        raise GemError(
            f"push_to_hub is {name!r}, but the hub did not take it ({error}); run `hf auth login`, "
            "check the name, or leave it out"
        ) from error


def push(folder: Path, name: str) -> None:
    """Upload a checkpoint; not its recipe and report, which name the user's own folders."""
    from huggingface_hub import HfApi

    HfApi().upload_folder(folder_path=str(folder), repo_id=name, ignore_patterns=[RECIPE, REPORT])
