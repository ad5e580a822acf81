"""Writing sources into the index, whole ones in each commit."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Protocol

import numpy as np

from gem_rag.documents.document import Document
from gem_rag.documents.find import absolute, find, is_gone, path_name
from gem_rag.documents.words import renamed
from gem_rag.errors import DiskFullError
from gem_rag.index.protocol import Index
from gem_rag.progress import progress
from gem_rag.rag.ingest.gone import Sight, missing_below
from gem_rag.rag.ingest.plan import Cutter, Move, Part, Plan, Work, source_name
from gem_rag.rag.ingest.remove import drop
from gem_rag.rag.ingest.report import IngestReport, Report
from gem_rag.store import ReadingStore

COMMIT_CHUNKS = 32  # about so many at once: what an interruption loses
_KEPT = "nothing below it was dropped; `gem-rag remove` drops it"


class Workers(Protocol):
    """Who look at sources and cut them, and maybe embed what they cut."""

    def __call__(
        self, sources: Mapping[str, list[Part]], plan: Plan, report: Report
    ) -> Iterator[Work | Move | None]:
        """What there is to do for each source; None where there is nothing."""


class Ingest:
    """Indexes files, folders and documents.

    Args:
        index: Where they go.
        store: Embeds, and keeps what was read.
        chunk_tokens: Longest chunk.
        workers: Who cut; None cuts here, one source after the other.
    """

    def __init__(
        self,
        index: Index,
        store: ReadingStore,
        chunk_tokens: int,
        workers: Workers | None = None,
    ) -> None:
        self._index = index
        self._store = store
        self._sight = Sight(index)
        cutter = Cutter(store.model.codec.backend, chunk_tokens)
        self._plan = Plan(index, cutter, self._sight)
        self._workers = workers or here

    def add(
        self,
        given: Sequence[str | Part],
        *,
        remove_missing: bool,
        exclude: Sequence[str],
        show_progress: bool | None,
    ) -> IngestReport:
        """See `GemRAG.add`."""
        roots = [absolute(p) for p in given if not isinstance(p, Document)]
        report = Report()
        with self._index.transaction():
            pass  # an index of an older layout is upgraded: it finds documents slowly
        lost = self._lost(roots) if remove_missing else set()
        own = [self._index.path] if self._index.path is not None else []
        found = find([p for p in roots if p not in lost], exclude=exclude, without=own)
        report.take(found)
        self._sight.remember(found.files)
        sources: dict[str, list[Part]] = {}
        documents: list[Part] = [d for d in given if isinstance(d, Document)]
        for part in [*documents, *found.files]:
            sources.setdefault(source_name(part), []).append(part)
        self._write(sources, report, show_progress)
        self._embed_others(show_progress)
        if remove_missing:
            self._remove_missing(roots, {source_name(f) for f in found.files}, report)
        return report.freeze()

    def _lost(self, roots: Sequence[Path]) -> set[Path]:
        """Those that are not there any more, although something below them was indexed."""
        absent = [root for root in roots if is_gone(root)]
        known = [Path(document.source) for document in self._index.documents.all() if absent]
        return {root for root in absent if any(path.is_relative_to(root) for path in known)}

    def _write(
        self, sources: dict[str, list[Part]], report: Report, show_progress: bool | None
    ) -> None:
        pending: list[Work | Move] = []
        with progress("indexing", len(sources), show_progress, many=1) as advance:
            for work in self._workers(sources, self._plan, report):
                if work is not None:
                    pending.append(work)
                else:
                    advance(1)
                if sum(len(work.passages) for work in _works(pending)) >= COMMIT_CHUNKS:
                    self._commit(pending, report, advance)
                    pending = []
            self._commit(pending, report, advance)

    def _commit(
        self, pending: Sequence[Work | Move], report: Report, advance: Callable[[float], None]
    ) -> None:
        """Embed and write whole sources in one transaction; `advance` counts them as they go."""
        if not pending:
            return
        pending = self._embedded(pending, advance)
        names = [*(work.name for work in pending), *(w.old for w in pending if isinstance(w, Move))]
        old = [chunk for name in names for chunk in self._index.documents.chunks(name)]
        try:
            self._put(pending)
        except DiskFullError:
            if not self._store.info().on_disk:
                raise
            self._store.clear()  # the database comes first: readings can be made again
            self._put(pending)
        self._store.forget(self._index.documents.unread(old))
        report.chunks += sum(len(work.passages) for work in _works(pending))

    def _put(self, pending: Sequence[Work | Move]) -> None:
        with self._index.transaction():
            for work in pending:
                if isinstance(work, Move):
                    again = partial(renamed, old=work.old, new=work.name)
                    self._index.documents.move(work.old, work.name, again)
                    continue
                self._index.documents.put(
                    work.name, work.text, work.digest, work.passages, work.vectors
                )

    def _embedded(
        self, pending: Sequence[Work | Move], advance: Callable[[float], None]
    ) -> list[Work | Move]:
        """The same, with the vectors of those works that have none."""
        mine = [work for work in _works(pending) if work.vectors is None]
        texts = [passage.words for work in mine for passage in work.passages]
        each = len(pending) / max(1, len(texts))  # sources a chunk
        vectors = self._embed(texts, lambda count: advance(each * count))
        if not texts:
            advance(len(pending))
        if vectors is None:
            return list(pending)
        ends = np.cumsum([len(work.passages) for work in mine])
        made = {
            work.name: own for work, own in zip(mine, np.split(vectors, ends[:-1]), strict=True)
        }
        return [
            work._replace(vectors=made[work.name])
            if isinstance(work, Work) and work.name in made
            else work
            for work in pending
        ]

    def _embed(self, texts: Sequence[str], advance: Callable[[int], object]) -> np.ndarray | None:
        """Vectors, float32 ``[n, d]``; None without texts, or of a model that does not embed."""
        if self._store.model.embeds and texts:
            return self._store.embed(texts, advance)
        advance(len(texts))
        return None

    def _embed_others(self, show_progress: bool | None) -> None:
        """Embed what was indexed by a model that could not."""
        if not self._store.model.embeds or not self._index.without_vectors(1):
            return
        info = self._index.info()  # counts files too: not for every `add`
        with progress("embedding", info.count - info.vectors, show_progress, many=1) as advance:
            while chunks := self._index.without_vectors(COMMIT_CHUNKS):
                vectors = self._store.embed([chunk.words for chunk in chunks], advance)
                self._index.set_vectors([chunk.id for chunk in chunks], vectors)

    def _remove_missing(self, roots: Sequence[Path], found: set[str], report: Report) -> None:
        """Drop what was indexed under the roots and is gone; see `gem_rag.rag.ingest.gone`."""
        gone: dict[str, None] = {}
        for root in roots:
            missing, note = missing_below(self._index, self._sight, root, found)
            gone |= dict.fromkeys(missing)
            report.notes += [] if note is None else [(path_name(root), f"{note}; {_KEPT}")]
        drop(self._index, list(gone), self._store.forget)
        report.removed += gone


def here(
    sources: Mapping[str, list[Part]], plan: Plan, report: Report
) -> Iterator[Work | Move | None]:
    """One source after the other, in this thread."""
    for name, parts in sources.items():
        yield plan.work(name, parts, report)


def _works(pending: Sequence[Work | Move]) -> list[Work]:
    return [work for work in pending if isinstance(work, Work)]
