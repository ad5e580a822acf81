"""Folders that an index follows: what is new, changed, moved or gone is taken over soon after.

The system's events only say when to look. What there is comes from looking, as `find` looks, so
that nothing is missed where there are no events (network mounts), and a burst is one change.
"""

from __future__ import annotations

import time
from collections.abc import Collection, Generator, Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from threading import Event
from typing import Protocol

from gem_rag.documents.find import absolute, find, is_gone
from gem_rag.errors import DocumentError, MissingExtraError
from gem_rag.index.protocol import Index
from gem_rag.rag.ingest.gone import Sight, missing_below
from gem_rag.rag.ingest.plan import source_name
from gem_rag.rag.ingest.remove import drop
from gem_rag.rag.ingest.report import IngestReport
from gem_rag.store import ReadingStore

SETTLE_SECONDS = 1.0  # a file that stays as it is for so long is whole
BURST_SECONDS = 10.0  # that files which are still being written keep the others waiting
RESCAN_SECONDS = 60.0  # between looks where no event asks for one

_State = tuple[int, int, int]  # size, time of change, number of a file


class Indexing(Protocol):
    """What of a `GemRAG` is needed to have its index follow."""

    index: Index
    store: ReadingStore

    def add(self, paths: Sequence[Path], /, *, show_progress: bool | None) -> IngestReport:
        """See `GemRAG.add`."""
        ...


@dataclass(frozen=True)
class Changes:
    """What is otherwise than it was.

    Attributes:
        changed: Files that are new or other.
        roots: The watched files and folders that can be seen.
        away: Those that cannot: nothing can be said of what was below them.
        present: Names of all sources that are there.
    """

    changed: list[Path]
    roots: list[Path]
    away: list[Path]
    present: frozenset[str]


