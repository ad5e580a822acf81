"""GemRAG: find with the index, rank and answer with the model that read the passages."""

from __future__ import annotations

import asyncio
import hashlib
import json
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from gem_rag.asynchronous import AwaitedPieces
from gem_rag.documents import (
    Chunk,
    Document,
    content_hash,
    existing,
    find_files,
    load_file,
    split,
)
from gem_rag.errors import GemError
from gem_rag.generation import Generation, Stream, Usage
from gem_rag.index import GemIndex
from gem_rag.index.records import encode
from gem_rag.progress import progress
from gem_rag.reading import Reading, join
from gem_rag.store import ReadingStore
from gem_rag.text import Message, as_text

if TYPE_CHECKING:
    from gem_rag.model import GemModel

# A passage that raises the question's mean log-likelihood by less than this (nats per token) says
# nothing about it. Chosen on BoolQ's dev part: see docs/benchmarks.md.
RELEVANCE_THRESHOLD = 0.6
NOTHING_FOUND = "I found nothing about this in the documents."
COMMIT_CHUNKS = 32  # about so many at once: what an interruption loses
ASK = (
    "\n\nAnswer the question with the information above, in one or two sentences.\n"
    "Question: {question}"
)


@dataclass(frozen=True)
class Citation:
    """A retrieved passage an answer stands on.

    Attributes:
        source: File path or document name.
        start: First character of the passage in the source's text.
        end: One past its last.
        score: Cosine similarity of question and passage, -1 to 1.
        rank_score: Calibrated query likelihood (nats per token); None where nothing was ranked.
        text: The passage.
        heading: Headings above it, outermost first, joined by " > ".
        id: Its id in the index.
    """

    source: str
    start: int
    end: int
    score: float
    rank_score: float | None
    text: str
    heading: str = ""
    id: str = ""


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


@dataclass(frozen=True)
class IngestReport:
    """What an `add` did, by source.

    Attributes:
        added: New sources.
        replaced: Changed sources, their old chunks gone.
        unchanged: Sources that were not read again.
        removed: Sources dropped because they are gone.
        skipped: Sources that could not be used, with the reason.
        chunks: Chunks written.
    """

    added: list[str] = field(default_factory=list)
    replaced: list[str] = field(default_factory=list)
    unchanged: list[str] = field(default_factory=list)
    removed: list[str] = field(default_factory=list)
    skipped: list[tuple[str, str]] = field(default_factory=list)
    chunks: int = 0


class AnswerStream:
    """An answer's text piece by piece; `answer` is the whole, `citations` are known at once."""

    def __init__(self, pieces: Stream | None, found: _Found) -> None:
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

    def close(self) -> None:
        """Stop generating."""
        if self._pieces is not None:
            self._pieces.close()

    @property
    def answer(self) -> Answer:
        """The answer so far with citations, timings and usage."""
        generation = None if self._pieces is None else self._pieces.generation
        return self._found.answer(generation, self._first)


class AsyncAnswerStream(AwaitedPieces[AnswerStream]):
    """An `AnswerStream` whose pieces are awaited; retrieval is done for the first one."""

    @property
    def citations(self) -> list[Citation]:
        """What was retrieved, once the first piece has come."""
        return self._stream.citations

    @property
    def answer(self) -> Answer:
        """See `AnswerStream.answer`."""
        return self._stream.answer


@dataclass
class _Found:
    """What retrieval found and when each part of the work was over."""

    citations: list[Citation]
    readings: list[Reading]
    started: float
    timings: dict[str, float]

    def answer(self, generation: Generation | None, first: float | None) -> Answer:
        now = time.perf_counter()
        timings = dict(self.timings)
        retrieved = self.started + sum(timings.values())
        if first is not None:
            timings["first_token"] = first - retrieved
        timings["generate"] = now - retrieved if generation is not None else 0.0
        timings["total"] = now - self.started
        if generation is None:
            return Answer(NOTHING_FOUND, [], timings, Usage(0, 0, 0), "nothing_found")
        return Answer(
            generation.text.strip(),
            self.citations,
            timings,
            generation.usage,
            generation.finish_reason,
        )


