"""Rows that skills are learnt from: a question with its answer, or with its passages."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from random import Random
from typing import Any, Literal

from gem_rag.config import SkillTask
from gem_rag.errors import GemError
from gem_rag_train.data.files import numbered_lines

Style = Literal["short", "sentence"]
STYLES = ("short", "sentence")
FIELDS: dict[SkillTask, tuple[tuple[str, ...], tuple[str, ...]]] = {  # needed, optional
    "answer": (("context", "question", "answer"), ("style",)),
    "rank": (("question", "positive", "negatives"), ()),
}
EXPECTED = (
    "context, question, answer (a text or a list of alternatives) and maybe style, or question, "
    "positive, negatives (a list)"
)
MOST_NAMED = 10  # broken rows that an error names


@dataclass(frozen=True)
class AnswerRow:
    """A question, the passage it is asked of, and what is to be said.

    Attributes:
        context: The passage.
        question: The question.
        answers: Right ones, each as good as the others.
        style: "short" is the skill's own prompt, "sentence" one that asks for whole sentences.
        source: Where it is from: a file's or a bundled source's name.
    """

    context: str
    question: str
    answers: tuple[str, ...]
    style: Style = "short"
    source: str = ""

    def drawn(self, rng: Random) -> AnswerRow:
        """The row as a step takes it, with one of the answers."""
        return replace(self, answers=(rng.choice(self.answers),))

    @property
    def passage(self) -> str:
        """What is read for it first: rows of one passage belong together."""
        return self.context

    @property
    def texts(self) -> tuple[str, ...]:
        """All that is read for it."""
        return (self.context,)


@dataclass(frozen=True)
class RankRow:
    """A question, a passage that answers it, and some that do not.

    Attributes:
        question: The question.
        positive: The passage that answers it.
        negatives: Passages that do not, best those that look as if they did.
        source: As of `AnswerRow`.
    """

    question: str
    positive: str
    negatives: tuple[str, ...]
    source: str = ""

    @property
    def passage(self) -> str:
        """What is read for it first: rows of one passage belong together."""
        return self.positive

    @property
    def texts(self) -> tuple[str, ...]:
        """All that is read for it."""
        return (self.positive, *self.negatives)

    def drawn(self, rng: Random, negatives: int) -> RankRow:
        """The row as a step takes it, with so many of the negatives."""
        some = rng.sample(self.negatives, min(negatives, len(self.negatives)))
        return replace(self, negatives=tuple(some))


Row = AnswerRow | RankRow


def task_of(rows: Sequence[Row]) -> SkillTask:
    """What rows of one kind teach."""
    return "answer" if isinstance(rows[0], AnswerRow) else "rank"


def load_rows(paths: Sequence[str | Path]) -> list[Row]:
    """Read JSONL files of rows, all for one task.

    Raises:
        GemError: A file is missing or empty, rows are broken (named by file and line), or there
            are rows of both kinds.
    """
    rows: list[Row] = []
    broken: list[str] = []
    for path in map(Path, paths):
        before = len(rows)
        for where, line in _lines(path):
            try:
                rows.append(_row(line, path.stem))
            except GemError as error:
                broken.append(f"{where}: {error}")
        if len(rows) == before and not broken:
            raise GemError(f"{path} holds no rows; expected JSONL, each row with {EXPECTED}")
    if broken:
        raise GemError(_named(broken))
    kinds = {type(row): row.source for row in rows}
    if len(kinds) > 1:
        raise GemError(
            f"rows to answer from (as in {kinds[AnswerRow]}) and rows to rank (as in "
            f"{kinds[RankRow]}) together; a skill does one of the two: train two"
        )
    return rows


def _named(broken: Sequence[str]) -> str:
    """The first broken rows, one a line, and how many more there are."""
    more = len(broken) - MOST_NAMED
    end = [f"and {more:,} more"] if more > 0 else []
    count = f"{len(broken)} rows" if len(broken) > 1 else "one row"
    return "\n".join([f"{count} cannot be used:", *broken[:MOST_NAMED], *end])


def _lines(path: Path) -> Iterator[tuple[str, str]]:
    if not path.is_file():
        found = "is a folder" if path.is_dir() else "does not exist"
        raise GemError(f"data file {path} {found}; expected JSONL, or bundled:answer, bundled:rank")
    yield from numbered_lines(path)


def _row(line: str, source: str) -> Row:
    try:
        row = json.loads(line)
    except json.JSONDecodeError as error:
        raise GemError(f"no JSON ({error}); expected one object a line") from None
    if not isinstance(row, dict):
        raise GemError(f"found {type(row).__name__}; expected one JSON object a line")
    for task, (needed, optional) in FIELDS.items():
        if set(needed) <= row.keys() <= {*needed, *optional}:
            return _answer_row(row, source) if task == "answer" else _rank_row(row, source)
    raise GemError(f"found the fields {sorted(row)}; expected {EXPECTED}")


def _answer_row(row: Mapping[str, Any], source: str) -> AnswerRow:
    answers = row["answer"] if isinstance(row["answer"], list) else [row["answer"]]
    if not answers:
        raise GemError("'answer' is []; expected a text or a list of alternatives")
    style = row.get("style", "short")
    if style not in STYLES:
        raise GemError(f"'style' is {style!r}; expected one of {STYLES}")
    return AnswerRow(
        _text(row["context"], "context"),
        _text(row["question"], "question"),
        tuple(_text(answer, "answer") for answer in answers),
        style,
        source,
    )


def _rank_row(row: Mapping[str, Any], source: str) -> RankRow:
    negatives = row["negatives"]
    if not isinstance(negatives, list) or not negatives:
        raise GemError(f"'negatives' is {negatives!r}; expected a list of passages, one at least")
    positive = _text(row["positive"], "positive")
    others = tuple(_text(negative, "negatives") for negative in negatives)
    if positive in others:
        raise GemError("'positive' is among 'negatives'; expected a passage that answers, or not")
    return RankRow(_text(row["question"], "question"), positive, others, source)


def _text(value: object, name: str) -> str:
    r"""Words in valid Unicode: JSON can hold half a character (``"\ud83d"``)."""
    if not isinstance(value, str) or not value.strip():
        raise GemError(f"{name!r} is {value!r}; expected a text")
    try:
        value.encode()
    except UnicodeEncodeError:
        raise GemError(f"{name!r} is no valid Unicode: {value!r}") from None
    return value.strip() if name != "context" else value
