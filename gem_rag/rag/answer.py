"""Answers from what was found: from one reading exactly, from several passages together."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from gem_rag.engine.results import Generation, Usage
from gem_rag.engine.streams import AwaitedPieces, Stream
from gem_rag.model import GemModel
from gem_rag.rag.citation import Citation
from gem_rag.rag.retrieve import Found
from gem_rag.store import ReadingStore
from gem_rag.text.prompts import ASK

NOTHING_FOUND = "I found nothing about this in the documents."
EMPTY_INDEX = (
    "There are no documents in the index yet: add some with `gem-rag index` or `GemRAG.add`."
)


@dataclass(frozen=True)
class Answer:
    """An answer, what it stands on, what it took.

    Attributes:
        answer: The model's words; `NOTHING_FOUND` where nothing that answers was found,
            `EMPTY_INDEX` where there is nothing to find.
        citations: The passages the model had before it, best first; empty where nothing was found.
        timings: Seconds: ``retrieve``, ``rank``, ``first_token``, ``generate``, ``total``.
        usage: Token counts of the generation.
        finish_reason: As in `Generation`; ``nothing_found`` or ``empty_index`` where nothing was
            generated.
        nearest: Where nothing was found that answers, the nearest passages, at most three.
    """

    answer: str
    citations: list[Citation]
    timings: dict[str, float]
    usage: Usage
    finish_reason: str = "stop"
    nearest: list[Citation] = field(default_factory=list)


class AnswerStream:
    """An answer's text piece by piece; `answer` is the whole, `citations` are known at once.

    So is `nearest`: the nearest passages, where nothing was found that answers.

    Args:
        pieces: The model's words; None where nothing was found.
        found: What they stand on.
    """

    def __init__(self, pieces: Stream | None, found: Found) -> None:
        self._pieces = pieces
        self._found = found
        self._first: float | None = None
        self.citations = found.citations
        self.nearest = found.nearest if pieces is None else []

    def __iter__(self) -> Iterator[str]:
        if self._pieces is None:
            yield self.answer.answer
            return
        for piece in self._pieces:
            if self._first is None:
                self._first = time.perf_counter()
            yield piece

    def close(self, *, wait: bool = True) -> None:
        """Stop generating; `wait` for a token under way to end."""
        if self._pieces is not None:
            self._pieces.close(wait=wait)

    @property
    def answer(self) -> Answer:
        """The answer so far with citations, timings and usage."""
        generation = None if self._pieces is None else self._pieces.generation
        return _answer(self._found, generation, self._first)


class AsyncAnswerStream(AwaitedPieces[AnswerStream, str]):
    """An `AnswerStream` whose pieces are awaited; retrieval is done for the first one."""

    @property
    def citations(self) -> list[Citation]:
        """What was retrieved, once the first piece has come."""
        return self.stream.citations

    @property
    def nearest(self) -> list[Citation]:
        """The nearest passages, once the first piece has come; see `AnswerStream`."""
        return self.stream.nearest

    @property
    def answer(self) -> Answer:
        """See `AnswerStream.answer`."""
        return self.stream.answer


def _answer(found: Found, generation: Generation | None, first: float | None) -> Answer:
    """Everything about an answer as it is now; `first` is when its first piece came."""
    now = time.perf_counter()
    timings = dict(found.timings)
    retrieved = found.started + sum(timings.values())
    if first is not None:
        timings["first_token"] = first - retrieved
    timings["generate"] = now - retrieved if generation is not None else 0.0
    timings["total"] = now - found.started
    if generation is None:
        text, reason = unanswered(found)
        return Answer(text, [], timings, Usage(0, 0, 0), reason, found.nearest)
    text, reason = generation.text.strip(), generation.finish_reason
    return Answer(text, found.citations, timings, generation.usage, reason)


def unanswered(found: Found) -> tuple[str, str]:
    """What is said where nothing is answered, and the reason."""
    return (EMPTY_INDEX, "empty_index") if found.empty else (NOTHING_FOUND, "nothing_found")


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
