"""Writing sources into the index, whole ones in each commit."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from gem_rag.documents.document import Chunk, Document
from gem_rag.documents.find import existing, find, is_gone
from gem_rag.index.gem_index import GemIndex
from gem_rag.progress import progress
from gem_rag.rag.ingest.plan import SOURCE, Part, Plan, Work, meta_key, source_name
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
                if sum(len(work.chunks) for work in pending) >= COMMIT_CHUNKS:
                    self._commit(pending, report, advance)
                    pending = []
            self._commit(pending, report, advance)
        if remove_missing:
            self._remove_missing(paths, {source_name(f) for f in files}, report)
        return report.freeze()

    def _commit(
        self, pending: Sequence[Work], report: Report, advance: Callable[[float], None]
    ) -> None:
        """Embed and write whole sources in one transaction; `advance` counts them as they go."""
        if not pending:
            return
        chunks = [chunk for work in pending for chunk in work.chunks]
        each = len(pending) / max(1, len(chunks))  # sources a chunk
        texts = [chunk.text for chunk in chunks]
        vectors = self._store.embed(texts, lambda count: advance(each * count))
        with self._index.transaction():
            # Whatever is there by now, new to this call or not: others may add the same source.
            self._index.delete(where={"source": {"$in": [work.name for work in pending]}})
            for work in pending:
                self._index.set_meta(meta_key(work.name), work.digest)
            if chunks:
                self._index.add(texts, vectors, [_metadata(c) for c in chunks])
        if not chunks:
            advance(len(pending))
        report.chunks += len(chunks)

    def _remove_missing(self, paths: Sequence[Path], found: set[str], report: Report) -> None:
        roots = existing(paths)
        for key in self._index.meta_keys(SOURCE):
            name = key.removeprefix(SOURCE)
            path = Path(name)
            under = any(path.is_relative_to(root) for root in roots)
            if under and name not in found and is_gone(path):
                with self._index.transaction():
                    self._index.delete(where={"source": name})
                    self._index.set_meta(key, None)
                report.removed.append(name)


def _metadata(chunk: Chunk) -> dict[str, Any]:
    own = {
        "source": chunk.source,
        "start": chunk.start,
        "end": chunk.end,
        "heading": chunk.heading,
    }
    return {**chunk.metadata, **own}
