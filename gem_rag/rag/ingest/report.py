"""What an ingest did."""

from __future__ import annotations

from dataclasses import dataclass, field

from gem_rag.documents.find import Found


@dataclass(frozen=True)
class IngestReport:
    """What an `add` did, by source.

    Attributes:
        added: New sources.
        replaced: Changed sources, their old chunks gone.
        unchanged: Sources that were not read again.
        moved: Sources that were found under another name, unchanged: old name and new.
        removed: Sources dropped because they are gone.
        skipped: Sources that could not be used and folders that could not be read, and why.
        chunks: Chunks written.
        notes: Sources and folders, with what a user should know about how they were read.
        passed_over: How many files of unknown kinds there are, by suffix.
    """

    added: list[str] = field(default_factory=list)
    replaced: list[str] = field(default_factory=list)
    unchanged: list[str] = field(default_factory=list)
    moved: list[tuple[str, str]] = field(default_factory=list)
    removed: list[str] = field(default_factory=list)
    skipped: list[tuple[str, str]] = field(default_factory=list)
    chunks: int = 0
    notes: list[tuple[str, str]] = field(default_factory=list)
    passed_over: dict[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class Removal:
    """What a `remove` did.

    Attributes:
        removed: Sources that are no longer in the index.
        changed: Sources that lost some of their chunks; the next `add` indexes them again.
        missing: What was asked for and is not in the index.
        chunks: Chunks removed.
    """

    removed: list[str] = field(default_factory=list)
    changed: list[str] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)
    chunks: int = 0


class Report:
    """An `IngestReport` while it is being filled."""

    def __init__(self) -> None:
        self.added: list[str] = []
        self.replaced: list[str] = []
        self.unchanged: list[str] = []
        self.moved: list[tuple[str, str]] = []
        self.removed: list[str] = []
        self.skipped: list[tuple[str, str]] = []
        self.chunks = 0
        self.notes: list[tuple[str, str]] = []
        self.passed_over: dict[str, int] = {}

    def take(self, found: Found) -> None:
        """What was seen while looking for files."""
        self.skipped += found.skipped
        self.notes += found.notes
        self.passed_over |= found.passed_over

    def freeze(self) -> IngestReport:
        """As it is now."""
        return IngestReport(**vars(self))
