"""QuAC's dialogues of odd number, whole: where answers stand, and what follows on what.

They are never trained on: quotes and follow-ups are chosen and measured by them.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from gem_rag.model import GemModel
from gem_rag_train.data.asked import ANSWER_START, chunks, holding, quac_rows
from gem_rag_train.evaluation.sets import Question, Retrieval

Half = Literal["first", "second"]
LEAST, LONGEST = 20, 400  # characters of an answer whose place is looked for


@dataclass(frozen=True)
class Turn:
    """A question of a conversation.

    Attributes:
        question: What is asked.
        paragraph: The one that answers it.
        before: Questions before it, each with its answer, "" where there is none.
        dialogue: Which conversation the question is from.
    """

    question: str
    paragraph: int
    before: tuple[tuple[str, str], ...]
    dialogue: int


@dataclass(frozen=True)
class Conversations:
    """Paragraphs and questions about them.

    Attributes:
        paragraphs: All of them.
        follow_ups: Second and later questions of a dialogue.
        changes: First questions of a dialogue, after another one: the subject changes.
    """

    paragraphs: list[str]
    follow_ups: list[Turn]
    changes: list[Turn]


def quac_answers() -> Retrieval:
    """All questions whose answer stands in one place of its text."""
    rows = quac_rows("odd")
    questions = [
        Question(question, i, (row["passage"][start:end],), ((start, end),))
        for i, row in enumerate(rows)
        for question, start, end in _placed(row)
    ]
    return Retrieval([row["passage"] for row in rows], questions)


def _placed(row: dict[str, str]) -> Iterator[tuple[str, int, int]]:
    """Each question of a dialogue, and where its answer starts and ends.

    Other people's answers follow the first, with nothing between: it is as long as it is found.
    """
    passage = row["passage"]
    for question, answer in exchanges(row):
        lengths = range(min(len(answer), LONGEST), LEAST - 1, -1)
        length = next((n for n in lengths if answer[:n] in passage), 0)
        if length and passage.count(answer[:length]) == 1:
            start = passage.index(answer[:length])
            yield question, start, start + length


def quac_conversations(model: GemModel, half: Half) -> Conversations:
    """One half of the dialogues, to choose by or to report."""
    rows = quac_rows("odd")
    rows = rows[: len(rows) // 2] if half == "first" else rows[len(rows) // 2 :]
    paragraphs: list[str] = []
    dialogues = [exchanges(row) for row in rows]
    found = Conversations(paragraphs, [], [])
    for number, (row, turns) in enumerate(zip(rows, dialogues, strict=True)):
        start = len(paragraphs)
        own = chunks(row["passage"], model.codec.backend)
        paragraphs += own
        for place, (question, answer) in enumerate(turns):
            held = holding(own, [answer[:ANSWER_START]])
            if len(held) == 1:
                before = turns[:place] if place else dialogues[number - 1]
                kind = found.follow_ups if place else found.changes
                kind.append(Turn(question, start + held[0], tuple(before), number))
    return found


def exchanges(row: dict[str, str]) -> list[tuple[str, str]]:
    """A dialogue's questions and answers; "" for what its text does not answer."""
    questions = re.split(r"question\d+:", row["question"])[1:]
    answers = re.split(r"possible answers for question\d+:", row["answer"])[1:]
    return [
        (question.strip(), "" if "CANNOTANSWER" in answer else answer.strip())
        for question, answer in zip(questions, answers, strict=False)
    ]
