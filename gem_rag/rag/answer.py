"""Answers from what was found: from one reading exactly, from several as `several` has it."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from gem_rag.engine.results import Generation, Usage
from gem_rag.engine.streams import AwaitedPieces, Stream
from gem_rag.errors import GemError
from gem_rag.model import GemModel
from gem_rag.rag.citation import Citation
from gem_rag.rag.retrieve import Found
from gem_rag.rag.several import Several, before, with_shares
from gem_rag.store import ReadingStore
from gem_rag.text.prompts import BETWEEN

QUESTION, CONTEXT = "{question}", "{context}"
NOTHING_FOUND = "I found nothing about this in the documents."


@dataclass(frozen=True)
class Answer:
    """An answer, what it stands on, what it took.

    Attributes:
        answer: The model's words; `NOTHING_FOUND` where nothing relevant was found.
        citations: The passages the model had before it, best first; empty where nothing was found.
        timings: Seconds: ``retrieve``, ``rank``, ``first_token``, ``generate``, ``total``.
        usage: Token counts of the generation.
        finish_reason: As in `Generation`; ``nothing_found`` where nothing was generated.
    """

    answer: str
    citations: list[Citation]
    timings: dict[str, float]
    usage: Usage
    finish_reason: str = "stop"


class AnswerStream:
    """An answer's text piece by piece; `answer` is the whole, `citations` are known at once.

    Args:
        pieces: The model's words; None where nothing was found.
        found: What they stand on.
    """

    def __init__(self, pieces: Stream | None, found: Found) -> None:
        self._pieces = pieces
        self._found = found
        self._first: float | None = None
        self.citations = found.citations

    def __iter__(self) -> Iterator[str]:
        if self._pieces is None:
            yield NOTHING_FOUND
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
        return Answer(NOTHING_FOUND, [], timings, Usage(0, 0, 0), "nothing_found")
    text, reason = generation.text.strip(), generation.finish_reason
    citations = with_shares(found.citations, generation.sources)
    return Answer(text, citations, timings, generation.usage, reason)


def answer_from(
    model: GemModel,
    store: ReadingStore,
    found: Found,
    question: str,
    *,
    prompt: str,
    several: Several,
    **options: Any,
) -> Stream:
    """Ask the model, with what was found before it.

    Args:
        model: Answers.
        store: Kept readings.
        found: One passage or several.
        question: What is asked, in the light of the conversation.
        prompt: How it is asked: see `GemRAG`.
        several: What is made of several passages.
        **options: See `GenerationOptions`.
    """
    first, _, last = (part.replace(QUESTION, question) for part in prompt.rpartition(CONTEXT))
    afresh = several == "together" and len(found.texts) > 1
    # A skill acts after a reading, but among the user's own words only after all of them.
    if first or not model.shares_readings or (afresh and options.get("skill") is None):
        return model.stream(first + BETWEEN.join(found.texts) + last, **options)
    return model.stream(last, after=before(model, store, found, several), **options)


def require_prompt(prompt: str) -> str:
    """A user's prompt, if there is a place for the question in it.

    Raises:
        GemError: There is none.
    """
    if QUESTION not in prompt:
        raise GemError(
            f"the prompt {prompt!r} has no {QUESTION} in it; expected the words to ask with, "
            f"{QUESTION} among them, and {CONTEXT} where the passages are not to stand first"
        )
    return prompt
