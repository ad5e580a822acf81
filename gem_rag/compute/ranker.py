"""Ranking: how likely each passage's reading makes the question, or what a skill says of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from gem_rag.compute.adapter import EVERYWHERE
from gem_rag.compute.kv import row_of
from gem_rag.compute.reader import Reader
from gem_rag.compute.reading import Reading, collate
from gem_rag.compute.skill import Skill
from gem_rag.errors import ContextLengthError, GemError, UnsupportedModelError
from gem_rag.text import prompts
from gem_rag.text.codec import TextCodec, Tokenized


@dataclass(frozen=True)
class Ranked:
    """One passage's place in a ranking.

    Attributes:
        index: Which of the given passages this is.
        score: How much the passage raises the mean log-likelihood of the query's tokens over that
            given an empty passage (nats per token): comparable across queries. Of a skill: the
            log-odds that the passage answers (nats); above 0 is yes.
        log_likelihood: Mean log-likelihood of the query's tokens given the passage; of a skill, the
            log-probability that it answers.
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


@dataclass(frozen=True)
class Judged:
    """What is run after each passage for a skill that ranks.

    Attributes:
        ids: The skill's prompt with the question in it, up to where an answer would begin.
        skill: Acts on all of them.
    """

    ids: tuple[int, ...]
    skill: Skill


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
        hidden = self._after(passages, asked.ids)
        scored = hidden[:, -asked.scored - 1 : -1]
        logits = self._parts.logits(scored)  # (B, scored, vocab)
        likely = logits.log_softmax(2, dtype=torch.float32)
        target = torch.tensor(asked.ids[-asked.scored :], device=logits.device)
        chosen = likely.gather(2, target.expand(len(passages), -1)[..., None])
        out: np.ndarray = chosen.mean((1, 2)).cpu().double().numpy()
        return out

    def judged(self, query: str, skill: Skill) -> Judged:
        """A query as what is run after a passage for a skill that ranks.

        Raises:
            ValueError: The query is empty.
            GemError: The skill is for something else.
            ContextLengthError: It leaves no room for a passage.
        """
        if not query.strip():
            raise ValueError("the query is empty; expected a question")
        if skill.config.task != "rank":
            raise GemError(
                f"skill {skill.name!r} is for the task {skill.config.task!r}; expected one that "
                "ranks"
            )
        prompt = skill.config.asked(query.strip())
        judged = Judged(tuple(self._parts.codec.prompt_ids(prompt, continued=True)), skill)
        if self._reader.room(len(judged.ids)) < 1:
            raise ContextLengthError(
                f"the question takes {len(judged.ids)} tokens; with the context window of "
                f"{self._parts.base.max_context} that leaves no room for a passage: shorten it"
            )
        return judged

    @torch.inference_mode()
    def relevance(self, passages: Sequence[Reading | Tokenized], judged: Judged) -> np.ndarray:
        """What a skill says of each passage, float64 ``[n]``: log-odds that it answers, in nats.

        The logit of "Yes" less that of "No" as the next token; above 0 is yes.

        Args:
            passages: Of one kind: all read already, or none.
            judged: What is run after each.
        """
        hidden = self._after(passages, judged.ids, judged.skill)
        logits = self._parts.logits(hidden[:, -1]).float()  # (B, vocab)
        yes, no = verdict_ids(self._parts.codec)
        out: np.ndarray = (logits[:, yes] - logits[:, no]).cpu().double().numpy()
        return out

    def _after(
        self,
        passages: Sequence[Reading | Tokenized],
        asked: Sequence[int],
        skill: Skill | None = None,
    ) -> Tensor:
        """The outputs at token ids that are run after each passage, ``[B, Q, hidden]``.

        What has not been read is read in the same pass: it does not see what comes after it.
        """
        readings = [p for p in passages if isinstance(p, Reading)]
        if readings:
            tokens, cache = collate(readings, room=len(asked))
            acting = [] if skill is None else skill.adapter.at(EVERYWHERE)
            ids = torch.tensor([asked] * len(readings))
            return self._reader.continue_from(tokens, cache, ids, acting)
        own = [p.ids for p in passages if isinstance(p, Tokenized)]
        starts = torch.tensor([len(ids) for ids in own], device=self._parts.base.device)[:, None]
        width = int(starts.max()) + len(asked)
        where = torch.arange(width, device=starts.device) >= starts  # (B, N), padding included
        _, _, hidden = self._reader.outputs(
            [[*ids, *asked] for ids in own],
            self._parts.generates_adapted,
            acting=[] if skill is None else skill.adapter.at(where),
        )
        places = starts + torch.arange(len(asked), device=starts.device)  # (B, Q)
        return hidden[torch.arange(len(own), device=starts.device)[:, None], places]


def verdict_ids(codec: TextCodec) -> tuple[int, int]:
    """The first tokens of "Yes" and of "No".

    Raises:
        UnsupportedModelError: They are the same.
    """
    yes, no = (codec.encode(word)[0] for word in (prompts.YES, prompts.NO))
    if yes == no:
        raise UnsupportedModelError(
            f"this tokenizer begins {prompts.YES!r} and {prompts.NO!r} with the same token, so "
            "that a skill cannot rank by it"
        )
    return yes, no
