"""The bundled skill's rows to answer from: people's questions, and questions made of sentences."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from random import Random
from typing import TYPE_CHECKING

from gem_rag_train.data.asked import (
    ANSWER_START,
    Asked,
    chunks,
    coqa,
    holding,
    narrative,
    plain,
    quac,
)
from gem_rag_train.data.echo import echoes
from gem_rag_train.data.rows import AnswerRow
from gem_rag_train.data.sources import bbc, boolq, wikipedia

if TYPE_CHECKING:
    from tokenizers import Tokenizer

PASSAGE_WORDS = 40, 230
ECHOES = 4  # of one passage, which is read once for them
WHOLE_SENTENCES = 0.12  # share of echo questions that are answered by the sentence itself
SHORT_WORDS, LONG_WORDS = 12, 30  # of QuAC's answers: up to where one is short, and where too long
ALTERNATIVES = 2  # people's other answers are less and less the text's own words


def answer_rows(tokenizer: Tokenizer, seed: int) -> list[AnswerRow]:
    """All rows, by their source: "cloze", "narr", "quac", "boolq", "coqa"."""
    rng = Random(f"{seed}:echoes")
    return [
        *_narrative(tokenizer),
        *_quac(tokenizer),
        *_yes_or_no(),
        *_dialogues(),
        *_echoes(rng),
    ]


def search_question(words: str) -> str:
    """A search query of BoolQ as a question is written."""
    words = words.strip()
    return f"{words[0].upper()}{words[1:]}{'' if words.endswith('?') else '?'}"


def _narrative(tokenizer: Tokenizer) -> Iterator[AnswerRow]:
    """Answers in people's own words, that in the text's own first."""
    for asked in narrative("even"):
        parts = chunks(asked.text, tokenizer)
        found = holding(parts, asked.answers)
        if found:
            context = parts[found[0]]
            answers = [trimmed(a) for a in fullest_first(asked.answers, context)]
            known = tuple(dict.fromkeys(filter(None, answers[:ALTERNATIVES])))
            yield AnswerRow(context, asked.question, known, source="narr")


def _quac(tokenizer: Tokenizer) -> Iterator[AnswerRow]:
    for asked in quac("even"):
        answer = first_marked(asked)
        words = len(answer.split())
        parts = chunks(asked.text, tokenizer)
        found = holding(parts, [answer[:ANSWER_START]])
        if found and 0 < words <= LONG_WORDS:
            short = words <= SHORT_WORDS
            yield AnswerRow(
                parts[found[0]],
                asked.question,
                (answer if short else as_sentence(answer),),
                "short" if short else "sentence",
                "quac",
            )


def first_marked(asked: Asked) -> str:
    """Of answers that several people marked, joined by commas, the first: it stands in the text."""
    text = " ".join(asked.text.split())
    words = asked.answers[0].split()
    stands = ""
    for count in range(1, len(words) + 1):
        start = " ".join(words[:count])
        if start.rstrip(",.") not in text:
            break
        stands = start
    return stands.rstrip(" ,")


def _yes_or_no() -> Iterator[AnswerRow]:
    for passage in boolq("train"):
        question = search_question(passage.question)
        yield AnswerRow(passage.body, question, (passage.answer,), source="boolq")


def _dialogues() -> Iterator[AnswerRow]:
    for asked in coqa():
        fullest = fullest_first(asked.answers, asked.text)
        answers = [as_answer(answer) for answer in fullest[:ALTERNATIVES]]
        known = tuple(dict.fromkeys(filter(None, answers)))
        if known:
            yield AnswerRow(asked.text, asked.question, known, source="coqa")


def _echoes(rng: Random) -> Iterator[AnswerRow]:
    bodies = sorted({p.body for p in (*boolq("train"), *wikipedia(), *bbc())})
    least, most = PASSAGE_WORDS
    for body in bodies:
        if not least <= len(body.split()) <= most:
            continue
        for made in echoes(body, rng, ECHOES):
            if rng.random() < WHOLE_SENTENCES:
                answer = as_sentence(made.sentence)
                yield AnswerRow(body, made.question, (answer,), "sentence", "cloze")
            else:
                yield AnswerRow(body, made.question, (made.answer,), source="cloze")


def fullest_first(answers: Sequence[str], context: str) -> list[str]:
    """People's answers, the longest first that stands in the text; they are often too short."""
    stands = [
        a
        for a in answers
        if plain(a) and plain(a) in plain(context) and len(a.split()) <= SHORT_WORDS
    ]
    best = [max(stands, key=len)] if stands else []
    return [*best, *(a for a in answers if a not in best)]


def trimmed(answer: str) -> str:
    """An answer without space and full stops around it."""
    return " ".join(answer.split()).strip(" .")


def as_answer(answer: str) -> str:
    """The same, with a capital letter: people wrote it as they wished."""
    words = trimmed(answer)
    return f"{words[:1].upper()}{words[1:]}"


def as_sentence(answer: str) -> str:
    """An answer as a sentence is written."""
    words = f"{answer[:1].upper()}{answer[1:]}"
    return words if words.endswith((".", "!", "?", '"')) else f"{words}."
