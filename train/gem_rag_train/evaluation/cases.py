"""Questions written by hand, each with what a careful reader answers, and a judge of answers.

The data are in ``data/``: documents, 100 questions that one passage of them answers, and 60 that
need two passages, of this project's documentation (copied), the World Factbook and Django's
manual (referred to, and fetched as training fetches them).

An answer is judged by its words without letter case, punctuation and articles (`normalised`):

- ``starts``, where it is not empty, is the first of them: "yes" or "no";
- ``accept`` are alternatives, of which one has to stand in the answer with all its strings; where
  there are none, nothing has to;
- ``reject`` are strings of which none may stand there.

A string stands in an answer if its words do, whole and one after the other; after a ``*`` at its
end the last word may go on ("scratch*").
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from gem_rag.documents.words import BELOW
from gem_rag.errors import GemError
from gem_rag.model import GemModel
from gem_rag.rag import ASK
from gem_rag_train.data.sources import Passage, factbook, manual
from gem_rag_train.evaluation.answers import normalised

DATA = Path(__file__).with_name("data")
BATCH = 10  # questions that are asked together
Kind = Literal["yes_no", "number", "list", "how", "why", "table", "code", "paraphrase"]
KINDS: tuple[Kind, ...] = (
    "yes_no",
    "number",
    "list",
    "how",
    "why",
    "table",
    "code",
    "paraphrase",
)
FETCHED: dict[str, Callable[[], tuple[Passage, ...]]] = {"factbook": factbook, "django": manual}


@dataclass(frozen=True)
class Judged:
    """A question, and which answers to it are right.

    Attributes:
        id: Its name.
        question: What is asked.
        answers: What a careful reader answers, in one way or another; all are right.
        accept: Alternatives, each a number of strings that all stand in a right answer.
        reject: Strings that stand in no right answer.
        starts: A right answer's first word, or "".
        wrong: Answers that read well and are not right.
    """

    id: str
    question: str
    answers: tuple[str, ...]
    accept: tuple[tuple[str, ...], ...]
    reject: tuple[str, ...]
    starts: str
    wrong: tuple[str, ...]


@dataclass(frozen=True)
class Case(Judged):
    """A question that one passage answers.

    Attributes:
        kind: What kind of question it is.
        document: The document's name, as in `documents`.
        passage: The part of the document that answers, exactly.
    """

    kind: Kind
    document: str
    passage: str


@dataclass(frozen=True)
class Reference:
    """Where a passage is: its words, or what finds it in a source that is fetched.

    Attributes:
        title: What the passage stands under.
        text: The passage; "" where it is fetched.
        start: Its beginning, where it is fetched: no other passage of the title begins so.
    """

    title: str
    text: str = ""
    start: str = ""


@dataclass(frozen=True)
class TwoPassages(Judged):
    """A question that needs two passages.

    Attributes:
        source: "docs" (this project's own), "factbook" or "django".
        references: Where the two passages are.
    """

    source: str
    references: tuple[Reference, Reference]

    @property
    def passages(self) -> tuple[str, str]:
        """Both passages, each below its title; fetched where they are not data here.

        Raises:
            FetchError: The source cannot be had.
            GemError: A reference finds no passage there, or more than one.
        """
        one, two = (_passage(self.source, reference) for reference in self.references)
        return one, two


def documents() -> dict[str, str]:
    """The documents that the hand-written cases ask about: texts by name."""
    return {row["name"]: row["text"] for row in _rows("documents")}


def hand_written() -> tuple[Case, ...]:
    """100 questions of `KINDS`, about equally many of each, over `documents`."""
    return tuple(
        Case(**_judged(row), kind=row["kind"], document=row["document"], passage=row["passage"])
        for row in _rows("cases")
    )


def two_passages() -> tuple[TwoPassages, ...]:
    """60 questions that need two passages, 20 of each source; nothing is fetched yet."""
    return tuple(
        TwoPassages(
            **_judged(row),
            source=row["source"],
            references=(Reference(**row["references"][0]), Reference(**row["references"][1])),
        )
        for row in _rows("two_passages")
    )


def is_right(answer: str, case: Judged) -> bool:
    """Whether the answer is right, by the rule at the top of this module."""
    words = normalised(answer)
    if case.starts and words[:1] != [case.starts]:
        return False
    text = f" {' '.join(words)} "
    if case.accept and not any(all(_stands(s, text) for s in each) for each in case.accept):
        return False
    return not any(_stands(string, text) for string in case.reject)


def answered(
    model: GemModel, cases: Sequence[Case], *, skill: str | None = None, **options: Any
) -> list[str]:
    """What a model answers to each case, its passage read, as `GemRAG` asks about one passage.

    Args:
        model: Reads and answers.
        cases: What is asked.
        skill: A skill of the checkpoint to answer with; None is the plain base.
        **options: See `GenerationOptions`.

    Raises:
        ReadingError: The model's readings cannot be continued (scope ``always``).
    """
    prompt = ASK
    if skill is not None:
        options["skill"] = skill
        prompt = model.parts.skill(skill).config.prompt
    answers: list[str] = []
    for start in range(0, len(cases), BATCH):
        batch = cases[start : start + BATCH]
        readings = model.read([case.passage for case in batch], show_progress=False)
        asked = [prompt.replace("{question}", case.question) for case in batch]
        generations = model.generate_batch(asked, after=readings, **options)
        answers += [generation.text.strip() for generation in generations]
    return answers


def _stands(string: str, text: str) -> bool:
    """Whether a string stands in normalised words that have a space on either side."""
    return f" {' '.join(normalised(string))}{'' if string.endswith('*') else ' '}" in text


def _rows(name: str) -> list[dict[str, Any]]:
    lines = (DATA / f"{name}.jsonl").read_text(encoding="utf-8").split("\n")
    return [json.loads(line) for line in lines if line]


def _judged(row: dict[str, Any]) -> dict[str, Any]:
    """The fields of `Judged`."""
    return {
        "id": row["id"],
        "question": row["question"],
        "answers": tuple(row["answers"]),
        "accept": tuple(map(tuple, row["accept"])),
        "reject": tuple(row["reject"]),
        "starts": row["starts"],
        "wrong": tuple(row["wrong"]),
    }


def _passage(source: str, reference: Reference) -> str:
    return reference.title + BELOW + (reference.text or _fetched(source, reference))


def _fetched(source: str, reference: Reference) -> str:
    title, start = reference.title, reference.start
    bodies = [p.body for p in FETCHED[source]() if p.title == title and p.body.startswith(start)]
    if len(bodies) != 1:
        raise GemError(
            f"{len(bodies)} passages of {source} under {title!r} begin with {start!r}; expected "
            "one: the source has changed, or the reference needs a longer beginning"
        )
    return bodies[0]
