"""Answers from what was found: from one reading exactly, from several passages together."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

from gem_rag.engine.results import Generation, Usage
from gem_rag.engine.streams import AwaitedPieces, Stream
from gem_rag.model import GemModel
from gem_rag.rag.citation import Citation
from gem_rag.rag.quotes import quoted
from gem_rag.rag.retrieve import Found
from gem_rag.store import ReadingStore
from gem_rag.text.prompts import ASK

NOTHING_FOUND = "I found nothing about this in the documents."


@dataclass(frozen=True)
class Answer:
    """An answer, what it stands on, what it took.

    Attributes:
        answer: The model's words; `NOTHING_FOUND` where nothing relevant was found.
        citations: The passages the model had before it, best first; empty where nothing was found.
            Once the answer is whole, those that carry it have a quote.
        timings: Seconds: ``retrieve``, ``rank``, ``first_token``, ``generate``, ``total``.
        usage: Token counts of the generation.
        finish_reason: As in `Generation`; ``nothing_found`` where nothing was generated.
    """

    answer: str
    citations: list[Citation]
    timings: dict[str, float]
    usage: Usage
    finish_reason: str = "stop"

    def as_dict(self) -> dict[str, Any]:
        """All of it, the quotes' words among it, for JSON."""
        return {**asdict(self), "citations": [citation.as_dict() for citation in self.citations]}


class AnswerStream:
    """An answer's text piece by piece; `answer` is the whole, `citations` are known at once.

    Which sentences carry the answer (`Citation.quote`) is known when it is whole: see `answer`.

    Args:
        pieces: The model's words; None where nothing was found.
        found: What they stand on.
        question: What they answer.
    """

    def __init__(self, pieces: Stream | None, found: Found, question: str = "") -> None:
        self._pieces = pieces
        self._found = found
        self._question = question
        self._first: float | None = None
        self._quoted: list[Citation] | None = None
        self.citations = found.citations

    def __iter__(self) -> Iterator[str]:
        if self._pieces is None:
            yield NOTHING_FOUND
            return
        for piece in self._pieces:
            if self._first is None:
                self._first = time.perf_counter()
            yield piece
        generation = self._pieces.generation
        if generation.finish_reason != "cancelled":
            self._quoted = quoted(self.citations, self._question, generation.text)

    def close(self, *, wait: bool = True) -> None:
        """Stop generating; `wait` for a token under way to end."""
        if self._pieces is not None:
            self._pieces.close(wait=wait)

    @property
    def answer(self) -> Answer:
        """The answer so far with citations, timings and usage."""
        generation = None if self._pieces is None else self._pieces.generation
        citations = self.citations if self._quoted is None else self._quoted
        return _answer(self._found, citations, generation, self._first)


class AsyncAnswerStream(AwaitedPieces[AnswerStream, str]):
    """An `AnswerStream` whose pieces are awaited; retrieval is done for the first one."""

    @property
    def citations(self) -> list[Citation]:
        """What was retrieved, once the first piece has come."""
        return self.stream.citations

    @property
    def answer(self) -> Answer:
        """See `AnswerStream.answer`."""
        return self.stream.answer


def _answer(
    found: Found, citations: list[Citation], generation: Generation | None, first: float | None
) -> Answer:
    """Everything about an answer as it is now; `first` is when its first piece came."""
    now = time.perf_counter()
    timings = dict(found.timings)
    retrieved = found.started + sum(timings.values())
    if first is not None:
        timings["first_token"] = first - retrieved
    timings["generate"] = now - retrieved if generation is not None else 0.0
    timings["total"] = now - found.started
    if generation is None:
        return Answer(NOTHING_FOUND, [], timings, Usage(0, 0, 0), "nothing_found")
    text, reason = generation.text.strip(), generation.finish_reason
    return Answer(text, citations, timings, generation.usage, reason)


def answer_from(
    model: GemModel,
    store: ReadingStore,
    found: Found,
    question: str,
    *,
    join_readings: bool,
    **options: Any,
) -> Stream:
    """Ask the model, with what was found before it.

    Args:
        model: Answers.
        store: Kept readings.
        found: One passage or several.
        question: What is asked, in the light of the conversation.
        join_readings: Put several readings together instead of reading afresh.
        **options: See `GenerationOptions`.
    """
    ask = ASK.format(question=question)
    one = len(found.citations) == 1
    if model.shares_readings and (one or join_readings):
        readings = found.readings or store.read(found.texts)
        after = readings[0] if one else model.join(readings)
        return model.stream(ask, after=after, **options)
    passages = "\n\n".join(found.texts)
    return model.stream(passages + ask, **options)
