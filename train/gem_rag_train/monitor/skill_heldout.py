"""What a skill is measured by while it is trained: rows about passages it is not trained on."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

from gem_rag.compute.reading import Reading
from gem_rag.model import GemModel
from gem_rag_train.data.rows import AnswerRow, RankRow
from gem_rag_train.evaluation.answers import contains, f1
from gem_rag_train.objectives.answering import AnsweringObjective
from gem_rag_train.objectives.ranking import RankingObjective

LONGEST_ANSWER = 32  # tokens
Read = Callable[[Sequence[str]], list[Reading]]


def measure_answers(
    model: GemModel, name: str, objective: AnsweringObjective, rows: Sequence[AnswerRow], read: Read
) -> dict[str, float]:
    """Loss (nats per token), and the words of greedy answers beside the right ones'.

    Args:
        model: Has the skill.
        name: The skill's.
        objective: Knows the loss and the prompts.
        rows: What is measured on.
        read: Gives readings of passages.
    """
    readings = read([row.context for row in rows])
    said = model.generate_batch(
        [objective.asked(row) for row in rows],
        after=readings,
        skill=name,
        max_new_tokens=LONGEST_ANSWER,
    )
    pairs = [(answer.text, row.answers) for answer, row in zip(said, rows, strict=True)]
    return {
        "heldout_loss": model.engine.call(partial(objective.loss, rows, readings)),
        "heldout_contains": _mean([max(contains(t, g) for g in gold) for t, gold in pairs]),
        "heldout_f1": _mean([max(f1(t, g) for g in gold) for t, gold in pairs]),
    }


def measure_ranking(
    model: GemModel, objective: RankingObjective, rows: Sequence[RankRow], read: Read
) -> dict[str, float]:
    """Loss, and how often the right passage scores above all wrong ones.

    Args:
        model: Computes.
        objective: Knows the loss and the scores.
        rows: What is measured on, with all their negatives.
        read: Gives readings of passages.
    """
    readings = [read(row.texts) for row in rows]
    loss, recall = model.engine.call(partial(objective.measure, rows, readings))
    return {"heldout_loss": loss, "heldout_recall1": recall}


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)
