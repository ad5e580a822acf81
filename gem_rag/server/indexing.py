"""What is to be indexed, in which order, and how far it is."""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal, NamedTuple

from gem_rag.engine.work import Work
from gem_rag.rag.ingest.plan import source_name
from gem_rag.rag.pipeline import GemRAG
from gem_rag.server.errors import as_api_error
from gem_rag.server.hub import Hub

# Files that are indexed together: so many, or of so many bytes. An upload waits for no more.
BATCH_FILES, BATCH_BYTES = 64, 200_000
REST_SECONDS = 5.0  # that are waited for the commit under way when the server ends
State = Literal["queued", "indexing", "failed"]
_log = logging.getLogger("gem_rag.server")


@dataclass
class Progress:
    """How far all that was queued since the last pause has come.

    Attributes:
        files: Queued and done.
        bytes: Likewise.
        started: When the first was queued.
    """

    files: int = 0
    files_done: int = 0
    bytes: int = 0
    bytes_done: int = 0
    started: float = 0.0

    @property
    def seconds_left(self) -> int | None:
        """About how long it will take, by bytes; None where nothing is done yet."""
        if not self.bytes_done:
            return None
        rate = (time.monotonic() - self.started) / self.bytes_done
        return max(0, round(rate * (self.bytes - self.bytes_done)))


class Waiting(NamedTuple):
    """What is known of a file that waits.

    Attributes:
        size: In bytes.
        is_new: It is known to have changed, and is shown as waiting.
    """

    size: int
    is_new: bool


