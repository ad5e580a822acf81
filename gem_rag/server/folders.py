"""Folders that are watched while the server runs, each in a thread of its own."""

from __future__ import annotations

import asyncio
import hashlib
import logging
import os
import threading
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import cached_property, lru_cache, partial
from pathlib import Path
from typing import Any

from gem_rag.documents.find import absolute, path_name
from gem_rag.rag.ingest.plan import source_name
from gem_rag.rag.ingest.watch import Changes, Watch, drop_missing
from gem_rag.rag.pipeline import GemRAG
from gem_rag.server.hub import Hub
from gem_rag.server.indexing import Indexer, sized
from gem_rag.server.records import Records, now
from gem_rag.server.settings import Settings

_log = logging.getLogger("gem_rag.server")


@dataclass
class Folder:
    """A watched folder, or file.

    Attributes:
        path: Where.
        state: ``looking`` for the first time, ``watching``, or ``away``.
        looked: When something in it was last taken over.
        stop: Ends its thread.
    """

    path: Path
    state: str = "looking"
    looked: str | None = None
    stop: threading.Event = field(default_factory=threading.Event)

    @cached_property
    def id(self) -> str:
        """Always the same for a path."""
        return f"f_{short_hash(self.name)}"

    @cached_property
    def name(self) -> str:
        """The path as sources are named."""
        return path_name(self.path)

    @cached_property
    def _inside(self) -> str:
        return self.name.rstrip(os.sep) + os.sep

    def holds(self, source: str) -> bool:
        """Whether a source lies in it; compared as text, since it is asked of every document."""
        return source.startswith(self._inside) or source == self.name


class Folders:
    """What is watched; lives on the event loop, its threads tell it what they saw.

    Args:
        rag: Forgets what is gone.
        indexer: Indexes what is new.
        records: Remembers folders, and what is left out of them.
        hub: Told what changes.
        settings: How files are waited for, which folder is passed over, where others may add some.
    """

    def __init__(
        self,
        rag: GemRAG,
        indexer: Indexer,
        records: Records,
        hub: Hub,
        settings: Settings,
    ) -> None:
        self._rag, self._indexer, self._records, self._hub = rag, indexer, records, hub
        self._settings = settings
        self._home = absolute(settings.home)
        self._roots = [absolute(root) for root in settings.roots]
        self._folders: dict[str, Folder] = {}
        self._loop = asyncio.get_running_loop()

    def start(self, paths: Iterable[Path]) -> None:
        """Watch these, and those that were added while a server ran before."""
        for path in (*map(absolute, paths), *self._records.folders()):
            self._watch(path)
        self.tell()

    def stop(self) -> None:
        """Watch nothing any more."""
        for folder in self._folders.values():
            folder.stop.set()

    def all(self) -> list[Folder]:
        """Those that are watched."""
        return list(self._folders.values())

    def get(self, name: str) -> Folder | None:
        """One by its id."""
        return self._folders.get(name)

    def of(self, source: str) -> Folder | None:
        """The innermost that a source lies in."""
        around = [folder for folder in list(self._folders.values()) if folder.holds(source)]
        return max(around, key=lambda folder: len(folder.name), default=None)

    async def add(self, path: Path) -> Folder:
        """Watch another one, from now on and when the server is started again."""
        whole = absolute(path)
        await asyncio.to_thread(self._records.add_folder, whole)
        folder = self._watch(whole)
        self.tell()
        return folder

    async def remove(self, folder: Folder, *, keep: bool) -> None:
        """Watch one no more.

        Args:
            folder: Which.
            keep: Leave its documents in the index.
        """
        folder.stop.set()
        self._folders.pop(folder.id, None)
        await asyncio.to_thread(self._records.remove_folder, folder.path)
        if not keep:
            known = await asyncio.to_thread(self._rag.index.documents.all)
            sources = {*(document.source for document in known), *self._indexer.sources}
            await self._indexer.forget(
                [s for s in sources if folder.holds(s) and self.of(s) is None]
            )
        self.tell()

    def _watch(self, path: Path) -> Folder:
        folder = Folder(path)
        if folder.id in self._folders:
            return self._folders[folder.id]
        self._folders[folder.id] = folder
        thread = threading.Thread(
            target=self._follow, args=(folder,), name="gem-rag-watch", daemon=True
        )
        thread.start()
        return folder

    def _follow(self, folder: Folder) -> None:
        """In a thread: what the watch sees, to the event loop."""
        # Where others may add folders, no link in one leads them out of these.
        is_shared = any(folder.path.is_relative_to(root) for root in self._roots)
        watch = Watch(
            [folder.path],
            without=[self._home],
            within=self._roots if is_shared else (),
            settle=self._settings.settle,
        )
        try:
            for changes in watch.changes(folder.stop):
                left_out = self._records.left_out()
                wanted = [f for f in changes.changed if source_name(f) not in left_out]
                self._loop.call_soon_threadsafe(self._take, folder, changes, sized(wanted))
        except Exception:
            if not folder.stop.is_set():
                _log.exception("watching %s", folder.path)

    def _take(self, folder: Folder, changes: Changes, wanted: dict[Path, int]) -> None:
        if folder.stop.is_set():
            return
        is_first = folder.looked is None
        folder.state = "away" if changes.away else "watching"
        folder.looked = now()
        self._indexer.put(wanted, is_new=not is_first)
        self._indexer.between(partial(self._sweep, folder, changes))
        self.tell()

    def _sweep(self, folder: Folder, changes: Changes) -> None:
        """In a thread: drop what is gone, unless a file that waits may be where it went."""
        if folder.stop.is_set():
            return
        failed = [source for source in self._indexer.failed if folder.holds(source)]
        gone = [source for source in failed if source not in changes.present]
        self._loop.call_soon_threadsafe(self._indexer.not_failed, gone)
        waiting = self._indexer.waiting_names
        known = [document.source for document in self._rag.index.documents.all()]
        held = {source for source in known if waiting and Path(source).name in waiting}
        drop_missing(self._rag, changes, held=held)
        if held:
            self._loop.call_soon_threadsafe(
                self._indexer.between, partial(self._sweep, folder, changes)
            )

    def tell(self) -> None:
        """Tell all who listen."""
        self._hub.publish("folders", [self.shown(folder) for folder in self.all()])

    def shown(self, folder: Folder) -> dict[str, Any]:
        """One as JSON."""
        return {
            "id": folder.id,
            "path": folder.name,
            "state": folder.state,
            "looked": folder.looked,
        }


@lru_cache(1 << 16)
def short_hash(text: str) -> str:
    """Of a name, for an id."""
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:16]