class GemRAG:
    """Ingest, retrieve, rank, answer with citations: one model, one index.

    Args:
        model: Embeds, ranks and answers.
        index: Where chunks are; its fingerprint must be the model's.
        store: Kept readings of chunks; None makes one beside the index (or in memory).
        candidates: How many chunks the index finds for the model to rank.
        context: How many of the best are put before the model. One is answered from its reading,
            exactly and without running it again; more are read together afresh.
        rank: Rank what the index found by query likelihood.
        threshold: Least `Citation.rank_score` of a relevant passage; None answers always.
        chunk_tokens: Longest chunk.
        join_readings: Experimental: put several readings together instead of reading afresh.
            Faster, and an approximation, because the passages have not seen each other.
    """

    def __init__(
        self,
        model: GemModel,
        index: GemIndex | None = None,
        *,
        store: ReadingStore | None = None,
        candidates: int = 10,
        context: int = 1,
        rank: bool = True,
        threshold: float | None = RELEVANCE_THRESHOLD,
        chunk_tokens: int = 256,
        join_readings: bool = False,
    ) -> None:
        if candidates < 1 or context < 1:
            raise GemError(f"candidates {candidates}, context {context}; expected both >= 1")
        self.model = model
        self.index = GemIndex() if index is None else index
        self.index.claim(model.fingerprint, model.dim)
        folder = self.index.path / "readings" if self.index.path is not None else None
        self.store = store if store is not None else ReadingStore(model, folder)
        self.store.require_embeds_as(model)
        self.candidates = candidates
        self.context = context
        self.rank = rank
        self.threshold = threshold
        self.chunk_tokens = chunk_tokens
        self.join_readings = join_readings

    # Ingest

    def add(
        self,
        paths_or_documents: Sequence[str | Path | Document] | str | Path | Document,
        *,
        remove_missing: bool = False,
        show_progress: bool | None = None,
    ) -> IngestReport:
        """Index files, folders or documents; what has not changed is not read again.

        Each commit holds whole sources, so that an interruption leaves a sound index.

        Args:
            paths_or_documents: Paths, or `Document` objects; those of one source (such as a book's
                pages) make it up together.
            remove_missing: Drop sources under the given folders whose file is gone.
            show_progress: A progress bar; None shows one on a terminal.

        Returns:
            What was done. A source that cannot be used is in ``skipped``; the rest is indexed.
        """
        if isinstance(paths_or_documents, str | Path | Document):
            paths_or_documents = [paths_or_documents]
        given = list(paths_or_documents)
        paths = [Path(p) for p in given if not isinstance(p, Document)]
        report = _Report()
        pending: list[Work] = []
        files = find_files(paths)
        sources: dict[str, list[Path | Document]] = {}
        parts: list[Path | Document] = [d for d in given if isinstance(d, Document)]
        for part in [*parts, *files]:
            sources.setdefault(_name(part), []).append(part)
        with progress("indexing", len(sources), show_progress, many=1) as advance:
            for name, own in sources.items():
                if (work := self._prepare(name, own, report)) is not None:
                    pending.append(work)
                else:
                    advance(1)
                if sum(len(work.chunks) for work in pending) >= COMMIT_CHUNKS:
                    self._commit(pending, report, advance)
                    pending = []
            self._commit(pending, report, advance)
        if remove_missing:
            self._remove_missing(paths, {_name(f) for f in files}, report)
        return report.freeze()

    def _prepare(self, name: str, parts: Sequence[Path | Document], report: _Report) -> Work | None:
        """What there is to do for a source; None where there is nothing."""
        try:
            for part in parts:
                if isinstance(part, Document):
                    encode(dict(part.metadata), "its metadata")  # the index will have to
            digest = f"{_hash(parts)}:{self.chunk_tokens}"
            known = self.index.get_meta(_meta_key(name))
            if known == digest:
                report.unchanged.append(name)
                return None
            chunks = [chunk for part in parts for chunk in self._chunks(name, part)]
        except (GemError, OSError, UnicodeError) as error:
            report.skipped.append((name, str(error)))
            return None
        (report.added if known is None else report.replaced).append(name)
        return Work(name, digest, chunks)

    def _chunks(self, name: str, part: Path | Document) -> list[Chunk]:
        document = part if isinstance(part, Document) else load_file(part)
        named = replace(document, source=name)
        return split(named, self.model.codec.backend, max_tokens=self.chunk_tokens)

    def _commit(
        self, pending: Sequence[Work], report: _Report, advance: Callable[[float], None]
    ) -> None:
        """Embed and write whole sources in one transaction; `advance` counts them as they go."""
        if not pending:
            return
        chunks = [chunk for work in pending for chunk in work.chunks]
        each = len(pending) / max(1, len(chunks))  # sources a chunk
        texts = [chunk.text for chunk in chunks]
        vectors = self.store.embed(texts, lambda count: advance(each * count))
        with self.index.transaction():
            # Whatever is there by now, new to this call or not: others may add the same source.
            self.index.delete(where={"source": {"$in": [work.name for work in pending]}})
            for work in pending:
                self.index.set_meta(_meta_key(work.name), work.digest)
            if chunks:
                self.index.add(texts, vectors, [_metadata(c) for c in chunks])
        if not chunks:
            advance(len(pending))
        report.chunks += len(chunks)

    def _remove_missing(self, paths: Sequence[Path], found: set[str], report: _Report) -> None:
        roots = existing(paths)
        for key in self.index.meta_keys(_META):
            name = key.removeprefix(_META)
            path = Path(name)
            under = any(path.is_relative_to(root) for root in roots)
            if under and name not in found and not path.exists():
                with self.index.transaction():
                    self.index.delete(where={"source": name})
                    self.index.set_meta(key, None)
                report.removed.append(name)

    # Retrieval

    def retrieve(
        self,
        question: str,
        *,
        k: int | None = None,
        where: dict[str, Any] | None = None,
        rank: bool | None = None,
    ) -> list[Citation]:
        """The best passages for a question, best first.

        Args:
            question: What is asked.
            k: How many at most; None is all candidates.
            where: Metadata filter, as `GemIndex.search` takes it.
            rank: Rank by query likelihood; None is this object's setting.
        """
        return self._retrieve(question, k=k, where=where, rank=rank).citations

    def _retrieve(
        self,
        question: str,
        *,
        k: int | None,
        where: dict[str, Any] | None,
        rank: bool | None,
    ) -> _Found:
        if not question.strip():
            raise GemError("the question is empty; expected words")
        started = time.perf_counter()
        rank = self.rank if rank is None else rank
        vector = self.model.embed_query(question)
        wanted = max(self.candidates, k or 0) if rank else (k or self.candidates)
        hits = self.index.search(vector, k=wanted, where=where, fingerprint=self.model.fingerprint)
        citations = [_citation(hit) for hit in hits]
        timings = {"retrieve": time.perf_counter() - started, "rank": 0.0}
        readings: list[Reading] = []
        if rank and citations:
            texts = [c.text for c in citations]
            readings = self.store.read(texts) if self.model.shares_readings else []
            ranked = self.model.rank(question, readings or texts)
            citations = [replace(citations[r.index], rank_score=r.score) for r in ranked]
            readings = [readings[r.index] for r in ranked] if readings else []
            timings["rank"] = time.perf_counter() - started - timings["retrieve"]
        return _Found(citations[:k], readings[:k], started, timings)

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
        where: dict[str, Any] | None = None,
        rank: bool | None = None,
        **generation: Any,
    ) -> AnswerStream:
        """Answer piece by piece.

        Args:
            question: What is asked.
            history: Earlier messages; the question is retrieved and answered in their light.
            where: Metadata filter.
            rank: Rank by query likelihood; None is this object's setting.
            **generation: As for `GemModel.generate_batch` (``max_new_tokens``, ``stop``, ...).
        """
        found = self._retrieve(
            in_context(question, history), k=self.context, where=where, rank=rank
        )
        if not found.citations or self._irrelevant(found.citations[0]):
            found.citations, found.readings = [], []
            return AnswerStream(None, found)
        return AnswerStream(self._generate(question, history, found, generation), found)

    def chat(self, question: str, history: Sequence[Message] = (), **options: Any) -> Answer:
        """Answer the next question of a conversation; arguments as for `stream`."""
        return self.answer(question, history=history, **options)

    async def aadd(self, paths_or_documents: Any, **options: Any) -> IngestReport:
        """`add` without blocking the event loop."""
        return await asyncio.to_thread(self.add, paths_or_documents, **options)

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

    def _irrelevant(self, best: Citation) -> bool:
        ranked = best.rank_score is not None and self.threshold is not None
        return ranked and best.rank_score < self.threshold  # type: ignore[operator]

    def _generate(
        self,
        question: str,
        history: Sequence[Message],
        found: _Found,
        options: dict[str, Any],
    ) -> Stream:
        """From one reading exactly; from several passages by reading them together."""
        ask = ASK.format(question=in_context(question, history))
        one = len(found.citations) == 1
        if self.model.shares_readings and (one or self.join_readings):
            readings = found.readings or self.store.read([c.text for c in found.citations])
            after = readings[0] if one else join(readings)
            return self.model.stream(ask, after=after, **options)
        passages = "\n\n".join(c.text for c in found.citations)
        return self.model.stream(passages + ask, **options)


