"""Second and later questions of a conversation: is the passage that answers them found first?"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from pathlib import Path
from random import Random

import numpy as np

from gem_rag.index import GemIndex
from gem_rag.model import GemModel
from gem_rag.progress import progress
from gem_rag.rag import GemRAG, in_context
from gem_rag.rag.conversation import find_in_context
from gem_rag.rag.retrieve import Found, Retriever
from gem_rag.store import ReadingStore
from gem_rag.text.template import Message
from gem_rag_train.evaluation.dialogues import Turn, quac_conversations
from gem_rag_train.evaluation.embedding import KEPT_BYTES
from gem_rag_train.evaluation.measures import Measure, measure
from gem_rag_train.evaluation.statistics import Sample
from gem_rag_train.evaluation.systems import CHECKPOINT

WAYS = ALONE, BEFORE, IN_CONTEXT = "question alone", "last question before it", "in context"
ANSWER_TOKENS = 48
CANDIDATES = 8


def followed(
    model: GemModel, questions: int, *, seed: int, show_progress: bool | None = None
) -> list[Measure]:
    """Recall@1 of follow-ups, and of questions after a change of subject, by three ways to ask.

    Args:
        model: The checkpoint.
        questions: Of each kind, at most.
        seed: Draws them.
        show_progress: As for `GemModel.read`.
    """
    data = quac_conversations(model, "second")
    asker = Asker(model, data.paragraphs, CANDIDATES, None, own_answers=False)
    lines = []
    for name, turns in (("follow-ups", data.follow_ups), ("changes of subject", data.changes)):
        drawn = Random(seed).sample(turns, min(questions, len(turns)))
        right = []
        with progress(f"{name}: asking", len(drawn), show_progress) as advance:
            for turn in drawn:
                right.append(asker.right(turn))
                advance(1)
        groups = [turn.dialogue for turn in drawn]
        columns = np.array(right, dtype=np.float64).T
        names = (ALONE, BEFORE, CHECKPOINT)
        samples = {n: Sample.mean(c, groups) for n, c in zip(names, columns, strict=True)}
        task = f"QuAC, {name}, {len(data.paragraphs):,} chunks"
        lines.append(measure("followups", task, "recall@1", samples, against=BEFORE))
    return lines


class Asker:
    """Asks about paragraphs, three ways.

    Args:
        model: The checkpoint.
        paragraphs: What is asked about.
        candidates: How many are ranked.
        readings: Where readings are kept; None keeps them in memory.
        own_answers: Whether the answers of the history are the model's.
    """

    def __init__(
        self,
        model: GemModel,
        paragraphs: Sequence[str],
        candidates: int,
        readings: Path | None,
        own_answers: bool,
    ) -> None:
        store = ReadingStore(model, readings, memory_bytes=KEPT_BYTES, disk_bytes=KEPT_BYTES)
        index = GemIndex(fingerprint=model.fingerprint)
        index.add(paragraphs, store.embed(paragraphs), ids=[str(i) for i in range(len(paragraphs))])
        self._retriever = Retriever(model, index, store)
        self._rag = GemRAG(model, index, store=store, candidates=candidates)
        self._candidates = candidates
        self._own_answers = own_answers
        self._find = cache(self._search)  # two of the ways ask the same

    def right(self, turn: Turn) -> list[bool]:
        """Whether each of `WAYS` finds the turn's paragraph first."""
        history = self._history(turn)
        found, _ = find_in_context(self._find, turn.question, history, self._rag.threshold)
        ways = [
            self._find(turn.question),
            self._find(in_context(turn.question, history)),
            found,
        ]
        gold = str(turn.paragraph)
        return [bool(way.citations) and way.citations[0].id == gold for way in ways]

    def _search(
        self, question: str, /, *, searched: str | None = None, only: str | None = None
    ) -> Found:
        return self._retriever.find(
            question,
            k=1,
            candidates=self._candidates,
            rank=True,
            where=None if only is None else {"$id": only},
            searched=searched,
        )

    def _history(self, turn: Turn) -> list[Message]:
        history: list[Message] = []
        for question, answer in turn.before:
            if self._own_answers:
                answer = self._rag.chat(question, history, max_new_tokens=ANSWER_TOKENS).answer
            history.append({"role": "user", "content": question})
            if answer:
                history.append({"role": "assistant", "content": answer})
        return history
