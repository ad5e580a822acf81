"""Learning to answer from a passage that was read before: a loss on the answers' tokens."""

from __future__ import annotations

from collections.abc import Sequence
from random import Random

import torch
from torch import Tensor
from torch.nn import functional

from gem_rag.compute.parts import Parts
from gem_rag.compute.reading import Reading
from gem_rag.compute.skill import Skill
from gem_rag.errors import GemError
from gem_rag.text import prompts
from gem_rag_train.data.rows import AnswerRow
from gem_rag_train.objectives.after import Prompt, logits, micro_batches, outputs
from gem_rag_train.objectives.step import Outcome


class AnsweringObjective:
    """The loss on answers and their ends: the mean over rows, those of n tokens weighing sqrt(n).

    So long answers say more than short ones, without drowning them.

    Args:
        parts: The model's; nothing of it is changed.
        skill: What is trained.
        after_words: Share of the rows in which the skill acts after the user's words only.
    """

    def __init__(self, parts: Parts, skill: Skill, *, after_words: float) -> None:
        self._parts = parts
        self._skill = skill
        self._after_words = after_words
        self._end = end_of_answer(parts)

    def asked(self, row: AnswerRow) -> str:
        """What is put after the passage."""
        if row.style == "sentence":
            return prompts.ASK.replace("{question}", row.question)
        return self._skill.config.asked(row.question)

    def backward(
        self, rows: Sequence[AnswerRow], readings: Sequence[Reading], rng: Random
    ) -> Outcome:
        """Add the gradients of the rows' loss.

        Args:
            rows: A step's.
            readings: Of their passages.
            rng: Draws in which rows the skill acts late.
        """
        late = [rng.random() < self._after_words for _ in rows]
        return self._each(rows, readings, late)

    @torch.no_grad()
    def loss(self, rows: Sequence[AnswerRow], readings: Sequence[Reading]) -> float:
        """The rows' loss, the skill acting from the prompt on: nats per token."""
        return self._each(rows, readings, [False] * len(rows)).loss

    def _each(
        self, rows: Sequence[AnswerRow], readings: Sequence[Reading], late: Sequence[bool]
    ) -> Outcome:
        answers = [self._answer(row) for row in rows]
        runs = []
        for i, (row, reading) in enumerate(zip(rows, readings, strict=True)):
            asked = self._parts.codec.prompt_ids(self.asked(row), continued=True)
            own = max(1, len(self._parts.codec.after_words))
            start = len(asked) - own if late[i] else 0
            runs.append(Prompt(reading, (*asked, *answers[i]), start, i))
        weights = torch.tensor([len(answer) for answer in answers]).sqrt()
        weights = (weights / weights.sum()).to(self._parts.base.device)
        total = 0.0
        for batch in micro_batches(runs):
            of_rows = [prompt.row for prompt in batch]
            means = self._means(batch, [answers[i] for i in of_rows])
            loss = (means * weights[of_rows]).sum()
            if torch.is_grad_enabled():
                loss.backward()
            total += float(loss.detach())
        return Outcome(total, sum(len(run.ids) for run in runs), {})

    def _means(self, batch: Sequence[Prompt], answers: Sequence[Sequence[int]]) -> Tensor:
        """Mean loss of each row's answer, ``[B]``."""
        hidden = outputs(self._parts, self._skill, batch)
        before = [
            hidden[i, len(prompt.ids) - len(answer) - 1 : len(prompt.ids) - 1]
            for i, (prompt, answer) in enumerate(zip(batch, answers, strict=True))
        ]
        target = torch.tensor([t for answer in answers for t in answer], device=hidden.device)
        losses = functional.cross_entropy(
            logits(self._parts, torch.cat(before)), target, reduction="none"
        )
        return torch.stack([part.mean() for part in losses.split([len(a) for a in answers])])

    def _answer(self, row: AnswerRow) -> tuple[int, ...]:
        (words,) = self._parts.codec.encode_texts([row.answers[0]], None)
        return (*words.ids, self._end)


def end_of_answer(parts: Parts) -> int:
    """The token that ends an answer: the chat template's end of turn, or the tokenizer's own.

    Raises:
        GemError: Nothing does.
    """
    candidates = [*parts.codec.after_words, *parts.codec.end_ids, *sorted(parts.end_ids)]
    for one in candidates:
        if one in parts.end_ids:
            return one
    raise GemError(
        f"{parts.config.base.name} has no token that ends an answer; expected an eos_token in its "
        "tokenizer or generation config"
    )