def in_context(question: str, history: Sequence[Message]) -> str:
    """A follow-up in the light of the conversation: the user's last question stands before it."""
    said = [as_text(m.get("content")) for m in history if m.get("role") == "user"]
    asked = [words for words in said if words]
    return f"{asked[-1]} {question}" if asked else question


_META = "source:"


class Work(NamedTuple):
    """A source that has to be indexed."""

    name: str
    digest: str
    chunks: list[Chunk]


def _name(part: Path | Document) -> str:
    """A source's name as text that can be stored and shown, whatever bytes a file's name has."""
    name = part.source if isinstance(part, Document) else str(part)
    return name.encode("utf-8", "backslashreplace").decode("utf-8")


def _meta_key(name: str) -> str:
    return _META + name


def _hash(parts: Sequence[Path | Document]) -> str:
    each = [_part_hash(part) for part in parts]
    return each[0] if len(each) == 1 else hashlib.sha256("".join(each).encode()).hexdigest()


def _part_hash(part: Path | Document) -> str:
    if not isinstance(part, Document):
        return content_hash(part)
    content = part.text
    if part.metadata or part.markdown:
        content += json.dumps([part.markdown, dict(part.metadata)], sort_keys=True, default=str)
    return hashlib.sha256(content.encode("utf-8", "surrogatepass")).hexdigest()


def _metadata(chunk: Chunk) -> dict[str, Any]:
    own = {
        "source": chunk.source,
        "start": chunk.start,
        "end": chunk.end,
        "heading": chunk.heading,
    }
    return {**chunk.metadata, **own}


def _citation(hit: Any) -> Citation:
    m = hit.metadata
    return Citation(
        source=str(m.get("source", "")),
        start=int(m.get("start", 0)),
        end=int(m.get("end", len(hit.text))),
        score=float(hit.score),
        rank_score=None,
        text=hit.text,
        heading=str(m.get("heading") or ""),
        id=hit.id,
    )


class _Report:
    """An `IngestReport` while it is being filled."""

    def __init__(self) -> None:
        self.added: list[str] = []
        self.replaced: list[str] = []
        self.unchanged: list[str] = []
        self.removed: list[str] = []
        self.skipped: list[tuple[str, str]] = []
        self.chunks = 0

    def freeze(self) -> IngestReport:
        return IngestReport(**vars(self))
