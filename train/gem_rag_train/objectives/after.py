"""Prompts after readings, with gradients for the skill that is trained, and for nothing else."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from gem_rag.compute.adapter import EVERYWHERE
from gem_rag.compute.attention import Role, Tokens, together
from gem_rag.compute.batches import padded
from gem_rag.compute.parts import Parts
from gem_rag.compute.reading import Reading, collate
from gem_rag.compute.skill import Skill

ROWS_AT_ONCE = 16


@dataclass(frozen=True)
class Prompt:
    """Tokens that are run after a reading.

    Attributes:
        reading: The passage's.
        ids: The tokens.
        start: From which of them on the skill acts.
        row: Which row of the batch it is for.
    """

    reading: Reading
    ids: tuple[int, ...]
    start: int
    row: int


def micro_batches(prompts: Sequence[Prompt]) -> Iterator[list[Prompt]]:
    """Prompts of like length, and in each batch only such on all of which the skill acts, or none:
    acting everywhere needs no choice of positions.
    """
    for everywhere in (True, False):
        kind = [prompt for prompt in prompts if (prompt.start == 0) == everywhere]
        kind.sort(key=lambda prompt: (len(prompt.ids), len(prompt.reading)))
        for i in range(0, len(kind), ROWS_AT_ONCE):
            yield kind[i : i + ROWS_AT_ONCE]


def outputs(parts: Parts, skill: Skill, prompts: Sequence[Prompt]) -> Tensor:
    """The last layer's outputs ``[B, T, hidden]`` of prompts after their readings, padded right."""
    tokens, cache = collate([prompt.reading for prompt in prompts])
    device = parts.base.device
    ids, valid = (part.to(device) for part in padded([prompt.ids for prompt in prompts]))
    index = torch.arange(ids.shape[1], device=device)
    positions = tokens.lengths[:, None] + index
    queries = Tokens(positions, torch.where(valid, Role.PREFIX, Role.PADDING))
    mask = parts.base.masks(queries, together(tokens, queries))
    starts = torch.tensor([prompt.start for prompt in prompts], device=device)
    where = EVERYWHERE if not bool(starts.any()) else valid & (index >= starts[:, None])
    acting = [*parts.everywhere(parts.generates_adapted), *skill.adapter.at(where)]
    return parts.run(ids, positions, mask, cache, acting)


def logits(parts: Parts, hidden: Tensor) -> Tensor:
    """``[n, hidden] -> [n, vocab]`` in float32."""
    return parts.logits(hidden).float()
