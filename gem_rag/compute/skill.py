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


def everywhere(skilled: Sequence[Skilled | None], lengths: Sequence[int]) -> list[Acting] | None:
    """The one skill that acts in all that comes next in these rows, if any; None: it is not so.

    Args:
        skilled: Each row's, or None.
        lengths: How much each row holds.
    """
    adapters = {None if one is None else one.skill.adapter for one in skilled}
    if len(adapters) > 1 or any(
        one is not None and length < one.start
        for one, length in zip(skilled, lengths, strict=False)
    ):
        return None
    return [act for one in adapters if one is not None for act in one.at(EVERYWHERE)]


def acting(
    skilled: Sequence[Skilled | None], lengths: Sequence[int], positions: Tensor
) -> list[Acting]:
    """Where each skill acts in one pass.

    Args:
        skilled: Each row's, or None; empty: no row has one.
        lengths: How much each row holds.
        positions: int64 ``[B, Q]``, those of what comes next.
    """
    alike = everywhere(skilled, lengths)
    if alike is not None:
        return alike
    out: list[Acting] = []
    for adapter in dict.fromkeys(one.skill.adapter for one in skilled if one is not None):
        never = torch.iinfo(torch.int64).max
        mine = [s.start if s is not None and s.skill.adapter is adapter else never for s in skilled]
        if any(s < n + positions.shape[1] for s, n in zip(mine, lengths, strict=True)):
            where = positions >= torch.tensor(mine, device=positions.device)[:, None]
            out += adapter.at(where)
    return out
