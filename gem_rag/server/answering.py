"""Answers from the documents, found first and then told: for the page and for OpenAI's clients."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, Field

from gem_rag.engine.streams import AwaitedPieces
from gem_rag.engine.work import Work
from gem_rag.index.search import Mode
from gem_rag.rag.answer import Answer, AnswerStream
from gem_rag.rag.citation import Citation
from gem_rag.rag.pipeline import GemRAG
from gem_rag.rag.retrieve import CANDIDATES
from gem_rag.server.documents import id_of, shown_name
from gem_rag.server.errors import stopping
from gem_rag.server.pieces import Begun, begin
from gem_rag.server.service import Loaded, Service
from gem_rag.text.template import Message

MOST_FOUND, MOST_CONTEXT = 200, 32


class Finding(BaseModel):
    """How passages are found."""

    k: int = Field(CANDIDATES, ge=1, le=MOST_FOUND, description="Passages that are found.")
    where: dict[str, Any] | None = Field(
        None, description="A filter of metadata.", examples=[{"$source": "/home/me/kettle.md"}]
    )
    mode: Mode = Field("hybrid", description="Words beside vectors, or one alone.")
    rank: bool = Field(True, description="Rank what is found.")


class Answering(Finding):
    """How an answer is made from them."""

    threshold: float | Literal["auto"] | None = Field(
        "auto",
        description="Least confidence, 0 to 1, of a passage that answers; null answers always.",
    )
    context: int = Field(1, ge=1, le=MOST_CONTEXT, description="Passages put before the model.")
    skill: str | None = Field(
        "auto", description="A skill of the checkpoint, auto is its choice; null is the plain base."
    )


def rag_for(loaded: Loaded, how: Finding) -> GemRAG:
    """The same model and index, finding as one request wants it."""
    options: dict[str, Any] = {}
    if isinstance(how, Answering):
        options = {"context": how.context, "threshold": how.threshold, "skill": how.skill}
    return GemRAG(
        loaded.model,
        loaded.rag.index,
        store=loaded.rag.store,
        candidates=how.k,
        rank=how.rank,
        mode=how.mode,
        chunk_tokens=loaded.rag.chunk_tokens,
        **options,
    )


class Told:
    """An answer whose sources are known, before its first word.

    Args:
        service: Ends it when the server ends.
        stream: The answer.
        loaded: What it is shown with.
    """

    def __init__(self, service: Service, stream: AnswerStream, loaded: Loaded) -> None:
        self._service = service
        self._stream = stream
        self._loaded = loaded

    @property
    def sources(self) -> list[dict[str, Any]]:
        """The passages it is made from."""
        return [citation_json(self._loaded, one) for one in self._stream.citations]

    async def begin(self) -> Begun[str]:
        """Its pieces, once the first has come."""
        pieces = AwaitedPieces[AnswerStream, str](lambda: self._stream)
        return await begin(self._service.run(pieces))

    @property
    def answer(self) -> Answer:
        """As it is now."""
        return self._stream.answer

    @property
    def answer_json(self) -> dict[str, Any]:
        """As it is now, as JSON."""
        return answer_json(self._loaded, self.answer)

    def require_not_stopped(self) -> None:
        """Raise where the server's end was the answer's.

        Raises:
            ApiError: 503.
        """
        if self._service.state == "stopping" and self.answer.finish_reason == "cancelled":
            raise stopping()

    def close(self) -> None:
        """Compute nothing more of it."""
        self._stream.close(wait=False)


async def tell(
    service: Service,
    question: str,
    history: Sequence[Message],
    how: Answering,
    generation: Mapping[str, Any],
) -> Told:
    """Find what an answer is made from; given up in the middle when it is cancelled."""
    loaded = service.loaded

    def found() -> AnswerStream:
        rag = rag_for(loaded, how)  # looks into the index, as all that follows does
        return rag.stream(question, history=history, where=how.where, **generation)

    return Told(service, await Work(found), loaded)


def citation_json(loaded: Loaded, citation: Citation) -> dict[str, Any]:
    """A citation with what is shown of its document."""
    is_document = citation.source and Path(citation.source).is_absolute()
    return {
        **citation.as_dict(),
        "document": id_of(citation.source) if is_document else None,
        "name": shown_name(loaded, citation.source),
    }


def answer_json(loaded: Loaded, answer: Answer) -> dict[str, Any]:
    """An answer with all that is known of it."""
    return {
        **dataclasses.asdict(answer),
        "citations": [citation_json(loaded, one) for one in answer.citations],
        "nearest": [citation_json(loaded, one) for one in answer.nearest],
    }