class Watch:
    """Watches files and folders.

    Args:
        paths: They need not be there; a folder that is not is waited for.
        exclude: Patterns, as in ``.gitignore``, of what is left out.
        without: Folders that are passed over, such as the one an index is written to.
        within: Folders that files have to lie in, links followed; without any, all are taken.
        settle: Seconds that a file must stay as it is.
        rescan: Seconds between looks where no event asks for one.

    Raises:
        MissingExtraError: The extra ``server`` is not installed.
    """

    def __init__(
        self,
        paths: Iterable[str | Path],
        *,
        exclude: Sequence[str] = (),
        without: Iterable[Path] = (),
        within: Sequence[Path] = (),
        settle: float = SETTLE_SECONDS,
        rescan: float = RESCAN_SECONDS,
    ) -> None:
        try:
            import watchfiles  # noqa: F401
        except ImportError as error:
            raise MissingExtraError("watching folders", "server") from error
        self._paths = [absolute(path) for path in paths]
        self._single = {path for path in self._paths if path.is_file()}
        self._exclude = exclude
        self._without = [folder.resolve() for folder in without]
        self._within = [absolute(folder) for folder in within]
        self._settle, self._rescan = settle, rescan
        self._taken: dict[Path, _State] = {}
        self._seen: dict[Path, _State] = {}
        self._away: list[Path] | None = None  # None before the first changes

    def changes(self, stop: Event) -> Iterator[Changes]:
        """What changes, until it is stopped; the first are all files there are.

        Args:
            stop: Ends it within a moment.
        """
        while not stop.is_set():
            with closing(self._ticks(stop)) as ticks:
                yield from self._changes_at(ticks)

    def _changes_at(self, ticks: Iterator[bool]) -> Iterator[Changes]:
        """What changes as long as the same paths can be seen."""
        away = self._gone_paths()
        is_asked, looked = True, float("-inf")
        restless_since: float | None = None
        for has_event in ticks:
            if self._gone_paths() != away:
                return  # what waits for the system's events has to start anew
            now = time.monotonic()
            is_asked = is_asked or has_event or now - looked >= self._rescan
            if not is_asked or now - looked < self._settle:
                continue  # two looks are so far apart that what is being written differs
            looked = now
            restless = self._look()
            restless_since = (restless_since or now) if restless else None
            is_asked = bool(restless)
            if restless_since is None or now - restless_since >= BURST_SECONDS:
                restless_since = None
                if (changes := self._take(restless)) is not None:
                    yield changes

    def _ticks(self, stop: Event) -> Generator[bool]:
        """Now and then: whether something has happened since."""
        from watchfiles import watch

        milliseconds = int(self._settle * 1000)
        there = [path for path in self._paths if path not in self._gone_paths()]
        try:
            for events in watch(
                *there,
                watch_filter=lambda _, path: not self._is_without(Path(path)),
                debounce=milliseconds,
                rust_timeout=milliseconds,
                yield_on_timeout=True,
                stop_event=stop,
                ignore_permission_denied=True,
            ):
                yield bool(events)
        except OSError:  # more folders than the system watches, or one that has just gone
            until = time.monotonic() + self._rescan
            while not stop.wait(self._settle) and time.monotonic() < until:
                yield False

    def _is_without(self, path: Path) -> bool:
        return any(path.is_relative_to(folder) for folder in self._without)

    def _is_within(self, file: Path) -> bool:
        return any(file.is_relative_to(folder) for folder in self._within)

    def _gone_paths(self) -> list[Path]:
        return [path for path in self._paths if path not in self._single and is_gone(path)]

    def _look(self) -> set[Path]:
        """See what is there; which files have changed since the last look."""
        there = [path for path in self._paths if not is_gone(path)]
        try:
            found = find(there, exclude=self._exclude, without=self._without).files
        except DocumentError:
            return set(self._seen)  # one of them has just gone: it is looked at again
        if self._within:
            found = [file for file in found if self._is_within(absolute(file))]
        before = self._seen
        self._seen = {file: state for file in found if (state := _state(file)) is not None}
        return {file for file, state in self._seen.items() if before.get(file) != state}

    def _take(self, restless: Collection[Path]) -> Changes | None:
        """What is otherwise than when it was taken last; restless files are left for later."""
        away = self._gone_paths()
        taken = {
            file: self._taken[file] if file in restless else state
            for file, state in self._seen.items()
            if file not in restless or file in self._taken
        }
        changed = [file for file, state in taken.items() if self._taken.get(file) != state]
        is_same = taken.keys() == self._taken.keys() and not changed and away == self._away
        if is_same:
            return None
        self._taken, self._away = taken, away
        return Changes(
            changed=changed,
            roots=[path for path in self._paths if path not in away],
            away=away,
            present=frozenset(source_name(file) for file in self._seen),
        )


def follow(
    rag: Indexing, paths: Sequence[str | Path], *, exclude: Sequence[str] = (), stop: Event
) -> Iterator[IngestReport]:
    """Keep an index in step with files and folders; a report of each change.

    Args:
        rag: Indexes.
        paths: What is watched.
        exclude: As for `GemRAG.add`.
        stop: Ends it.
    """
    own = [] if rag.index.path is None else [rag.index.path]
    for changes in Watch(paths, exclude=exclude, without=own).changes(stop):
        there = [file for file in changes.changed if not is_gone(file)]
        report = rag.add(there, show_progress=False)
        removed = drop_missing(rag, changes)
        yield replace(report, removed=[*report.removed, *removed])


def drop_missing(rag: Indexing, changes: Changes, *, held: Collection[str] = ()) -> list[str]:
    """Take out of an index what is gone from the watched folders; their names.

    Args:
        rag: Its index knows the mounts that files came from: what is not mounted is not gone.
        changes: What was seen.
        held: Sources that may have moved, and are left for later.
    """
    sight = Sight(rag.index)
    gone: dict[str, None] = {}
    for root in changes.roots:
        missing, _ = missing_below(rag.index, sight, root, changes.present)
        gone |= dict.fromkeys(name for name in missing if name not in held)
    if gone:
        drop(rag.index, list(gone), rag.store.forget)
    return list(gone)


def _state(file: Path) -> _State | None:
    try:
        found = file.stat()
    except OSError:
        return None
    return found.st_size, found.st_mtime_ns, found.st_ino
