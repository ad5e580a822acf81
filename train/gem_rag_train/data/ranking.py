"""The bundled skill's rows to rank: a question, the passage that answers it, and its likes."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from random import Random
from typing import TYPE_CHECKING, NamedTuple

from gem_rag.index import GemIndex
from gem_rag_train.data.answering import first_marked, search_question
from gem_rag_train.data.asked import (
    ANSWER_START,
    chunks,
    coqa,
    holding,
    narrative,
    plain,
    quac,
)
from gem_rag_train.data.echo import echoes
from gem_rag_train.data.rows import RankRow
from gem_rag_train.data.sources import Passage, boolq, wikipedia

if TYPE_CHECKING:
    from tokenizers import Tokenizer

NEGATIVES = 6
LOOKED_AT = 4 * NEGATIVES  # hits of a search; those that answer as well are left out
SEARCHED = 2000  # of BoolQ's questions
ECHO_SHARE = 1 / 3  # of all questions at most


class Questioned(NamedTuple):
    """A question, its passage, words that only a passage that answers has, and near passages."""

    question: str
    passage: str
    answers: tuple[str, ...]
    near: tuple[str, ...]


def rank_rows(tokenizer: Tokenizer, seed: int) -> list[RankRow]:
    """All rows, by their source: "narr", "quac", "boolq", "coqa", "cloze"."""
    rng = Random(f"{seed}:ranking")
    asked = {
        "narr": list(_narrative(tokenizer)),
        "quac": list(_quac(tokenizer)),
        "boolq": rng.sample(list(_searched()), SEARCHED),
        "coqa": list(_dialogues(tokenizer)),
        "cloze": list(_echoes(rng)),
    }
    others = sum(len(questions) for name, questions in asked.items() if name != "cloze")
    few = int(others * ECHO_SHARE / (1 - ECHO_SHARE))
    asked["cloze"] = rng.sample(asked["cloze"], min(few, len(asked["cloze"])))
    also = {"boolq": [passage.body for passage in boolq("train")]}
    return [
        RankRow(q.question, q.passage, negatives, source)
        for source, questions in asked.items()
        for q, negatives in with_negatives(questions, also.get(source, ()))
    ]


def with_negatives(
    questions: Sequence[Questioned], also: Sequence[str] = ()
) -> Iterator[tuple[Questioned, tuple[str, ...]]]:
    """Each question with passages that look as if they answered it: those near its own first, then
    those of all the others, by words, then any.

    Left out is what has the answer's words, and a question for which nothing is left.

    Args:
        questions: The questions.
        also: Further passages to find among.
    """
    own = (text for q in questions for text in (q.passage, *q.near))
    passages = list(dict.fromkeys((*own, *also)))
    with GemIndex(None) as index:
        index.add(passages, None)
        for question in questions:
            near = set(question.near)
            hits = index.search(text=question.question, mode="words", k=LOOKED_AT)
            found = [hit.text for hit in hits]
            ordered = [t for t in found if t in near]
            ordered += [t for t in question.near if t not in found]
            ordered += [t for t in found if t not in near]
            if len(ordered) < NEGATIVES:
                rng = Random(question.question)
                ordered += rng.sample(passages, min(LOOKED_AT, len(passages)))
            wrong = [t for t in dict.fromkeys(ordered) if not _answers(t, question)]
            if wrong:
                yield question, tuple(wrong[:NEGATIVES])


def _answers(passage: str, question: Questioned) -> bool:
    own = passage == question.passage
    return own or bool(holding([passage], question.answers))


def _narrative(tokenizer: Tokenizer) -> Iterator[Questioned]:
    for asked in narrative("even"):
        yield from _of_chunks(asked.question, chunks(asked.text, tokenizer), asked.answers)


def _quac(tokenizer: Tokenizer) -> Iterator[Questioned]:
    for asked in quac("even"):
        start = first_marked(asked)[:ANSWER_START]
        yield from _of_chunks(asked.question, chunks(asked.text, tokenizer), (start,))


def _dialogues(tokenizer: Tokenizer) -> Iterator[Questioned]:
    for asked in coqa():
        says_more = plain(asked.answers[0]) not in ("yes", "no")
        if asked.alone and says_more:
            yield from _of_chunks(asked.question, chunks(asked.text, tokenizer), asked.answers)


def _of_chunks(
    question: str, parts: Sequence[str], answers: tuple[str, ...]
) -> Iterator[Questioned]:
    """The question with the one chunk that holds an answer, if there is one."""
    found = holding(parts, answers)
    if len(found) == 1:
        others = tuple(part for i, part in enumerate(parts) if i != found[0])
        yield Questioned(question, parts[found[0]], answers, others)


def _searched() -> Iterator[Questioned]:
    """BoolQ's questions; that a passage of another title answers them as well is unlikely."""
    titled: dict[str, list[Passage]] = {}
    for passage in boolq("train"):
        titled.setdefault(passage.title, []).append(passage)
    for passage in boolq("train"):
        same = [p.body for p in titled[passage.title]]
        if len(set(same)) == 1:
            yield Questioned(search_question(passage.question), passage.body, (), ())


def _echoes(rng: Random) -> Iterator[Questioned]:
    """Questions made of Wikipedia's sentences; near is what else the article says."""
    articles: dict[str, list[str]] = {}
    for passage in wikipedia():
        articles.setdefault(re.sub(r": .*", "", passage.title), []).append(passage.body)
    for bodies in articles.values():
        for body in bodies:
            for made in echoes(body, rng, 1):
                others = tuple(other for other in bodies if other != body)
                yield Questioned(made.question, body, (made.answer,), others)
