"""Logits to tokens: each request by its own settings and its own random state."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

LogitsHook = Callable[[list[int], Tensor], Tensor]
LIKELY = 256  # tokens among which the likeliest are looked for before all are put in order


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

    @property
    def law(self) -> tuple[float, float, int]:
        """What makes probabilities of logits."""
        return self.temperature, self.top_p, self.top_k


class Sampler:
    """Chooses one request's next token; its random state is its own.

    Each token of an answer takes one random number, the same whether it was guessed or not.
    """

    def __init__(self, sampling: Sampling) -> None:
        self.sampling = sampling
        self._random = random.Random(None if sampling.seed is None else int(sampling.seed))
        self._drawn: list[float] = []

    def numbers(self, places: range) -> list[float]:
        """The random numbers, in [0, 1), of these places of the answer; greedy needs none."""
        if self.sampling.temperature == 0:
            return [0.0] * len(places)
        while len(self._drawn) < places.stop:
            self._drawn.append(self._random.random())
        return self._drawn[places.start : places.stop]

    def __call__(self, generated: list[int], logits: Tensor) -> int:
        """Logits ``[vocab]`` to a token id."""
        place = len(generated)
        if self.sampling.logits_hook is not None:
            logits = self.sampling.logits_hook(generated, logits)
        numbers = self.numbers(range(place, place + 1))
        return choose(logits[None], [self.sampling], numbers)[0]


def choose(logits: Tensor, settings: Sequence[Sampling], numbers: Sequence[float]) -> list[int]:
    """One token by each row of logits; rows with the same settings are one operation.

    Args:
        logits: ``[n, vocab]``; hooks are not asked here.
        settings: Of each row.
        numbers: Of each row, in [0, 1): where among the cumulated probabilities its token stands.
    """
    laws = [sampling.law for sampling in settings]
    if all(temperature == 0 for temperature, *_ in laws):
        return _best(logits)
    out = [0] * len(laws)
    for law in dict.fromkeys(laws):
        rows = [row for row, other in enumerate(laws) if other == law]
        mine = logits if len(rows) == len(laws) else logits[rows]
        found = _sampled(mine, law, [numbers[row] for row in rows])
        for row, token in zip(rows, found, strict=True):
            out[row] = token
    return out


def _sampled(logits: Tensor, law: tuple[float, float, int], numbers: Iterable[float]) -> list[int]:
    """``[n, vocab]`` to n tokens."""
    temperature, top_p, top_k = law
    if temperature == 0:
        return _best(logits)
    logits = logits.float().cpu() / temperature
    if 0 < top_k < logits.shape[-1]:
        least = logits.topk(top_k).values[:, -1:]
        logits = logits.masked_fill(logits < least, -torch.inf)
    probabilities = logits.softmax(-1)
    if top_p < 1:
        least = _least_likely(probabilities, top_p)
        probabilities = probabilities.masked_fill(probabilities < least, 0)
    cumulated = probabilities.double().cumsum(-1)
    places = torch.tensor([*numbers], dtype=torch.float64)[:, None] * cumulated[:, -1:]
    found = torch.searchsorted(cumulated, places, right=True)[:, 0]
    return _integers(found.clamp(max=logits.shape[-1] - 1))


def _best(logits: Tensor) -> list[int]:
    return _integers(logits.float().argmax(-1))  # on a CPU five times as fast as of bfloat16


def _least_likely(probabilities: Tensor, top_p: float) -> Tensor:
    """The probability of the last token that the smallest set of this sum needs, ``[n, 1]``."""
    for count in (min(LIKELY, probabilities.shape[-1]), probabilities.shape[-1]):
        ordered = probabilities.topk(count).values
        cumulated = ordered.cumsum(-1)
        if bool((cumulated[:, -1] >= top_p).all()):
            break
    needed = (cumulated - ordered < top_p).sum(-1, keepdim=True)  # the first always is
    return ordered.gather(-1, needed - 1)


def _integers(tokens: Tensor) -> list[int]:
    out: list[int] = tokens.tolist()
    return out
