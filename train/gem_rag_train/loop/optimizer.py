"""The optimizer over what a run trains: weights, token vectors, and what goes with the losses."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import nn

from gem_rag.model import GemModel


def new_optimizer(
    model: GemModel, of_losses: Iterable[nn.Parameter], *, full: bool, weight_decay: float
) -> torch.optim.Optimizer:
    """AdamW over three groups: the weights, the token vectors, the losses' own parameters.

    Args:
        model: What is trained.
        of_losses: Parameters that the losses have themselves.
        full: Train the base's weights instead of the adapter's.
        weight_decay: On the weights alone.
    """
    weights: nn.Module = model.base.model if full else model.parts.adapter
    if full:
        weights.requires_grad_(True)
    groups: list[dict[str, Any]] = [
        {"params": list(weights.parameters())},
        {"params": [model.parts.special_vectors], "weight_decay": 0.0},
        {"params": list(of_losses), "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, weight_decay=weight_decay)


def set_rates(optimizer: torch.optim.Optimizer, of_weights: float, of_tokens: float) -> None:
    """The next step's learning rates; the losses' own parameters have the weights'."""
    weights, tokens, of_losses = optimizer.param_groups
    weights["lr"], tokens["lr"], of_losses["lr"] = of_weights, of_tokens, of_weights
