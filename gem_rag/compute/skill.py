"""Skills: small adapters of one base that act only after what was read, so that readings serve all.

The special tokens' adapter is one such; answering and ranking are others (elsewhere this is called
activated LoRA, arXiv 2504.12397).
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor

from gem_rag.compute.adapter import EVERYWHERE, Acting, Adapter
from gem_rag.compute.base import Base
from gem_rag.config import SkillConfig


@dataclass(frozen=True, eq=False)
class Skill:
    """What a base has learned to do after a text.

    Attributes:
        config: Its name, its prompt, and what it was made for.
        adapter: Acts from the prompt on.
        card: Its model card, as Markdown; empty for a new one.
    """

    config: SkillConfig
    adapter: Adapter
    card: str = ""

    @classmethod
    def new(cls, base: Base, config: SkillConfig, card: str = "") -> Self:
        """An untrained skill, which changes nothing yet."""
        return cls(config, base.new_adapter(config.adapter), card)

    @property
    def name(self) -> str:
        """What it is asked for by."""
        return self.config.name

    @property
    def fingerprint(self) -> str:
        """sha256 of all that decides what it says, beside the base."""
        digest = hashlib.sha256(self.config.essence().encode())
        for name, tensor in sorted(self.adapter.to_peft().items()):
            digest.update(name.encode() + tensor.numpy().tobytes())
        return digest.hexdigest()


@dataclass(frozen=True)
class Skilled:
    """A skill in use.

    Attributes:
        skill: Which.
        start: The first position of a row at which it acts.
    """

    skill: Skill
    start: int


def acting(skilled: Sequence[Skilled | None], positions: Tensor) -> list[Acting]:
    """Where each skill acts in one pass.

    Args:
        skilled: Each row's, or None.
        positions: int64 ``[B, Q]``.
    """
    used = [one for one in skilled if one is not None]
    adapters = list(dict.fromkeys(one.skill.adapter for one in used))
    if len(adapters) == 1 and len(used) == len(skilled):
        starts = torch.tensor([one.start for one in used], device=positions.device)
        if bool((positions[:, 0] >= starts).all()):
            return adapters[0].at(EVERYWHERE)
    out: list[Acting] = []
    for adapter in adapters:
        never = torch.iinfo(torch.int64).max
        mine = [s.start if s is not None and s.skill.adapter is adapter else never for s in skilled]
        where = positions >= torch.tensor(mine, device=positions.device)[:, None]
        if bool(where.any()):
            out += adapter.at(where)
    return out
