"""A skill's rows as the steps and measurements of its task."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from random import Random
from typing import Protocol

from gem_rag.compute.skill import Skill
from gem_rag.errors import GemError
from gem_rag.model import GemModel
from gem_rag_train.data.rows import AnswerRow, RankRow, Row
from gem_rag_train.kept.passages import Passages, cut
from gem_rag_train.monitor.skill_heldout import measure_answers, measure_ranking
from gem_rag_train.objectives.answering import AnsweringObjective
from gem_rag_train.objectives.ranking import RankingObjective
from gem_rag_train.objectives.step import Outcome


class Lessons(Protocol):
    """What a task makes of rows."""

    def backward(self, rows: Sequence[Row], rng: Random, /) -> Outcome:
        """Add the gradients of a step's rows."""
        ...

    def measure(self, rows: Sequence[Row]) -> dict[str, float]:
        """Held-out measures, by name."""
        ...


@dataclass(frozen=True)
class AnswerLessons:
    """Rows to answer."""

    model: GemModel
    name: str
    objective: AnsweringObjective
    passages: Passages

    def backward(self, rows: Sequence[Row], rng: Random, /) -> Outcome:
        """Add the gradients of a step's rows."""
        own = [row for row in rows if isinstance(row, AnswerRow)]
        return self.objective.backward(own, self.passages.read([r.context for r in own]), rng)

    def measure(self, rows: Sequence[Row]) -> dict[str, float]:
        """Held-out measures, by name."""
        own = [row for row in rows if isinstance(row, AnswerRow)]
        return measure_answers(self.model, self.name, self.objective, own, self.passages.read)


@dataclass(frozen=True)
class RankLessons:
    """Rows to rank."""

    model: GemModel
    objective: RankingObjective
    passages: Passages

    def backward(self, rows: Sequence[Row], _: Random, /) -> Outcome:
        """Add the gradients of a step's rows; nothing is drawn."""
        own = [row for row in rows if isinstance(row, RankRow)]
        read = self.passages.read([text for row in own for text in row.texts])
        readings = iter(read)
        return self.objective.backward(own, [[next(readings) for _ in r.texts] for r in own])

    def measure(self, rows: Sequence[Row]) -> dict[str, float]:
        """Held-out measures, by name."""
        own = [row for row in rows if isinstance(row, RankRow)]
        return measure_ranking(self.model, self.objective, own, self.passages.read)


def lessons_of(model: GemModel, skill: Skill, passages: Passages, *, after_words: float) -> Lessons:
    """The lessons of a skill's task."""
    if skill.config.task == "answer":
        answering = AnsweringObjective(model.parts, skill, after_words=after_words)
        return AnswerLessons(model, skill.name, answering, passages)
    return RankLessons(model, RankingObjective(model.parts, skill), passages)


def drawn(row: Row, rng: Random, negatives: int) -> Row:
    """What of a row a step takes: one of its answers, or so many of its negatives."""
    return row.drawn(rng) if isinstance(row, AnswerRow) else row.drawn(rng, negatives)


def fitted(model: GemModel, rows: Sequence[Row], max_length: int) -> list[Row]:
    """Rows whose passages have so many tokens at most.

    Raises:
        GemError: With such a passage one does not fit the context window.
    """
    shorter = cut(model.codec, (text for row in rows for text in row.texts), max_length)
    left = model.reader.room(max_length)
    out: list[Row] = []
    for row in rows:
        words = row.question
        if isinstance(row, AnswerRow):
            words += max(row.answers, key=len)
            out.append(replace(row, context=shorter[row.context]))
        else:
            others = tuple(shorter[n] for n in row.negatives)
            out.append(replace(row, positive=shorter[row.positive], negatives=others))
        if len(words) > left:  # a token has a character at least
            _require_room(model, row, words, left)
    return out


PROMPT_ROOM = 64  # tokens, more than a prompt takes beside the question


def _require_room(model: GemModel, row: Row, words: str, left: int) -> None:
    count = len(model.codec.encode_texts([words], None)[0].ids)
    if count + PROMPT_ROOM > left:
        raise GemError(
            f"the question {row.question[:60]!r} has {count} tokens with its answer; beside a "
            f"passage of max_length tokens the context window leaves {left}: shorten it, or set "
            "max_length lower"
        )
