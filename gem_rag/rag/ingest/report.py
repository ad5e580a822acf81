"""What an ingest did."""

from __future__ import annotations

from dataclasses import dataclass, field


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


class Report:
    """An `IngestReport` while it is being filled."""

    def __init__(self) -> None:
        self.added: list[str] = []
        self.replaced: list[str] = []
        self.unchanged: list[str] = []
        self.removed: list[str] = []
        self.skipped: list[tuple[str, str]] = []
        self.chunks = 0

    def freeze(self) -> IngestReport:
        """As it is now."""
        return IngestReport(**vars(self))
