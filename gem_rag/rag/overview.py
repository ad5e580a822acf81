"""Requests for a summary: which document is meant, and what is said where that is not clear."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from gem_rag.engine.options import GenerationOptions
from gem_rag.index.filters import Where
from gem_rag.index.protocol import Index
from gem_rag.model import GemModel
from gem_rag.rag.answer import SaidStream
from gem_rag.rag.naming import Named, is_file, listed, to_summarise
from gem_rag.rag.question import last_question
from gem_rag.rag.summary import summarise
from gem_rag.text.template import Message, as_text

WHICH = "Which of them shall I summarise?"


class Overviews:
    """Summaries of an index's documents.

    Args:
        index: Where they are.
        model: Counts tokens.
        where: Only documents with a passage that matches, and such passages of them.
    """

    def __init__(self, index: Index, model: GemModel, where: Where | None) -> None:
        self._index = index
        self._model = model
        self._where = where

    def asked_for(
        self,
        question: str,
        history: Sequence[Message],
        before: Callable[[], str | None],
        options: GenerationOptions,
    ) -> SaidStream | None:
        """The summary that a question asks for; None where it asks for something else.

        Args:
            question: What is asked.
            history: Earlier messages; a name alone is an answer to `WHICH`.
            before: Gives the source of what the last answer rests on, where that matters.
            options: Of the answer. One that fits a schema or calls tools is no summary.
        """
        name = to_summarise(question)
        is_chosen = name is None and _was_asked_which(history)
        if (name is None and not is_chosen) or options.schema is not None or options.tools:
            return None
        named = Named(self._index, self._where)
        if name == "":
            return self._of(_meant(named, history, before), named.sources, options)
        wanted = question if name is None else name
        found = named.find(wanted)
        if not found and not is_chosen and is_file(wanted) and named.sources:
            said = f"There is no {wanted} among the documents. There are: {listed(named.sources)}."
            return SaidStream([f"{said} {WHICH}"], "which_document")
        return self._of(found, found, options)

    def _of(
        self, meant: Sequence[str], known: Sequence[str], options: GenerationOptions
    ) -> SaidStream | None:
        """The summary of one document; of several, a question."""
        if not known:
            return None
        if len(meant) != 1:
            said = f"There are {len(known)} documents: {listed(known)}. {WHICH}"
            return SaidStream([said], "which_document")
        chunks = self._index.documents.chunks(meant[0])
        if self._where is not None:
            matching = {"$and": [{"$source": meant[0]}, dict(self._where)]}
            chunks = list(self._index.iterate(matching))
        return summarise(chunks, self._model, options) if chunks else None


def _meant(
    named: Named, history: Sequence[Message], before: Callable[[], str | None]
) -> Sequence[str]:
    """The only document, or the one that was talked about; else all of them."""
    last = last_question(history)
    if len(named.sources) < 2 or not last:
        return named.sources
    name = to_summarise(last)
    found = named.find(name) if name else []
    if len(found) == 1:
        return found
    source = before()
    return [source] if source in named.sources else named.sources


def _was_asked_which(history: Sequence[Message]) -> bool:
    last = history[-1] if history else {}
    return last.get("role") == "assistant" and as_text(last.get("content")).endswith(WHICH)
