"""Writing sources into the index, whole ones in each commit."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import numpy as np

from gem_rag.documents.document import Document
from gem_rag.documents.find import absolute, find, is_gone, path_name
from gem_rag.documents.words import renamed
from gem_rag.errors import DiskFullError
from gem_rag.index.protocol import Index
from gem_rag.progress import progress
from gem_rag.rag.ingest.gone import Sight, missing_below
from gem_rag.rag.ingest.plan import Move, Part, Plan, Work, source_name
from gem_rag.rag.ingest.remove import drop
from gem_rag.rag.ingest.report import IngestReport, Report
from gem_rag.store import ReadingStore

COMMIT_CHUNKS = 32  # about so many at once: what an interruption loses
_KEPT = "nothing below it was dropped; `gem-rag remove` drops it"


class Ingest:
    """Indexes files, folders and documents.

    Args:
        index: Where they go.
        store: Embeds, and keeps what was read.
        chunk_tokens: Longest chunk.
    """

    def __init__(self, index: Index, store: ReadingStore, chunk_tokens: int) -> None:
        self._index = index
        self._store = store
        self._sight = Sight(index)
        self._plan = Plan(index, store.model.codec.backend, chunk_tokens, self._sight)

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
            for name, parts in sources.items():
                if (work := self._plan.work(name, parts, report)) is not None:
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
        texts = [passage.words for work in _works(pending) for passage in work.passages]
        each = len(pending) / max(1, len(texts))  # sources a chunk
        vectors = self._embed(texts, lambda count: advance(each * count))
        names = [*(work.name for work in pending), *(w.old for w in pending if isinstance(w, Move))]
        old = [chunk for name in names for chunk in self._index.documents.chunks(name)]
        try:
            self._put(pending, vectors)
        except DiskFullError:
            if not self._store.info().on_disk:
                raise
            self._store.clear()  # the database comes first: readings can be made again
            self._put(pending, vectors)
        self._store.forget(self._index.documents.unread(old))
        if not texts:
            advance(len(pending))
        report.chunks += len(texts)

    def _put(self, pending: Sequence[Work | Move], vectors: np.ndarray | None) -> None:
        with self._index.transaction():
            at = 0
            for work in pending:
                if isinstance(work, Move):
                    again = partial(renamed, old=work.old, new=work.name)
                    self._index.documents.move(work.old, work.name, again)
                    continue
                name, text, digest, passages = work
                own = None if vectors is None else vectors[at : at + len(passages)]
                self._index.documents.put(name, text, digest, passages, own)
                at += len(passages)

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


def _works(pending: Sequence[Work | Move]) -> list[Work]:
    return [work for work in pending if isinstance(work, Work)]
