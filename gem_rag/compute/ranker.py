"""Ranking by query likelihood: how likely each passage's reading makes the question."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch

from gem_rag.errors import ContextLengthError
from gem_rag.reader import Reader, by_budget
from gem_rag.reading import Reading, collate, row_of
from gem_rag.text import Tokenized

# Of readings only the query is run, so more fit into a batch than of texts; their copies bound it.
KEPT_BUDGET = 4
RANK_INSTRUCTION = "\nPlease write a question based on this passage.\nQuestion:"


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


class Ranks(Reader):
    """The ranking job of `GemModel`."""

    def rank(
        self,
        query: str,
        texts_or_readings: Sequence[str | Reading],
        *,
        max_length: int | None = None,
    ) -> list[Ranked]:
        """Rank passages by how likely each makes the query (query likelihood, zero-shot).

        Args:
            query: The question.
            texts_or_readings: Passages; what was read already is not run again.
            max_length: Tokens of each text to read at most, as for `read`.

        Returns:
            One `Ranked` per passage, best first.

        Raises:
            ReadingError: A reading is another model's, or was read with the adapter on.
            ContextLengthError: A passage and the query do not fit the context window.
        """
        readings = [p for p in texts_or_readings if isinstance(p, Reading)]
        self._own(readings)
        self._shareable(readings)
        if not query.strip():
            raise ValueError("the query is empty; expected a question")
        words = self.codec.encode_texts([" " + query.strip()], None)[0].ids
        prompt = [*self._rank_instruction, *words]
        room = self._room(len(prompt))
        if room < 1:
            raise ContextLengthError(
                f"the query has {len(words)} tokens; with the context window of {self.max_context} "
                "that leaves no room for a passage: shorten it"
            )
        texts = [p for p in texts_or_readings if isinstance(p, str)]
        tokenized = self._tokenize(texts, max_length, room)
        ids = iter(tokenized)
        passages = [p if isinstance(p, Reading) else next(ids) for p in texts_or_readings]
        *scores, floor = self._likelihoods([*passages, self._nothing(readings)], prompt, len(words))
        ranked = [Ranked(i, float(s - floor), float(s)) for i, s in enumerate(scores)]
        return sorted(ranked, key=lambda r: -r.score)

    def _nothing(self, readings: Sequence[Reading]) -> Reading | Tokenized:
        """An empty passage, of the kind that runs in one batch with the others."""
        empty = Tokenized([], [], 0)
        if not readings:
            return empty
        tokens, cache = self._preamble(self.config.adapter_scope == "always")
        return self.restore_reading("", empty, row_of(tokens, cache, 0))

    @cached_property
    def _rank_instruction(self) -> list[int]:
        return self.codec.encode(RANK_INSTRUCTION)

    def _likelihoods(
        self, passages: Sequence[Reading | Tokenized], prompt: Sequence[int], scored: int
    ) -> np.ndarray:
        """Mean log-likelihood of the last `scored` ids of `prompt` after each passage, ``[n]``."""
        out = np.empty(len(passages), dtype=np.float64)
        head = len(self.config.preamble_ids)
        lengths = [len(p) if isinstance(p, Reading) else head + len(p.ids) for p in passages]
        if max(lengths, default=0) + len(prompt) > self.max_context:
            raise ContextLengthError(
                f"a passage of {max(lengths)} tokens and a query of {len(prompt)} do not fit the "
                f"context window of {self.max_context}; read less of it (max_length)"
            )
        kinds = [isinstance(p, Reading) for p in passages]
        order = sorted(range(len(passages)), key=lambda i: (kinds[i], -lengths[i]))
        for kind in (True, False):
            rows_of_kind = [i for i in order if kinds[i] is kind]
            padded = [n + len(prompt) for n in lengths]
            budget = self.tokens_per_batch * (KEPT_BUDGET if kind else 1)
            for rows in by_budget(rows_of_kind, padded, budget):
                with torch.inference_mode():
                    out[rows] = self._likelihood_batch([passages[i] for i in rows], prompt, scored)
        return out

    def _likelihood_batch(
        self, passages: Sequence[Any], prompt: Sequence[int], scored: int
    ) -> np.ndarray:
        if isinstance(passages[0], Reading):
            tokens, cache = collate(passages, room=len(prompt))
        else:
            adapted = self.config.adapter_scope == "always"
            tokens, cache = self._read([p.ids for p in passages], adapted, room=len(prompt))
        hidden = self.continue_from(tokens, cache, torch.tensor([prompt] * len(passages)))
        logits = self.base.logits(hidden[:, -scored - 1 : -1]).float()  # (B, scored, vocab)
        target = torch.tensor(prompt[-scored:], device=logits.device)
        target = target.expand(len(passages), scored)[..., None]
        chosen = logits.gather(2, target).squeeze(2) - logits.logsumexp(2)
        return chosen.mean(1).cpu().double().numpy()