class Indexer:
    """One file after another into the index, uploads first; lives on the event loop.

    Nothing of the queue is on disk: what was uploaded and what is watched is, and is queued again
    when the server starts.

    Args:
        rag: Indexes.
        hub: Told how far it is.
    """

    def __init__(self, rag: GemRAG, hub: Hub) -> None:
        self._rag = rag
        self._hub = hub
        self._waiting: dict[Path, Waiting] = {}
        self._running: dict[str, Path] = {}
        self._failed: dict[str, str] = {}
        self._unwanted: set[str] = set()  # deleted while they were being indexed
        self._between: list[Callable[[], None]] = []
        self._progress = Progress()
        self._ready = 0  # documents in the index
        self._at_rest = threading.Event()  # no thread of ours is indexing
        self._at_rest.set()
        self._woken = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin."""
        self._task = asyncio.create_task(self._work())
        self._tell()

    async def stop(self) -> None:
        """End after the commit under way; what is not in the index yet is not lost."""
        if self._task is not None:
            self._task.cancel()
            with suppress(asyncio.CancelledError):
                await self._task
            await asyncio.to_thread(self._at_rest.wait, REST_SECONDS)

    def put(self, files: Mapping[Path, int], *, first: bool = False, is_new: bool = True) -> None:
        """Queue files.

        Args:
            files: Absolute, with their sizes: see `sized`.
            first: Before those that wait already.
            is_new: They are known to have changed, and are shown as waiting.
        """
        fresh = {file: Waiting(size, is_new) for file, size in files.items()}
        if not fresh:
            return
        if not self._waiting and not self._running:
            self._progress = Progress(started=time.monotonic())
        more = [file for file in fresh if file not in self._waiting]
        self._progress.files += len(more)
        self._progress.bytes += sum(files[file] for file in more)
        for file in fresh:
            self._failed.pop(source_name(file), None)
            self._unwanted.discard(source_name(file))
        old = {file: waiting for file, waiting in self._waiting.items() if file not in fresh}
        self._waiting = {**fresh, **old} if first else {**old, **fresh}
        self._woken.set()
        self._tell()

    def between(self, work: Callable[[], None]) -> None:
        """Do something, in a thread, when the batch under way or the next one is done."""
        self._between.append(work)
        self._woken.set()

    async def forget(self, sources: list[str]) -> None:
        """Take sources out of the queue and the index, now."""
        names = set(sources)
        kept = {f: one for f, one in self._waiting.items() if source_name(f) not in names}
        self._progress.files -= len(self._waiting) - len(kept)
        self._waiting = kept
        self._unwanted |= names & self._running.keys()
        for name in names:
            self._failed.pop(name, None)
        if sources:
            await asyncio.to_thread(self._rag.remove, sources)
        await self._count()

    def not_failed(self, sources: Iterable[str]) -> None:
        """These are gone; that they failed is no matter any more."""
        for source in sources:
            self._failed.pop(source, None)

    def state_of(self, source: str, is_indexed: bool) -> State | None:
        """A source's state; None where it is as the index has it."""
        if source in self._running:
            return "indexing"
        if source in self._failed:
            return "failed"
        waiting = self._waiting.get(Path(source))
        is_shown = waiting is not None and (waiting.is_new or not is_indexed)
        return "queued" if is_shown else None

    def error_of(self, source: str) -> str | None:
        """Why a source failed."""
        return self._failed.get(source)

    @property
    def sources(self) -> list[str]:
        """All that are waiting, are being indexed, or failed; asked from threads too."""
        waiting = map(source_name, list(self._waiting))
        return list(dict.fromkeys([*list(self._running), *waiting, *list(self._failed)]))

    @property
    def failed(self) -> list[str]:
        """Those that failed."""
        return list(self._failed)

    @property
    def waiting_names(self) -> set[str]:
        """Names, without folders, of the files that wait: one may be another's new place."""
        return {file.name for file in list(self._waiting)}  # asked from threads too

    async def _work(self) -> None:
        while True:
            self._woken.clear()
            if self._waiting:
                await self._index(*self._next_batch())
            if self._between:
                work, self._between = self._between, []
                await self._run(work)
            if not self._waiting and not self._between:
                await self._count()
                await self._woken.wait()

    async def _run(self, work: list[Callable[[], None]]) -> None:
        for one in work:
            try:
                await asyncio.to_thread(one)
            except Exception:  # the queue goes on, whatever is wrong with one thing
                _log.exception("between two batches")

    def _next_batch(self) -> tuple[list[Path], int]:
        """The files that are indexed now, and their bytes."""
        batch: list[Path] = []
        size = 0
        for file, waiting in self._waiting.items():
            batch.append(file)
            size += waiting.size
            if size >= BATCH_BYTES or len(batch) >= BATCH_FILES:
                break
        for file in batch:
            del self._waiting[file]
        self._running = {source_name(file): file for file in batch}
        return batch, size

    async def _index(self, batch: list[Path], size: int) -> None:
        self._tell()
        try:
            # Awaited as a work, it ends between two passes of the model when this is cancelled.
            failed = await Work(partial(self._add, batch))
        except Exception as error:
            known = as_api_error(error)
            if known is None:
                _log.exception("indexing")
            reason = str(known.detail) if known else f"a bug: {type(error).__name__}"
            failed = dict.fromkeys(self._running, reason)
        finally:
            names, self._running = set(self._running), {}
        gone, self._unwanted = self._unwanted, set()
        for name in names:
            self._failed.pop(name, None)
        self._failed |= {name: why for name, why in failed.items() if name not in gone}
        if gone:
            await asyncio.to_thread(self._rag.remove, list(gone))
        self._progress.files_done += len(batch)
        self._progress.bytes_done += size
        await self._count()

    def _add(self, files: list[Path]) -> dict[str, str]:
        """In a thread: index files; which could not be, and why."""
        self._at_rest.clear()
        try:
            there = [file for file in files if file.is_file()]
            report = self._rag.add(there, show_progress=False)
        finally:
            self._at_rest.set()
        return {name: reason.removeprefix(f"{name} ") for name, reason in report.skipped}

    async def _count(self) -> None:
        self._ready = await asyncio.to_thread(len, self._rag.index.documents)
        self._tell()

    def _tell(self) -> None:
        is_busy = bool(self._waiting or self._running)
        progress = self._progress
        news: dict[str, Any] = {
            "state": "indexing" if is_busy else "idle",
            "done": progress.files_done,
            "total": max(progress.files, progress.files_done),
            "failed": len(self._failed),
            "seconds_left": progress.seconds_left if is_busy else None,
            "current": next((file.name for file in self._running.values()), None),
        }
        self._hub.publish("indexing", news)
        counts = {
            "ready": self._ready,
            "queued": len(self._waiting) + len(self._running),
            "failed": len(self._failed),
        }
        self._hub.publish("documents", counts)


def sized(files: Iterable[Path]) -> dict[Path, int]:
    """Files with their sizes in bytes, of those that are gone 0; for a thread: disks are slow."""
    sizes = {}
    for file in files:
        try:
            sizes[file] = file.stat().st_size
        except OSError:
            sizes[file] = 0
    return sizes
