"""What changes with the step: the losses' weights and the learning rate, as pure functions."""

from __future__ import annotations

import math

from gem_rag_train.recipes.config import TrainConfig


def alpha(step: int, config: TrainConfig) -> float:
    """Weight of the contrastive loss (arXiv 2506.04344, section 3.2).

    Zero for `alpha_hold` steps, then linear up to `alpha_end` within `alpha_ramp` steps; the
    paper does not say how it rises.
    """
    if step < config.alpha_hold:
        return 0.0
    done = (step - config.alpha_hold + 1) / (config.alpha_ramp + 1)
    return config.alpha_end * min(1.0, done)


def rate(step: int, config: TrainConfig) -> float:
    """Share of the peak learning rate: linear warm-up, then a cosine to zero, in each cycle."""
    cycle = min(step // config.cycle_steps, config.cycles - 1)
    start = cycle * config.cycle_steps
    length = config.cycle_steps if cycle < config.cycles - 1 else config.steps - start
    return warm_cosine(step - start, length, config.warmup_steps)


def warm_cosine(step: int, steps: int, warmup: int) -> float:
    """Share of the peak: linear warm-up, of half the steps at most, then a cosine to zero."""
    warmup = min(warmup, steps // 2)
    if step < warmup:
        return (step + 1) / (warmup + 1)
    done = (step - warmup) / max(1, steps - warmup)
    return 0.5 * (1 + math.cos(math.pi * min(1.0, done)))


def peak(step: int, config: TrainConfig) -> float:
    """Peak learning rate of the weights: between the two losses' own, by their weights.

    The paper names a rate for each loss. AdamW divides by the gradients' size, so scaling a loss
    would not change its rate; moving the rate with alpha does.
    """
    share = alpha(step, config)
    of_language = config.ntp_learning_rate or config.learning_rate
    return share * config.learning_rate + (1 - share) * of_language
