"""Ranking by query likelihood: how likely each passage's reading makes the question."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch

from gem_rag.compute.kv import row_of
from gem_rag.compute.reader import Reader
from gem_rag.compute.reading import Reading, collate
from gem_rag.errors import ContextLengthError
from gem_rag.text import prompts
from gem_rag.text.codec import Tokenized


@dataclass(frozen=True)
class Ranked:
    """One passage's place in a ranking.

    Attributes:
        index: Which of the given passages this is.
        score: How much the passage raises the mean log-likelihood of the query's tokens over that
            given an empty passage (nats per token): comparable across queries.
        log_likelihood: Mean log-likelihood of the query's tokens given the passage.
    """

    index: int
    score: float
    log_likelihood: float

    @property
    def floor(self) -> float:
        """Mean log-likelihood of the query's tokens given an empty passage."""
        return self.log_likelihood - self.score


@dataclass(frozen=True)
class Asked:
    """What is run after each passage.

    Attributes:
        ids: The instruction and the query.
        scored: How many of the last ids are the query's: their likelihood is the score.
    """

    ids: tuple[int, ...]
    scored: int


class Ranker:
    """One batch of passages to the likelihood each gives the query (zero-shot).

    Args:
        reader: Reads what is ranked.
    """

    def __init__(self, reader: Reader) -> None:
        self._reader = reader
        self._parts = reader.parts

    def asked(self, query: str) -> Asked:
        """A query as what is run after a passage.

        Raises:
            ValueError: The query is empty.
            ContextLengthError: It leaves no room for a passage.
        """
        if not query.strip():
            raise ValueError("the query is empty; expected a question")
        words = self._parts.codec.encode_texts([" " + query.strip()], None)[0].ids
        asked = Asked((*self._instruction, *words), len(words))
        if self._reader.room(len(asked.ids)) < 1:
            raise ContextLengthError(
                f"the query has {len(words)} tokens; with the context window of "
                f"{self._parts.base.max_context} that leaves no room for a passage: shorten it"
            )
        return asked

    @cached_property
    def _instruction(self) -> list[int]:
        return self._parts.codec.encode(prompts.RANK)

    def empty_reading(self) -> Reading:
        """What a passage of no words would be read as."""
        tokens, cache = self._reader.preamble(self._parts.generates_adapted)
        return self._reader.restore("", Tokenized([], [], 0), row_of(tokens, cache, 0))

    @torch.inference_mode()
    def likelihoods(self, passages: Sequence[Reading | Tokenized], asked: Asked) -> np.ndarray:
        """Mean log-likelihood of the query after each passage, float64 ``[n]``.

        Args:
            passages: Of one kind: all read already, or none.
            asked: What is run after each.
        """
        readings = [p for p in passages if isinstance(p, Reading)]
        if readings:
            tokens, cache = collate(readings, room=len(asked.ids))
        else:
            ids = [p.ids for p in passages if isinstance(p, Tokenized)]
            adapted = self._parts.generates_adapted
            tokens, cache = self._reader.read(ids, adapted, room=len(asked.ids))
        prompt = torch.tensor([asked.ids] * len(passages))
        hidden = self._reader.continue_from(tokens, cache, prompt)
        scored = hidden[:, -asked.scored - 1 : -1]
        logits = self._parts.logits(scored).float()  # (B, scored, vocab)
        target = torch.tensor(asked.ids[-asked.scored :], device=logits.device)
        target = target.expand(len(passages), asked.scored)[..., None]
        chosen = logits.gather(2, target).squeeze(2) - logits.logsumexp(2)
        out: np.ndarray = chosen.mean(1).cpu().double().numpy()
        return out
