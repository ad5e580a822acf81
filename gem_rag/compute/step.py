"""Step by step: logits to tokens, tokens to text that is safe to show, requests side by side."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from gem_rag.attention import Role, Tokens, together
from gem_rag.reading import Reading, collate, empty_cache

if TYPE_CHECKING:
    from transformers.cache_utils import Cache

    from gem_rag.reader import Reader
    from gem_rag.text import TextCodec

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


class TextAssembler:
    """Token ids to text pieces that are safe to show: whole characters, and no stop string."""

    def __init__(self, codec: TextCodec, stop: Sequence[str]) -> None:
        self._codec = codec
        self._stop = [s for s in stop if s]
        self._ids: list[int] = []
        self._start = self._read = 0  # a short window is decoded, not everything each time
        self._held = ""
        self.text = ""
        self.stopped = False

    def push(self, token: int) -> str:
        """Add a token; what can be shown now (maybe nothing)."""
        self._ids.append(token)
        before = self._codec.decode(self._ids[self._start : self._read])
        now = self._codec.decode(self._ids[self._start :])
        if now.endswith("\ufffd"):  # the middle of a character
            return ""
        self._start, self._read = self._read, len(self._ids)
        return self._release(now[len(before) :])

    def flush(self) -> str:
        """The end: everything held back that is no stop string."""
        before = self._codec.decode(self._ids[self._start : self._read])
        rest = self._codec.decode(self._ids[self._start :])[len(before) :]
        self._start = self._read = len(self._ids)
        piece = self._release(rest)
        if not self.stopped:
            piece += self._held
            self.text += self._held
            self._held = ""
        return piece

    def _release(self, new: str) -> str:
        if self.stopped:
            return ""
        self._held += new
        found = [at for s in self._stop if (at := self._held.find(s)) >= 0]
        if found:
            self.stopped = True
            piece, self._held = self._held[: min(found)], ""
        else:
            keep = max((_overlap(self._held, s) for s in self._stop), default=0)
            cut = len(self._held) - keep
            piece, self._held = self._held[:cut], self._held[cut:]
        self.text += piece
        return piece


def _overlap(text: str, stop: str) -> int:
    """Length of the longest end of `text` that begins `stop`."""
    longest = min(len(text), len(stop) - 1)
    return next((n for n in range(longest, 0, -1) if text.endswith(stop[:n])), 0)


class DecodeLoop:
    """Steps several requests together, one token each per step.

    A single row runs without masks, exactly as the base model would; several rows are padded on the
    right and masked. Each step sets and leaves its own contexts, so a suspended loop leaves nothing
    switched on in its caller's thread.
    """

    def __init__(
        self,
        model: Reader,
        prompts: Sequence[Sequence[int]],
        after: Sequence[Reading] | None,
        samplers: Sequence[Sampler],
        room: int,
    ) -> None:
        self._model = model
        self._prompts = prompts
        self._samplers = list(samplers)
        self._after = after
        self._room = room
        self._rows = list(range(len(prompts)))
        self._last: list[int] = []
        self._generated: list[list[int]] = [[] for _ in prompts]
        self._tokens: Tokens
        self._cache: Cache

    @property
    def rows(self) -> list[int]:
        """Requests still running."""
        return list(self._rows)

    def step(self) -> dict[int, int]:
        """Run one step: the next token of each running request."""
        with torch.inference_mode(), self._model.adapter.at(self._model.generation_scope):
            hidden = self._continue() if self._last else self._prefill()
            logits = self._model.base.logits(hidden)  # (B, vocab)
            self._last = [
                self._samplers[r](self._generated[r], row)
                for r, row in zip(self._rows, logits, strict=True)
            ]
        for row, token in zip(self._rows, self._last, strict=True):
            self._generated[row].append(token)
        return dict(zip(self._rows, self._last, strict=True))

    def drop(self, row: int) -> None:
        """Take a finished request out of the batch."""
        at = self._rows.index(row)
        keep = [i for i in range(len(self._rows)) if i != at]
        self._rows, self._last = [self._rows[i] for i in keep], [self._last[i] for i in keep]
        if keep:
            index = torch.tensor(keep, device=self._tokens.positions.device)
            with torch.inference_mode():
                self._cache.batch_select_indices(index)
            self._tokens = self._tokens.rows(index)

    def _prefill(self) -> Tensor:
        base = self._model.base
        lengths = torch.tensor([len(p) for p in self._prompts], device=base.device)
        width = int(lengths.max())
        ids = torch.zeros(len(self._prompts), width, dtype=torch.long)
        for row, prompt in enumerate(self._prompts):
            ids[row, : len(prompt)] = torch.as_tensor(prompt)
        if self._after is None:
            self._cache = empty_cache(base.num_layers, room=self._room)
            nothing = lengths.new_zeros(len(self._prompts), 0)
            self._tokens = Tokens(nothing, nothing)
        else:
            self._tokens, self._cache = collate(self._after, room=width + self._room)
        index = torch.arange(width, device=base.device).expand(len(self._prompts), -1)
        valid = index < lengths[:, None]
        hidden = self._run(ids.to(base.device), index, valid)
        return hidden[torch.arange(len(lengths), device=base.device), lengths - 1]

    def _continue(self) -> Tensor:
        last = torch.tensor(self._last, device=self._model.base.device)[:, None]
        return self._run(last, torch.zeros_like(last), torch.ones_like(last).bool())[:, -1]

    def _run(self, ids: Tensor, index: Tensor, valid: Tensor) -> Tensor:
        starts = self._tokens.lengths[:, None]
        queries = Tokens(starts + index, torch.where(valid, Role.PREFIX, Role.PADDING))
        self._tokens = together(self._tokens, queries)
        plain = bool((self._tokens.roles != Role.PADDING).all())
        mask = None if plain else self._model.base.masks(queries, self._tokens)
        return self._model.base.run(ids, queries.positions, mask, self._cache)
