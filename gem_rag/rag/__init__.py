"""Retrieval-augmented generation: ingest, retrieve, rank, answer with citations."""

from gem_rag.rag.answer import (
    EMPTY_INDEX,
    NOTHING_FOUND,
    Answer,
    AnswerStream,
    AsyncAnswerStream,
)
from gem_rag.rag.citation import Citation
from gem_rag.rag.ingest.report import IngestReport, Removal
from gem_rag.rag.ingest.write import COMMIT_CHUNKS
from gem_rag.rag.pipeline import GemRAG
from gem_rag.rag.question import in_context
from gem_rag.rag.relevance import RELEVANCE_THRESHOLD
from gem_rag.text.prompts import ASK

__all__ = [
    "ASK",
    "COMMIT_CHUNKS",
    "EMPTY_INDEX",
    "NOTHING_FOUND",
    "RELEVANCE_THRESHOLD",
    "Answer",
    "AnswerStream",
    "AsyncAnswerStream",
    "Citation",
    "GemRAG",
    "IngestReport",
    "Removal",
    "in_context",
]
