"""Rows that are made from packages on the package index: what ``bundled:NAME`` stands for."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from gem_rag.config import SkillTask
from gem_rag_train.data.answering import answer_rows
from gem_rag_train.data.ranking import rank_rows
from gem_rag_train.data.rows import Row
from gem_rag_train.data.sources import (
    BBC,
    BOOLQ,
    COQA,
    NARRATIVE_QA,
    QUAC,
    WIKIPEDIA,
    Source,
)

if TYPE_CHECKING:
    from tokenizers import Tokenizer

Build = Callable[["Tokenizer", int], Sequence[Row]]


@dataclass(frozen=True)
class BundledRows:
    """A set of rows.

    Attributes:
        task: What they teach.
        build: Makes them: by a tokenizer that texts are cut into chunks with, and a seed.
        sources: Where they are from.
    """

    task: SkillTask
    build: Build
    sources: tuple[Source, ...]


SETS: dict[str, BundledRows] = {
    "answer": BundledRows("answer", answer_rows, (NARRATIVE_QA, QUAC, BOOLQ, COQA, WIKIPEDIA, BBC)),
    "rank": BundledRows("rank", rank_rows, (NARRATIVE_QA, QUAC, BOOLQ, COQA, WIKIPEDIA)),
}
