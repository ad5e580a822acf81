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
        removed: Sources dropped because they are gone.
        skipped: Sources that could not be used and folders that could not be read, and why.
        chunks: Chunks written.
        notes: Sources and folders, with what a user should know about how they were read.
        passed_over: How many files of unknown kinds there are, by suffix.
    """

    added: list[str] = field(default_factory=list)
    replaced: list[str] = field(default_factory=list)
    unchanged: list[str] = field(default_factory=list)
    removed: list[str] = field(default_factory=list)
    skipped: list[tuple[str, str]] = field(default_factory=list)
    chunks: int = 0
    notes: list[tuple[str, str]] = field(default_factory=list)
    passed_over: dict[str, int] = field(default_factory=dict)


class Report:
    """An `IngestReport` while it is being filled."""

    def __init__(self) -> None:
        self.added: list[str] = []
        self.replaced: list[str] = []
        self.unchanged: list[str] = []
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
