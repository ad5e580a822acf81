"""GemRAG: find with the index, rank and answer with the model that read the passages."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

from gem_rag.arguments import renamed
from gem_rag.documents.document import Document
from gem_rag.documents.split import CHUNK_TOKENS
from gem_rag.engine.options import ALIASES, GenerationOptions
from gem_rag.engine.streams import Stream
from gem_rag.errors import GemError
from gem_rag.index.address import open_index
from gem_rag.index.filters import Where
from gem_rag.index.protocol import Index
from gem_rag.index.search import Mode
from gem_rag.model import GemModel
from gem_rag.rag.answer import (
    QUESTION,
    Answer,
    AnswerStream,
    AsyncAnswerStream,
    SaidStream,
    answer_from,
    require_prompt,
)
from gem_rag.rag.citation import Citation
from gem_rag.rag.conversation import find_in_context
from gem_rag.rag.ingest.remove import remove
from gem_rag.rag.ingest.report import IngestReport, Removal
from gem_rag.rag.ingest.write import Ingest
from gem_rag.rag.likeliest import BEAMS, TRIED, Written, can_be_searched, likeliest, near
from gem_rag.rag.overview import Overviews
from gem_rag.rag.question import core, last_question
from gem_rag.rag.readings import readings_beside
from gem_rag.rag.relevance import is_relevant
from gem_rag.rag.retrieve import CANDIDATES, Found, Retriever
from gem_rag.rag.several import Several, require_several
from gem_rag.rag.talk import small_talk
from gem_rag.store import ReadingStore
from gem_rag.text.prompts import ASK
from gem_rag.text.template import Message

ANSWERS = "answer"  # the skill that answers, where a checkpoint has it


class GemRAG:
    """Ingest, retrieve, rank, answer with citations: one model, one index.

    Args:
        model: Embeds, ranks and answers. A base without a checkpoint finds by words, and ranks.
        index: Where chunks are: an index, or the folder or address of one
            (`gem_rag.index.address`); None is one in memory. Its fingerprint must be the model's.
        store: Kept readings of chunks; None makes one beside the index, or in memory where that is
            an index in memory, or one that can only be read.
        keep_readings: Keep readings on disk, beside the index; False deletes those that are there.
            None is what the index was told last, or True.
        readings_bytes: How many bytes of them at most; None is what the index was told last, or
            2 GiB.
        readings_format: What they are kept in, see `ReadingStore`: "auto", "int8", "bfloat16",
            "float16" or "float32"; None is what the index was told last, or "auto".
        candidates: How many chunks the index finds for the model to rank.
        context: How many of the best are put before the model. One is answered from its reading,
            without running it again; of more, `several` says what is made of them. "auto" is one:
            of what is as good as reading several together, the soonest (docs/benchmarks.md).
        beams: With one: a skill's answer is searched for, so many beginnings kept side by side, and
            comes in one piece (`gem_rag.rag.likeliest`). 1 streams what is likeliest next.
        tried: With beams: from how many of the best passages it answers, each alone, where ranking
            leaves little between them; the likeliest answer is given. 1 is the first one always.
        several: "together" reads them afresh as one text; "committee" lets each reading answer and
            takes the token that one of them is surest of (`gem_rag.engine.committee`), exact and
            without running them again; "join" puts their readings together, an approximation. A
            prompt that does not begin with the passages has them read together.
        rank: Rank what the index found.
        mode: What finds: "hybrid" (words beside vectors), "vector" or "words".
        threshold: Least `Citation.confidence`, 0 to 1, with which a question is answered; "auto"
            is the checkpoint's, None answers always.
        skill: What answers: "auto" is the skill "answer" where the checkpoint has it, None the
            plain base, a name that skill.
        prompt: What is said after the passages, with ``{question}`` in it; None is the skill's own
            words, or `ASK`. With ``{context}`` in it the passages stand there; where that is not at
            the beginning they are read afresh for each question.
        chunk_tokens: Longest chunk.
        join_readings: The same as ``several="join"``.
    """

    def __init__(
        self,
        model: GemModel,
        index: Index | str | Path | None = None,
        *,
        store: ReadingStore | None = None,
        keep_readings: bool | None = None,
        readings_bytes: int | None = None,
        readings_format: str | None = None,
        candidates: int = CANDIDATES,
        context: int | Literal["auto"] = "auto",
        beams: int = BEAMS,
        tried: int = TRIED,
        several: Several = "together",
        rank: bool = True,
        mode: Mode = "hybrid",
        threshold: float | Literal["auto"] | None = "auto",
        skill: str | None = "auto",
        prompt: str | None = None,
        chunk_tokens: int = CHUNK_TOKENS,
        join_readings: bool = False,
    ) -> None:
        context = 1 if context == "auto" else context
        if min(candidates, context, beams, tried) < 1:
            counts = f"candidates {candidates}, context {context}, beams {beams}, tried {tried}"
            raise GemError(f"{counts}; expected all >= 1")
        self.model = model
        self.index = _opened(index)
        if model.embeds:
            self.index.claim(model.fingerprint, model.dim)
        asked = keep_readings, readings_bytes, readings_format
        if store is not None and asked != (None, None, None):
            raise GemError(
                "got a store, and keep_readings, readings_bytes or readings_format for one; give "
                "either"
            )
        if store is None:
            store = readings_beside(model, self.index, *asked)
        self.store = store
        self.store.require_embeds_as(model)
        self.candidates = candidates
        self.context = context
        self.beams, self.tried = beams, tried
        self.rank = rank
        self.mode: Mode = mode
        self.threshold = model.config.answerable.threshold if threshold == "auto" else threshold
        self.skill = self._skill(skill)
        self.prompt = None if prompt is None else require_prompt(prompt)
        self.chunk_tokens = chunk_tokens
        self.several: Several = "join" if join_readings else require_several(several)

    def _skill(self, name: str | None) -> str | None:
        """A skill that the model has; "auto" is `ANSWERS` where it has that.

        Raises:
            GemError: It has no skill of this name.
        """
        if name == "auto":
            return ANSWERS if ANSWERS in self.model.skills else None
        return None if name is None else self.model.parts.skill(name).name

    def _prompt(self, skill: str | None) -> str:
        """How a question is asked."""
        if self.prompt is not None:
            return self.prompt
        return ASK if skill is None else self.model.parts.skill(skill).config.prompt

    # Ingest

    def add(
        self,
        paths_or_documents: Sequence[str | Path | Document] | str | Path | Document,
        *,
        remove_missing: bool = False,
        exclude: Sequence[str] = (),
        show_progress: bool | None = None,
    ) -> IngestReport:
        """Index files, folders or documents; what has not changed is not read again.

        A file that was indexed under another name, and is gone there, is moved, not read.

        Each commit holds whole sources, so that an interruption leaves a sound index.

        Args:
            paths_or_documents: Paths, or `Document` objects; those of one source (such as a book's
                pages) make it up together.
            remove_missing: Drop sources under the given paths whose file is gone; a path may be
                gone itself. What cannot be looked at is not gone (`gem_rag.rag.ingest.gone`).
            exclude: Patterns, as in ``.gitignore``, of files and folders that are left out.
            show_progress: A progress bar; None shows one on a terminal.

        Returns:
            What was done. A source that cannot be used is in ``skipped``; the rest is indexed.
        """
        if isinstance(paths_or_documents, str | Path | Document):
            paths_or_documents = [paths_or_documents]
        ingest = Ingest(self.index, self.store, self.chunk_tokens)
        return ingest.add(
            list(paths_or_documents),
            remove_missing=remove_missing,
            exclude=exclude,
            show_progress=show_progress,
        )

    def remove(
        self,
        sources: str | Path | Sequence[str | Path] = (),
        *,
        where: Where | None = None,
    ) -> Removal:
        """Remove sources from the index, and what was read of them.

        Args:
            sources: Names of documents, files, or folders, which need not be there any more.
            where: A filter instead, as `GemIndex.search` takes it: chunks that match.

        Raises:
            GemError: Neither or both are given.
        """
        named = [sources] if isinstance(sources, str | Path) else list(sources)
        return remove(self.index, named, where, self.store.forget)

    # Retrieval

    def retrieve(
        self,
        question: str,
        *,
        k: int | None = None,
        where: Where | None = None,
        rank: bool | None = None,
        mode: Mode | None = None,
    ) -> list[Citation]:
        """The best passages for a question, best first.

        Args:
            question: What is asked.
            k: How many at most; None is all candidates.
            where: Filter, as `GemIndex.search` takes it.
            rank: Rank what is found; None is this object's setting.
            mode: What finds; None is this object's setting.
        """
        return self._find(question, k, where, rank, mode).citations

    def _find(
        self,
        question: str,
        k: int | None,
        where: Where | None,
        rank: bool | None,
        mode: Mode | None,
        searched: str | None = None,
    ) -> Found:
        return Retriever(self.model, self.index, self.store).find(
            question,
            k=k,
            candidates=self.candidates,
            rank=self.rank if rank is None else rank,
            mode=self.mode if mode is None else mode,
            where=where,
            searched=searched,
        )

    # Answers

    def answer(self, question: str, **options: Any) -> Answer:
        """Answer from the indexed documents; arguments as for `stream`."""
        stream = self.stream(question, **options)
        for _ in stream:
            pass
        return stream.answer

    def stream(
        self,
        question: str,
        *,
        history: Sequence[Message] = (),
        where: Where | None = None,
        rank: bool | None = None,
        mode: Mode | None = None,
        **generation: Any,
    ) -> AnswerStream:
        """Answer piece by piece; to small talk, and with a document's summary, without a search.

        Args:
            question: What is asked.
            history: Earlier messages; the question is retrieved and answered in their light, unless
                it stands alone and another passage says more about it.
            where: Filter, as `GemIndex.search` takes it.
            rank: Rank what is found; None is this object's setting.
            mode: What finds; None is this object's setting.
            **generation: See `GenerationOptions` (``max_new_tokens``, ``stop``, ``skill``, ...).
        """
        generation = renamed(generation, ALIASES)
        generation["skill"] = self._skill(generation.get("skill", self.skill))
        options = GenerationOptions.of(generation)  # what is wrong with them is said in any case
        said = self._unsearched(question, history, where, options)
        if said is not None:
            return said
        beams = generation.get("beams", self.beams) if self._can_search(options) else 1
        k = self.tried if beams > 1 else self.context
        found, asked = self._relevant(question, history, where, rank, mode, k)
        if not found.citations:
            return AnswerStream(None, found)
        prompt = self._prompt(generation["skill"])
        pieces: Stream | Written
        if beams > 1:
            words = prompt.replace(QUESTION, asked)
            found, generation["beams"] = near(found, self.tried), beams
            found, pieces = likeliest(self.model, self.store, found, words, **generation)
        else:
            ways: dict[str, Any] = {"prompt": prompt, "several": self.several}
            pieces = answer_from(self.model, self.store, found, asked, **ways, **generation)
        return AnswerStream(pieces, found, asked)

    def _can_search(self, options: GenerationOptions) -> bool:
        """Whether an answer is short and goes on from one reading, so that it is searched for."""
        alone = self.context == 1 and self.prompt is None and self.model.shares_readings
        return alone and can_be_searched(options)

    def _relevant(
        self,
        question: str,
        history: Sequence[Message],
        where: Where | None,
        rank: bool | None,
        mode: Mode | None,
        k: int,
    ) -> tuple[Found, str]:
        """What is found for a question, and how it was asked; nothing where it is not relevant.

        Words around a question hide it: where nothing is relevant to all of it, what of it asks is
        looked for by itself.
        """
        started = time.perf_counter()
        spent: dict[str, float] = {}

        def find(asked: str, *, searched: str | None = None, only: str | None = None) -> Found:
            among = where if only is None else {"$id": only}
            found = self._find(asked, k, among, rank, mode, searched)
            spent.update({name: spent.get(name, 0.0) + s for name, s in found.timings.items()})
            return found

        found, asked = find_in_context(find, question, history, self.threshold)
        if not self._answers(found) and (asks := core(asked)) is not None:
            found, asked = find(asks), asks
        found.started, found.timings = started, spent
        if self._answers(found):
            return found, asked
        return replace(found, citations=[], readings=[], texts=[]), asked

    def _answers(self, found: Found) -> bool:
        return bool(found.citations) and is_relevant(found.citations[0], self.threshold)

    def _unsearched(
        self,
        question: str,
        history: Sequence[Message],
        where: Where | None,
        options: GenerationOptions,
    ) -> AnswerStream | None:
        """What is said without a search: small talk, and summaries of documents."""
        said = small_talk(question)
        if said is not None:
            return SaidStream([said], "small_talk")

        def source_before() -> str | None:
            found, _ = self._relevant(last_question(history), (), where, None, None, 1)
            return found.citations[0].source if found.citations else None

        overviews = Overviews(self.index, self.model, where)
        return overviews.asked_for(question, history, source_before, options)

    def chat(self, question: str, history: Sequence[Message] = (), **options: Any) -> Answer:
        """Answer the next question of a conversation; arguments as for `stream`."""
        return self.answer(question, history=history, **options)

    async def aadd(self, paths_or_documents: Any, **options: Any) -> IngestReport:
        """`add` without blocking the event loop."""
        return await asyncio.to_thread(self.add, paths_or_documents, **options)

    async def aremove(self, *sources: Any, **options: Any) -> Removal:
        """`remove` without blocking the event loop."""
        return await asyncio.to_thread(self.remove, *sources, **options)

    async def aretrieve(self, question: str, **options: Any) -> list[Citation]:
        """`retrieve` without blocking the event loop."""
        return await asyncio.to_thread(self.retrieve, question, **options)

    async def aanswer(self, question: str, **options: Any) -> Answer:
        """`answer` without blocking the event loop; cancelling stops after the next token."""
        stream = self.astream(question, **options)
        async for _ in stream:
            pass
        return stream.answer

    async def achat(self, question: str, history: Sequence[Message] = (), **options: Any) -> Answer:
        """`chat` without blocking the event loop; cancelling stops after the next token."""
        return await self.aanswer(question, history=history, **options)

    def astream(self, question: str, **options: Any) -> AsyncAnswerStream:
        """`stream` without blocking the event loop."""
        return AsyncAnswerStream(partial(self.stream, question, **options))


def _opened(index: Index | str | Path | None) -> Index:
    """An index, or the one at a place."""
    return open_index(index) if index is None or isinstance(index, str | Path) else index
