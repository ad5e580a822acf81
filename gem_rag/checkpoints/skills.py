"""Skills in a checkpoint: ``skills/<name>/{config.json, adapter_model.safetensors, README.md}``."""

from __future__ import annotations

from pathlib import Path

from gem_rag.checkpoints.card import CARD
from gem_rag.compute.parts import Parts
from gem_rag.compute.skill import Skill
from gem_rag.config import SKILL_CONFIG, SkillConfig
from gem_rag.errors import CheckpointError
from gem_rag.files import atomic_dir

SKILLS = "skills"
WEIGHTS = "adapter_model.safetensors"


def load_skills(parts: Parts, folder: Path) -> dict[str, Skill]:
    """All skills of a checkpoint folder, by name.

    Raises:
        CheckpointError: One is damaged, or was made for another base.
    """
    folders = sorted(f.parent for f in (folder / SKILLS).glob(f"*/{SKILL_CONFIG}"))
    return {skill.name: skill for skill in (load_skill(parts, f) for f in folders)}


def load_skill(parts: Parts, folder: Path) -> Skill:
    """One skill's folder.

    Raises:
        CheckpointError: It is damaged, or was made for another base.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    config = SkillConfig.from_folder(folder)
    own = parts.config.base.weights
    if config.base.weights != own:
        raise CheckpointError(
            f"skill {config.name} was made for base {config.base.name} with weights "
            f"{config.base.weights[:12]}, the checkpoint's has {own[:12]}; train it for this one "
            "(`gem-rag train-skill`)"
        )
    try:
        skill = Skill.new(parts.base, config, (folder / CARD).read_text(encoding="utf-8"))
        skill.adapter.load_peft(load_file(folder / WEIGHTS))
    except (FileNotFoundError, SafetensorError) as error:
        raise CheckpointError(
            f"{folder} is no whole skill: {error}; copy or fetch it again"
        ) from error
    return skill


def save_skill(skill: Skill, folder: Path) -> Path:
    """Write a skill's folder, atomically; one that stands there is replaced.

    Args:
        skill: The skill; without a card it gets a short one.
        folder: Its own, ``<checkpoint>/skills/<name>``.

    Raises:
        CheckpointError: The folder holds something else, which would be lost.
    """
    if folder.exists() and not (folder / SKILL_CONFIG).exists() and any(folder.iterdir()):
        raise CheckpointError(f"{folder} holds files and no skill; choose a new folder")
    with atomic_dir(folder) as fresh:
        write_skill(skill, fresh)
    return folder


def write_skill(skill: Skill, folder: Path) -> None:
    """Write a skill's files into a folder that is there."""
    from safetensors.torch import save as to_bytes

    (folder / SKILL_CONFIG).write_text(skill.config.to_json(), encoding="utf-8")
    (folder / WEIGHTS).write_bytes(to_bytes(skill.adapter.to_peft()))
    (folder / CARD).write_text(skill.card or default_skill_card(skill.config), encoding="utf-8")


def default_skill_card(config: SkillConfig) -> str:
    """A short model card."""
    return (
        f"# {config.name}\n\nA skill (task: {config.task}) of a GEM checkpoint, for the base "
        f"{config.base.name}: a LoRA adapter of rank {config.adapter.rank} that acts from the "
        "prompt on, after what was read. It is used through `gem_rag.GemModel`; plain PEFT would "
        "apply it to the text as well.\n"
    )
