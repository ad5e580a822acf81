"""Logits to tokens: each request by its own settings and its own random state."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

LogitsHook = Callable[[list[int], Tensor], Tensor]


@dataclass(frozen=True)
class Sampling:
    """How tokens are chosen; temperature 0 is greedy, and then nothing else matters.

    Attributes:
        temperature: Logits are divided by this.
        top_p: Smallest set of tokens whose probabilities reach this.
        top_k: Only this many best tokens; 0 is all.
        seed: Each request has its own random state; None draws a fresh one.
        logits_hook: Called with the ids generated so far and the next logits ``[vocab]``; returns
            the logits to use. For constrained decoding.
    """

    temperature: float = 0.0
    top_p: float = 1.0
    top_k: int = 0
    seed: int | None = None
    logits_hook: LogitsHook | None = None

    def __post_init__(self) -> None:
        if self.temperature < 0 or not 0 < self.top_p <= 1 or self.top_k < 0:
            raise ValueError(
                f"temperature {self.temperature}, top_p {self.top_p}, top_k {self.top_k}; expected "
                ">= 0, in (0, 1], >= 0"
            )


class Sampler:
    """Chooses one request's next token; its random state is its own."""

    def __init__(self, sampling: Sampling) -> None:
        self.sampling = sampling
        self._random = torch.Generator()
        if sampling.seed is None:
            self._random.seed()
        else:
            self._random.manual_seed(sampling.seed)

    def __call__(self, generated: list[int], logits: Tensor) -> int:
        """Logits ``[vocab]`` to a token id."""
        s = self.sampling
        if s.logits_hook is not None:
            logits = s.logits_hook(generated, logits)
        if s.temperature == 0:
            return int(logits.argmax())
        logits = logits.float().cpu() / s.temperature
        if 0 < s.top_k < logits.numel():
            logits[logits < logits.topk(s.top_k).values[-1]] = -torch.inf
        probabilities = logits.softmax(0)
        if s.top_p < 1:
            ordered, index = probabilities.sort(descending=True)
            outside = ordered.cumsum(0) - ordered >= s.top_p
            probabilities[index[outside]] = 0
        return int(torch.multinomial(probabilities, 1, generator=self._random))
