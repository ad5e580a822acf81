"""Passages found as a user finds them: by words, by vectors, by both, ranked; in time and space."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import numpy as np

from gem_rag.index import GemIndex, Hit
from gem_rag.index.gem_index import DATABASE_FILE
from gem_rag.index.search import Mode
from gem_rag.model import GemModel
from gem_rag.progress import progress
from gem_rag.rag.retrieve import CANDIDATES, Retriever
from gem_rag.store import ReadingStore
from gem_rag_train.evaluation.embedding import KEPT_BYTES, TOP, gains
from gem_rag_train.evaluation.kept import KeptAnswers, KeptVectors, digest
from gem_rag_train.evaluation.measures import Measure, measure
from gem_rag_train.evaluation.sets import Retrieval
from gem_rag_train.evaluation.statistics import Sample
from gem_rag_train.evaluation.systems import (
    CHECKPOINT,
    HYBRID,
    MINILM,
    MINILM_WORDS,
    VECTORS,
    WORDS,
    first_tokens,
)

NOTE = (
    "words: full-text search alone; vectors: the checkpoint's; checkpoint: both, ranked; times "
    "include embedding the question, and reading passages that were not read yet"
)
Search = Callable[[str], list[str]]  # a question to the ids of the best passages, best first


def found(
    model: GemModel,
    mine: KeptVectors,
    peer: KeptVectors,
    title: str,
    data: Retrieval,
    folder: Path,
    *,
    max_length: int,
    show_progress: bool | None = None,
) -> list[Measure]:
    """Every way to find, over the same paragraphs and questions.

    Args:
        model: The checkpoint.
        mine: Its vectors.
        peer: all-MiniLM-L6-v2's.
        title: Names the set.
        data: Paragraphs and questions.
        folder: Where indexes and answers are kept.
        max_length: Tokens of a paragraph that are read.
        show_progress: As for `GemModel.read`.
    """
    name = digest(data.paragraphs, max_length)
    folder.mkdir(parents=True, exist_ok=True)
    texts = [first_tokens(model, text, max_length) for text in data.paragraphs]
    own = _index(folder / f"{model.fingerprint[:16]}-{name}", texts, mine, model.fingerprint)
    other = _index(folder / f"minilm-{name}", texts, peer, None)
    with own, other:
        ways = _ways(model, own, other, mine, peer)
        kept = KeptAnswers(folder / f"{model.fingerprint[:16]}-{name}.jsonl")
        answers = {
            way: _asked(way, search, data, kept, show_progress) for way, search in ways.items()
        }
    # Closed, so that all of it is in the one file.
    file = folder / f"{model.fingerprint[:16]}-{name}" / DATABASE_FILE
    chunk_bytes = file.stat().st_size / max(1, len(texts))
    return _measures(title, data, answers, chunk_bytes)


def _index(
    folder: Path, texts: Sequence[str], vectors: KeptVectors, fingerprint: str | None
) -> GemIndex:
    """The paragraphs in an index of their own; their ids are their numbers."""
    index = GemIndex(folder, fingerprint=fingerprint)
    if index.count() != len(texts):
        with index.transaction():
            index.delete(where={})
            index.add(texts, vectors.embed(texts), ids=[str(i) for i in range(len(texts))])
    return index


def _ways(
    model: GemModel, own: GemIndex, other: GemIndex, mine: KeptVectors, peer: KeptVectors
) -> dict[str, Search]:
    store = ReadingStore(model, memory_bytes=KEPT_BYTES)
    ranked = Retriever(model, own, store)

    def search(index: GemIndex, vectors: KeptVectors, mode: Mode, question: str) -> list[str]:
        # Embedded afresh, and not kept: it is part of the time.
        vector = None if mode == "words" else vectors.embedder.embed([question], "query")[0]
        text = None if mode == "vector" else question
        return _ids(index.search(vector, TOP, text=text, mode=mode))

    def rank(question: str) -> list[str]:
        passages = ranked.find(question, k=TOP, candidates=CANDIDATES, rank=True).citations
        return [passage.id for passage in passages]

    return {
        WORDS: partial(search, own, mine, "words"),
        MINILM: partial(search, other, peer, "vector"),
        MINILM_WORDS: partial(search, other, peer, "hybrid"),
        VECTORS: partial(search, own, mine, "vector"),
        HYBRID: partial(search, own, mine, "hybrid"),
        CHECKPOINT: rank,
    }


def _ids(hits: Sequence[Hit]) -> list[str]:
    return [hit.id for hit in hits]


def _asked(
    way: str, search: Search, data: Retrieval, kept: KeptAnswers, show_progress: bool | None
) -> list[tuple[list[str], float]]:
    """What each question finds, and the seconds it took.

    Questions about neighbouring paragraphs come one after the other: what they find is mostly the
    same, so a bounded store reads nearly every paragraph once.
    """
    with progress(f"finding: {way}", len(data.questions), show_progress) as advance:
        for i in np.argsort(data.gold, kind="stable"):
            question = data.questions[i].text
            if (key := digest(way, question)) not in kept:
                start = time.perf_counter()
                ids = search(question)
                kept[key] = [ids, time.perf_counter() - start]
            advance(1)
    return [tuple(kept[digest(way, q.text)]) for q in data.questions]


def _measures(
    title: str,
    data: Retrieval,
    answers: dict[str, list[tuple[list[str], float]]],
    chunk_bytes: float,
) -> list[Measure]:
    task = f"{title}: {len(data.paragraphs):,} paragraphs, {chunk_bytes:,.0f} bytes each on disk"
    places = {
        way: np.array([_place(ids, gold) for (ids, _), gold in zip(said, data.gold, strict=True)])
        for way, said in answers.items()
    }
    seconds = {way: np.array([took for _, took in found]) for way, found in answers.items()}
    metrics: dict[str, Callable[[str], np.ndarray]] = {
        "recall@1": lambda way: places[way] == 0,
        "recall@10": lambda way: places[way] < TOP,
        "nDCG@10": lambda way: gains(places[way]),
        "seconds a question": lambda way: seconds[way],
    }
    return [
        measure(
            "ranking",
            task,
            metric,
            {way: Sample.mean(of(way), data.gold) for way in answers},
            against=MINILM_WORDS,
            note=NOTE,
        )
        for metric, of in metrics.items()
    ]


def _place(ids: Sequence[str], gold: int) -> int:
    """Where the right paragraph stands; after all where it was not found."""
    return ids.index(str(gold)) if str(gold) in ids else TOP
