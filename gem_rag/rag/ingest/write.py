"""Writing sources into the index, whole ones in each commit."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from gem_rag.documents.document import Document
from gem_rag.documents.find import existing, find, is_gone
from gem_rag.index.gem_index import GemIndex
from gem_rag.progress import progress
from gem_rag.rag.ingest.plan import Part, Plan, Work, source_name
from gem_rag.rag.ingest.report import IngestReport, Report
from gem_rag.store import ReadingStore

COMMIT_CHUNKS = 32  # about so many at once: what an interruption loses


class Ingest:
    """Indexes files, folders and documents.

    Args:
        index: Where they go.
        store: Embeds, and keeps what was read.
        chunk_tokens: Longest chunk.
    """

    def __init__(self, index: GemIndex, store: ReadingStore, chunk_tokens: int) -> None:
        self._index = index
        self._store = store
        self._plan = Plan(index, store.model.codec.backend, chunk_tokens)

    def add(
        self,
        given: Sequence[str | Part],
        *,
        remove_missing: bool,
        exclude: Sequence[str],
        show_progress: bool | None,
    ) -> IngestReport:
        """See `GemRAG.add`."""
        paths = [Path(p) for p in given if not isinstance(p, Document)]
        report = Report()
        with self._index.transaction():
            pass  # an index of an older layout is upgraded: it finds documents slowly
        own = [self._index.path] if self._index.path is not None else []
        found = find(paths, exclude=exclude, without=own)
        report.take(found)
        files = found.files
        sources: dict[str, list[Part]] = {}
        documents: list[Part] = [d for d in given if isinstance(d, Document)]
        for part in [*documents, *files]:
            sources.setdefault(source_name(part), []).append(part)
        pending: list[Work] = []
        with progress("indexing", len(sources), show_progress, many=1) as advance:
            for name, parts in sources.items():
                if (work := self._plan.work(name, parts, report)) is not None:
                    pending.append(work)
                else:
                    advance(1)
                if sum(len(work.passages) for work in pending) >= COMMIT_CHUNKS:
                    self._commit(pending, report, advance)
                    pending = []
            self._commit(pending, report, advance)
        self._embed_others(show_progress)
        if remove_missing:
            self._remove_missing(paths, {source_name(f) for f in files}, report)
        return report.freeze()

    def _commit(
        self, pending: Sequence[Work], report: Report, advance: Callable[[float], None]
    ) -> None:
        """Embed and write whole sources in one transaction; `advance` counts them as they go."""
        if not pending:
            return
        texts = [passage.words for work in pending for passage in work.passages]
        each = len(pending) / max(1, len(texts))  # sources a chunk
        vectors = self._embed(texts, lambda count: advance(each * count))
        with self._index.transaction():
            at = 0
            for name, text, digest, passages in pending:
                own = None if vectors is None else vectors[at : at + len(passages)]
                self._index.documents.put(name, text, digest, passages, own)
                at += len(passages)
        if not texts:
            advance(len(pending))
        report.chunks += len(texts)

    def _embed(self, texts: Sequence[str], advance: Callable[[int], object]) -> np.ndarray | None:
        """Vectors, float32 ``[n, d]``; None of a model that has not learned to embed."""
        if self._store.model.embeds:
            return self._store.embed(texts, advance)
        advance(len(texts))
        return None

    def _embed_others(self, show_progress: bool | None) -> None:
        """Embed what was indexed by a model that could not."""
        if not self._store.model.embeds:
            return
        info = self._index.info()
        with progress("embedding", info.count - info.vectors, show_progress, many=1) as advance:
            while chunks := self._index.without_vectors(COMMIT_CHUNKS):
                vectors = self._store.embed([chunk.words for chunk in chunks], advance)
                self._index.set_vectors([chunk.id for chunk in chunks], vectors)

    def _remove_missing(self, paths: Sequence[Path], found: set[str], report: Report) -> None:
        roots = existing(paths)
        for document in self._index.documents.all():
            path = Path(document.source)
            under = any(path.is_relative_to(root) for root in roots)
            if under and document.source not in found and is_gone(path):
                self._index.documents.remove([document.source])
                report.removed.append(document.source)
