"""Questions to choose by: held-out parts of sets that are trained on; never those that report.

BoolQ's dev part; NarrativeQA's stories and QuAC's dialogues of odd number (those of even number may
be trained on), cut into chunks. A question belongs to the one chunk of its text that holds an
answer.
"""

from __future__ import annotations

import random
from collections.abc import Sequence

from gem_rag.model import GemModel
from gem_rag_train.data.asked import (
    ANSWER_START,
    Asked,
    chunks,
    holding,
    narrative,
    narrative_texts,
    quac,
    quac_texts,
)
from gem_rag_train.data.sources import boolq
from gem_rag_train.evaluation.sets import Question, Retrieval


def boolq_dev(passages: int = 1500) -> Retrieval:
    """BoolQ's dev part: search questions, and so many passages."""
    rows = list({p.body: p for p in boolq("dev") if p.question}.values())
    rows = random.Random(0).sample(rows, min(passages, len(rows)))
    return Retrieval(
        [p.body for p in rows], [Question(p.question, i, ()) for i, p in enumerate(rows)]
    )


def narrative_odd(model: GemModel) -> Retrieval:
    """NarrativeQA: summaries of stories, all of them to be found among, odd ones asked about."""
    return _in_chunks(model, narrative_texts(), narrative("odd"))


def quac_odd(model: GemModel) -> Retrieval:
    """QuAC: the first question of each dialogue of odd number, which stands alone."""
    asked = [a._replace(answers=(a.answers[0][:ANSWER_START],)) for a in quac("odd")]
    return _in_chunks(model, quac_texts("odd"), asked)


def _in_chunks(model: GemModel, texts: Sequence[str], asked: Sequence[Asked]) -> Retrieval:
    paragraphs: list[str] = []
    of_text: dict[str, range] = {}
    for text in texts:
        own = chunks(text, model.codec.backend)
        of_text[text] = range(len(paragraphs), len(paragraphs) + len(own))
        paragraphs += own
    questions = []
    for one in asked:
        mine = of_text[one.text]
        found = holding([paragraphs[i] for i in mine], one.answers)
        if len(found) == 1:
            questions.append(Question(one.question, mine[found[0]], one.answers))
    return Retrieval(paragraphs, questions)
