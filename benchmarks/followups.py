"""Second and later questions of a conversation: is the passage that answers them found first?

QuAC's dialogues of odd number, cut into chunks, all articles of a half in one index; by the first
half something was chosen, by the second nothing. Three ways: the question alone, the last question
put before it, and `find_in_context`. Beside the follow-ups, changes of subject: first questions of
a dialogue, asked after another one; of these also the part that may stand alone. The answers in the
history are the set's own; with ``--own-answers`` they are the model's.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any, get_args

import numpy as np
from common import arguments, show

from gem_rag.index import GemIndex
from gem_rag.model import GemModel
from gem_rag.rag import GemRAG, in_context
from gem_rag.rag.conversation import find_in_context
from gem_rag.rag.question import stands_alone
from gem_rag.rag.retrieve import Found, Retriever
from gem_rag.store import ReadingStore
from gem_rag.text.template import Message
from gem_rag_train.evaluation import KEPT_BYTES
from gem_rag_train.evaluation.dialogues import Half, Turn, quac_conversations
from gem_rag_train.evaluation.statistics import Sample

WAYS = ("question alone", "last question before it", "in context")
ANSWER_TOKENS = 48


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


def compared(name: str, turns: Sequence[Turn], asker: Asker) -> dict[str, Any]:
    """Recall@1 of each way, and what the last gains over the one before, with the interval."""
    right = np.array([asker.right(turn) for turn in turns], dtype=np.float64)
    groups = [turn.dialogue for turn in turns]
    alone = np.array([stands_alone(turn.question) for turn in turns])
    report: dict[str, Any] = {f"{name}: questions": len(turns)}
    for part, kept in ((name, alone | True), (f"{name}, may stand alone", alone)):
        samples = [Sample.mean(r, np.array(groups)[kept]) for r in right[kept].T]
        for way, sample in zip(WAYS, samples, strict=True):
            report[f"{part}: {way}"] = sample.value
        gain = samples[2].minus(samples[1])
        report[f"{part}: gained"] = f"{gain.value:+.3f} [{gain.low:+.3f}, {gain.high:+.3f}]"
    return report


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--half", choices=get_args(Half), default="second")
    parser.add_argument("--questions", type=int, default=300, help="of each kind, at most")
    parser.add_argument("--candidates", type=int, default=8)
    parser.add_argument("--readings", type=Path, help="a folder where readings are kept")
    parser.add_argument("--own-answers", action="store_true")
    options = parser.parse_args()
    model = GemModel.from_pretrained()
    asked = quac_conversations(model, options.half)
    asker = Asker(
        model, asked.paragraphs, options.candidates, options.readings, options.own_answers
    )
    report: dict[str, Any] = {}
    for name, turns in (("follow-ups", asked.follow_ups), ("changes", asked.changes)):
        drawn = random.Random(0).sample(turns, min(options.questions, len(turns)))
        report |= compared(name, drawn, asker)
    show(report, options.json)


if __name__ == "__main__":
    main()
