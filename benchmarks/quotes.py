"""Whether the sentence that a citation quotes is the one that holds the answer.

SQuAD dev, the right paragraph given: the gold answers, and those of the model's own that are right
(they contain a gold one). A quote is right where a gold answer's place lies in it. With
``--choose`` what counts for how much is varied instead, on odd QuAC dialogues: a few words taken
out of the gold answers, and the model's own answers that hold at least half of a gold one's words.
The model's answers are kept in ``--kept``.
"""

from __future__ import annotations

import random
import re
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from common import arguments, show

from gem_rag.documents.sentences import sentences
from gem_rag.index.words import asked
from gem_rag.model import GemModel
from gem_rag.rag import Citation
from gem_rag.rag.quotes import COUNTS, Counts, quoted
from gem_rag.text.prompts import ASK
from gem_rag_train.evaluation.answers import LONGEST_ANSWER, best, contains
from gem_rag_train.evaluation.dialogues import quac_answers
from gem_rag_train.evaluation.kept import KeptAnswers, digest
from gem_rag_train.evaluation.sets import Question, Retrieval, squad

HELD = 0.5  # of a gold answer's words, in an answer that is right
FEW_WORDS = re.compile(r"(?<=[a-z,] )[A-Z]\w+(?: [A-Z]\w+)*|\b\d[\d,.]*\b|(?<=[a-z] )[a-z]{7,}\b")
VARIED = {
    "later": (1.0, 0.95, 0.85),
    "question": (0.0, 0.1, 0.5),
    "verbatim": (0.0, 1.0),
    "wider": (0.1, 0.3, 0.5),
}


@dataclass(frozen=True)
class Answered:
    """An answer to a question about a passage, and where the right one stands in it."""

    passage: str
    question: str
    answer: str
    places: tuple[tuple[int, int], ...]


def quote(row: Answered, counts: Counts = COUNTS) -> tuple[int, int]:
    """The place of the quote; an empty one where there is none."""
    whole = Citation("", 0, len(row.passage), None, None, row.passage)
    (citation,) = quoted([whole], row.question, row.answer, counts)
    return citation.quote_start or 0, citation.quote_end or 0


def holds(row: Answered, counts: Counts = COUNTS) -> bool:
    start, end = quote(row, counts)
    return any(start <= first and last <= end for first, last in row.places)


def touches(row: Answered, counts: Counts) -> bool:
    """Of answers that are long."""
    start, end = quote(row, counts)
    return any(start < last and first < end for first, last in row.places)


def share(rows: Sequence[Answered], right: Callable[..., bool], *arguments: Counts) -> float:
    return sum(right(row, *arguments) for row in rows) / max(1, len(rows))


def own(model: GemModel, data: Retrieval, kept: KeptAnswers) -> list[tuple[Question, Answered]]:
    """The model's answers, each after the reading of the right paragraph."""
    out = []
    for question in data.questions:
        passage = data.paragraphs[question.paragraph]
        key = digest(model.fingerprint, str(model.base.dtype), passage, question.text)
        if key not in kept:
            (reading,) = model.read([passage], show_progress=False)
            told = ASK.format(question=question.text)
            kept[key] = model.generate(told, after=reading, max_new_tokens=LONGEST_ANSWER).text
        out.append((question, Answered(passage, question.text, kept[key], question.places)))
    return out


def reported(options) -> dict[str, object]:
    """On SQuAD dev, which chooses nothing."""
    data = Retrieval(*squad()).sample(options.questions, options.questions, seed=1)
    gold = [
        Answered(data.paragraphs[q.paragraph], q.text, q.answers[0], q.places)
        for q in data.questions
    ]
    asked_about = [replace(row, question="", answer=row.question) for row in gold]
    counts = [len(sentences(row.passage)) for row in gold]
    lengths = [end - start for start, end in map(quote, gold)]
    began = time.perf_counter()
    right = share(gold, holds)
    took = (time.perf_counter() - began) / len(gold)
    few = Retrieval(data.paragraphs, data.questions[: options.answered])
    said = own(GemModel.from_pretrained(), few, KeptAnswers(options.kept / "squad.jsonl"))
    own_right = [row for question, row in said if best(contains, row.answer, question)]
    return {
        "sentences a paragraph": sum(counts) / len(counts),
        "characters a paragraph": sum(len(row.passage) for row in gold) / len(gold),
        "characters a quote": sum(lengths) / len(lengths),
        "milliseconds a quote": 1000 * took,
        "gold answers": len(gold),
        "quote holds the gold place": right,
        "the sentence nearest to the question does": share(asked_about, holds),
        "the model's answers": len(said),
        "of these right": len(own_right),
        "quote holds the gold place, of the right ones": share(own_right, holds),
    }


def chosen(options) -> dict[str, object]:
    """On QuAC's odd dialogues."""
    data = quac_answers()
    draw = random.Random(1)
    short = [row for q in data.questions if (row := few_words(data, q, draw)) is not None]
    random.Random(0).shuffle(data.questions)
    few = Retrieval(data.paragraphs, data.questions[: options.answered])
    said = own(GemModel.from_pretrained(), few, KeptAnswers(options.kept / "quac.jsonl"))
    right = [row for question, row in said if held(row.answer, question.answers[0]) >= HELD]
    report: dict[str, object] = {"a few words": len(short), "right answers": len(right)}
    variants = [replace(COUNTS, **{name: x}) for name, xs in VARIED.items() for x in xs]
    for counts in [COUNTS, *variants]:
        changed = [f"{n} {v}" for n, v in vars(counts).items() if v != vars(COUNTS)[n]]
        name = ", ".join(changed) or "as it is"
        report[f"{name}: a few words"] = share(short, holds, counts)
        report[f"{name}: right answers"] = share(right, touches, counts)
    return report


def few_words(data: Retrieval, question: Question, draw: random.Random) -> Answered | None:
    """A name, a number or a long word out of the answer, as a short answer with its place."""
    ((start, _),) = question.places
    found = list(FEW_WORDS.finditer(question.answers[0]))
    if not found:
        return None
    words = draw.choice(found)
    place = start + words.start(), start + words.end()
    return Answered(data.paragraphs[question.paragraph], question.text, words[0], (place,))


def held(answer: str, gold: str) -> float:
    """The part of the gold answer's words that stand in an answer."""
    wanted = set(asked(gold))
    return len(wanted & set(asked(answer))) / max(1, len(wanted))


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--questions", type=int, default=300)
    parser.add_argument("--answered", type=int, default=130, help="of them, by the model itself")
    parser.add_argument("--kept", type=Path, default=Path("kept-quotes"))
    parser.add_argument("--choose", action="store_true")
    options = parser.parse_args()
    show((chosen if options.choose else reported)(options), options.json)


if __name__ == "__main__":
    main()
