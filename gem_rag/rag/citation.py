"""A passage that was found, and where it is from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from gem_rag.index.records import Hit


@dataclass(frozen=True)
class Citation:
    """A retrieved passage an answer stands on.

    Attributes:
        source: File path or document name.
        start: First character of the passage in the source's text.
        end: One past its last.
        score: Cosine similarity of question and passage, -1 to 1; None where one has no vector.
        rank_score: What the model's ranking makes of it: see `gem_rag.rag.relevance`; None where
            nothing was ranked.
        text: The passage.
        heading: Headings above it, outermost first, joined by " > ".
        id: Its id in the index.
        page: Its page, from 1.
        word_score: How well the question's words stand in it, 0 to 1; None where words were not
            searched.
        fused_score: Cosine and word score in one, at most 1; None where one alone was searched by.
        sources: All sources that hold this very passage.
        tokens_share: The share of the answer's tokens that came from this passage, 0 to 1, where
            several answered as a committee; None elsewhere.
        metadata: The user's.
        quote_start: First character, in the source's text, of the sentence that carries the answer;
            None where there is no answer yet, or the passage does not carry it.
        quote_end: One past its last; None likewise.
        confidence: How likely it answers the question, 0 to 1: see `gem_rag.rag.relevance`; None
            where nothing was ranked.
    """

    source: str
    start: int
    end: int
    score: float | None
    rank_score: float | None
    text: str
    heading: str = ""
    id: str = ""
    page: int | None = None
    word_score: float | None = None
    fused_score: float | None = None
    sources: tuple[str, ...] = ()
    tokens_share: float | None = None
    metadata: Mapping[str, Any] = field(default_factory=dict)
    quote_start: int | None = None
    quote_end: int | None = None
    confidence: float | None = None

    @property
    def quote(self) -> str | None:
        """The sentence that carries the answer; None where none does."""
        if self.quote_start is None or self.quote_end is None:
            return None
        return self.text[self.quote_start - self.start : self.quote_end - self.start]

    def as_dict(self) -> dict[str, Any]:
        """All of it, the quote's words among it, for JSON."""
        return {**asdict(self), "quote": self.quote}

    @classmethod
    def of(
        cls, hit: Hit, rank_score: float | None = None, confidence: float | None = None
    ) -> Citation:
        """What the index found, as a citation.

        The place of a chunk that was added without a document is what its metadata says of it.
        """
        said = hit.metadata if hit.source is None else {}
        source = str(said.get("source", "")) if hit.source is None else hit.source
        start, end = hit.start, hit.end
        return cls(
            source=source,
            start=_whole(said.get("start"), 0) if start is None else start,
            end=_whole(said.get("end"), len(hit.text)) if end is None else end,
            score=hit.score,
            rank_score=rank_score,
            text=hit.text,
            heading=hit.heading or str(said.get("heading") or ""),
            id=hit.id,
            page=hit.page,
            word_score=hit.word_score,
            fused_score=hit.fused_score,
            sources=hit.sources or ((source,) if source else ()),
            metadata=hit.metadata,
            confidence=confidence,
        )


def marks(citations: Sequence[Citation]) -> str:
    """Which passages an answer stands on, as text after it: those with a quote, or the best."""
    quoted = [n for n, one in enumerate(citations, 1) if one.quote_start is not None]
    numbers = quoted or ([1] if citations else [])
    return "".join(f" [{number}]" for number in numbers)


def _whole(value: Any, otherwise: int) -> int:
    return value if isinstance(value, int) else otherwise
