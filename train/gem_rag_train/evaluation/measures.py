"""One line of the report: a task and metric, and every system's score on it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from gem_rag_train.evaluation.statistics import Sample, Score
from gem_rag_train.evaluation.systems import CHECKPOINT


@dataclass(frozen=True)
class Measure:
    """A task and metric, and every system's score on it.

    Attributes:
        part: Part of the evaluation it belongs to.
        task: What was done, with the set's name.
        metric: What is counted.
        items: How many questions, pairs or texts; None where a library does not say.
        scores: By system.
        against: The system the checkpoint is compared with.
        difference: The checkpoint's score minus that system's, on the same items.
        note: What a reader should know.
    """

    part: str
    task: str
    metric: str
    items: int | None
    scores: dict[str, Score] = field(default_factory=dict)
    against: str | None = None
    difference: Score | None = None
    note: str = ""

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Measure:
        """What `dataclasses.asdict` made."""
        gap = values["difference"]
        return cls(
            **{
                **values,
                "scores": {name: Score(**score) for name, score in values["scores"].items()},
                "difference": None if gap is None else Score(**gap),
            }
        )


def measure(
    part: str,
    task: str,
    metric: str,
    samples: Mapping[str, Sample],
    *,
    against: str,
    note: str = "",
) -> Measure:
    """Scores with intervals, and the checkpoint's paired difference to `against`."""
    both = CHECKPOINT in samples and against in samples
    return Measure(
        part=part,
        task=task,
        metric=metric,
        items=len(next(iter(samples.values()))),
        scores={name: sample.score() for name, sample in samples.items()},
        against=against if both else None,
        difference=samples[CHECKPOINT].minus(samples[against]) if both else None,
        note=note,
    )
