"""Answers from what was found: from one reading exactly, from several as `several` has it."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Protocol

from gem_rag.engine.results import Generation, Usage
from gem_rag.engine.streams import AwaitedPieces, Stream
from gem_rag.errors import GemError
from gem_rag.model import GemModel
from gem_rag.rag.citation import Citation
from gem_rag.rag.quotes import quoted
from gem_rag.rag.retrieve import Found
from gem_rag.rag.several import Several, before, with_shares
from gem_rag.store import ReadingStore
from gem_rag.text.prompts import BETWEEN

QUESTION, CONTEXT = "{question}", "{context}"
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
            Once the answer is whole, those that carry it have a quote.
        timings: Seconds: ``retrieve``, ``rank``, ``first_token``, ``generate``, ``total``.
        usage: Token counts of the generation.
        finish_reason: As in `Generation`; ``nothing_found`` or ``empty_index`` where nothing was
            generated; ``small_talk`` and ``which_document`` where nothing was searched, because
            nothing was asked, or it has to be known first which document is meant.
        nearest: Where nothing was found that answers, the nearest passages, at most three.
    """

    answer: str
    citations: list[Citation]
    timings: dict[str, float]
    usage: Usage
    finish_reason: str = "stop"
    nearest: list[Citation] = field(default_factory=list)

    def as_dict(self) -> dict[str, Any]:
        """All of it, the quotes' words among it, for JSON."""
        return {**asdict(self), "citations": [citation.as_dict() for citation in self.citations]}


class Pieces(Protocol):
    """What an `AnswerStream` is made from: a `Stream`, or an answer that is whole."""

    @property
    def generation(self) -> Generation:
        """What was generated so far."""
        ...

    def __iter__(self) -> Iterator[str]: ...

    def close(self, *, wait: bool = True) -> None:
        """Stop."""


class AnswerStream:
    """An answer's text piece by piece; `answer` is the whole, `citations` are known at once.

    Which sentences carry the answer (`Citation.quote`) is known when it is whole: see `answer`.
    `nearest` is known at once, too: the nearest passages, where nothing was found that answers.

    Args:
        pieces: The model's words; None where nothing was found.
        found: What they stand on.
        question: What they answer.
    """

    def __init__(self, pieces: Pieces | None, found: Found, question: str = "") -> None:
        self._pieces = pieces
        self._found = found
        self._question = question
        self._first: float | None = None
        self._quoted: list[Citation] | None = None
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


class SaidStream(AnswerStream):
    """What is said without a search and without a run of the model, as an answer.

    Args:
        pieces: Of the text.
        reason: Its finish reason.
        citations: Passages that it was taken from.
        started: When it was begun (`time.perf_counter`); None is now.
    """

    def __init__(
        self,
        pieces: Sequence[str],
        reason: str,
        citations: Sequence[Citation] = (),
        started: float | None = None,
    ) -> None:
        now = time.perf_counter()
        super().__init__(None, Found(list(citations), [], [], now))
        self._taken = 0.0 if started is None else now - started
        self._text = pieces
        self._reason = reason

    def __iter__(self) -> Iterator[str]:
        yield from self._text

    @property
    def answer(self) -> Answer:
        """All of it; no tokens were generated."""
        timings = {"retrieve": self._taken, "rank": 0.0, "generate": 0.0, "total": self._taken}
        text = "".join(self._text)
        return Answer(text, list(self.citations), timings, Usage(0, 0, 0), self._reason)


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
        text, reason = unanswered(found)
        return Answer(text, [], timings, Usage(0, 0, 0), reason, found.nearest)
    text, reason = generation.text.strip(), generation.finish_reason
    citations = with_shares(citations, generation.sources)
    return Answer(text, citations, timings, generation.usage, reason)


def unanswered(found: Found) -> tuple[str, str]:
    """What is said where nothing is answered, and the reason."""
    return (EMPTY_INDEX, "empty_index") if found.empty else (NOTHING_FOUND, "nothing_found")


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
