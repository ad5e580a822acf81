"""Learning to say whether a passage that was read before answers a question."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor
from torch.nn import functional

from gem_rag.compute.parts import Parts
from gem_rag.compute.ranker import verdict_ids
from gem_rag.compute.reading import Reading
from gem_rag.compute.skill import Skill
from gem_rag_train.data.rows import RankRow
from gem_rag_train.objectives.after import ROWS_AT_ONCE, Prompt, logits, outputs
from gem_rag_train.objectives.step import Outcome

CLASSIFICATION = 0.5  # weight of the loss on each passage alone


class RankingObjective:
    """Two losses on scores, which are logit("Yes") - logit("No") of the next token.

    Cross entropy over a question's passages makes the right one the highest; binary cross entropy
    over all passages, in which right and wrong ones count equally, gives the scores a meaning
    without comparison: above 0 is yes.

    Args:
        parts: The model's; nothing of it is changed.
        skill: What is trained.
    """

    def __init__(self, parts: Parts, skill: Skill) -> None:
        self._parts = parts
        self._skill = skill
        self._yes_no = verdict_ids(parts.codec)

    def backward(self, rows: Sequence[RankRow], readings: Sequence[Sequence[Reading]]) -> Outcome:
        """Add the gradients of the rows' loss.

        Args:
            rows: A step's.
            readings: Each row's passages': the positive first.
        """
        scores, loss = self._each(rows, readings)
        right = sum(float(own.argmax() == 0) for own in scores) / len(rows)
        tokens = sum(len(self._ids(row)) * len(row.texts) for row in rows)
        return Outcome(loss, tokens, {"accuracy": right})

    @torch.no_grad()
    def measure(
        self, rows: Sequence[RankRow], readings: Sequence[Sequence[Reading]]
    ) -> tuple[float, float]:
        """The rows' loss, and in how many of them the right passage scores highest (0 to 1)."""
        scores, loss = self._each(rows, readings)
        return loss, sum(bool((own[0] > own[1:]).all()) for own in scores) / len(rows)

    def _each(
        self, rows: Sequence[RankRow], readings: Sequence[Sequence[Reading]]
    ) -> tuple[list[Tensor], float]:
        """Each row's scores ``[passages]``, and the loss; with gradients where they are enabled."""
        wrong = sum(len(row.negatives) for row in rows)
        scores: list[Tensor] = [torch.empty(0)] * len(rows)
        total = 0.0
        for batch in self._batches(rows):
            found = self._scores(rows, readings, batch)
            loss = torch.stack([listwise(own) for own in found]).sum() / len(rows)
            loss = loss + CLASSIFICATION * verdicts(found, len(rows), wrong)
            if torch.is_grad_enabled():
                loss.backward()
            total += float(loss.detach())
            for i, own in zip(batch, found, strict=True):
                scores[i] = own.detach()
        return scores, total

    def _batches(self, rows: Sequence[RankRow]) -> Iterator[list[int]]:
        """Rows of like length, all passages of each together: the loss compares them."""
        batch: list[int] = []
        for i in sorted(range(len(rows)), key=lambda i: len(rows[i].question)):
            if batch and sum(len(rows[j].texts) for j in [*batch, i]) > ROWS_AT_ONCE:
                yield batch
                batch = []
            batch.append(i)
        if batch:
            yield batch

    def _scores(
        self,
        rows: Sequence[RankRow],
        readings: Sequence[Sequence[Reading]],
        batch: Sequence[int],
    ) -> list[Tensor]:
        prompts = [
            Prompt(reading, self._ids(rows[i]), 0, i) for i in batch for reading in readings[i]
        ]
        hidden = outputs(self._parts, self._skill, prompts)
        last = torch.tensor([len(p.ids) - 1 for p in prompts], device=hidden.device)
        next_token = logits(
            self._parts, hidden[torch.arange(len(prompts), device=hidden.device), last]
        )  # (B, vocab)
        yes, no = self._yes_no
        scores = next_token[:, yes] - next_token[:, no]
        return list(scores.split([len(readings[i]) for i in batch]))

    def _ids(self, row: RankRow) -> tuple[int, ...]:
        asked = self._skill.config.asked(row.question)
        return tuple(self._parts.codec.prompt_ids(asked, continued=True))


def listwise(scores: Tensor) -> Tensor:
    """Cross entropy of a question's passages ``[n]``, the first of which is right."""
    return -functional.log_softmax(scores, 0)[0]


def verdicts(scores: Sequence[Tensor], right: int, wrong: int) -> Tensor:
    """Binary cross entropy of passages; the `right` and the `wrong` ones weigh the same in all."""
    positive = torch.stack([own[0] for own in scores])
    negative = torch.cat([own[1:] for own in scores])
    said = functional.softplus(-positive).sum() / right
    denied = functional.softplus(negative).sum() / wrong
    return (said + denied) / 2
