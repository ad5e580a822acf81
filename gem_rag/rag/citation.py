"""A passage that was found, and where it is from."""

from __future__ import annotations

from dataclasses import dataclass

from gem_rag.index.records import Hit


@dataclass(frozen=True)
class Citation:
    """A retrieved passage an answer stands on.

    Attributes:
        source: File path or document name.
        start: First character of the passage in the source's text.
        end: One past its last.
        score: Cosine similarity of question and passage, -1 to 1.
        rank_score: Calibrated query likelihood (nats per token); None where nothing was ranked.
        text: The passage.
        heading: Headings above it, outermost first, joined by " > ".
        id: Its id in the index.
    """

    source: str
    start: int
    end: int
    score: float
    rank_score: float | None
    text: str
    heading: str = ""
    id: str = ""

    @classmethod
    def of(cls, hit: Hit, rank_score: float | None = None) -> Citation:
        """What the index found, as a citation."""
        m = hit.metadata
        return cls(
            source=str(m.get("source", "")),
            start=int(m.get("start", 0)),
            end=int(m.get("end", len(hit.text))),
            score=float(hit.score),
            rank_score=rank_score,
            text=hit.text,
            heading=str(m.get("heading") or ""),
            id=hit.id,
        )
