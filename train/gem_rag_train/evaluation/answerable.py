"""Whether the documents answer a question: with its passage among them, and with it taken out.

What is known of the best passage decides (`gem_rag.rag.relevance`). A threshold that keeps more of
the answerable questions answers more of the unanswerable ones too: the curve of one over the other
is what a rule is worth, wherever its threshold lies.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from gem_rag.config import AnswerableWeights
from gem_rag.index import GemIndex
from gem_rag.index.filters import Where
from gem_rag.index.records import Hit
from gem_rag.model import GemModel
from gem_rag.progress import progress
from gem_rag.rag.relevance import confidence
from gem_rag.rag.retrieve import CANDIDATES, Candidate, Choice, Chosen, Retriever
from gem_rag.store import ReadingStore
from gem_rag_train.evaluation.embedding import KEPT_BYTES
from gem_rag_train.evaluation.kept import KeptAnswers, KeptVectors, digest
from gem_rag_train.evaluation.measures import Measure
from gem_rag_train.evaluation.sets import Retrieval
from gem_rag_train.evaluation.statistics import Sample, answered_at
from gem_rag_train.evaluation.systems import CHECKPOINT, first_tokens

NUMBER = "number"  # of a passage, by which it is taken out
CONFIDENCE, RANK_SCORE = "confidence", "rank score"
REPORTED = (0.95, 0.80)  # shares of the answerable questions that are kept
NOTE = (
    "a question is answerable with its own paragraph among the others, unanswerable with it taken "
    "out; lower is better at the same share kept"
)


@dataclass(frozen=True)
class Tried:
    """What is known of the best passage for each question.

    Attributes:
        known: float64 [n, 2, 4]: with the question's own passage among the others, and without;
            the part of its surprise explained, the part of its words covered, the cosine, the rank
            score.
        groups: int [n]: the own passage.
    """

    known: np.ndarray
    groups: np.ndarray

    def by(self, rule: str, weights: AnswerableWeights) -> tuple[np.ndarray, np.ndarray]:
        """What a rule compares with its threshold, with the own passage and without, each [n]."""
        if rule == RANK_SCORE:
            scores = self.known[:, :, 3]
        else:
            rows = self.known.reshape(-1, 4).tolist()
            likely = [confidence(share, held, near, weights) for share, held, near, _ in rows]
            scores = np.array(likely).reshape(-1, 2)
        return scores[:, 0], scores[:, 1]

    def answered(self, rule: str, weights: AnswerableWeights, kept: float) -> Sample:
        """Of the unanswerable the share that is answered, where so many of the others are kept."""
        return Sample(answered_at(kept), self.by(rule, weights), self.groups)


def tried(
    model: GemModel,
    data: Retrieval,
    kept: KeptAnswers,
    *,
    max_length: int,
    vectors: KeptVectors | None = None,
    show_progress: bool | None = None,
) -> Tried:
    """Ask every question twice; what is in `kept` is not asked again.

    Args:
        model: The checkpoint.
        data: Passages and questions.
        kept: Of these passages.
        max_length: Tokens of a passage that are read.
        vectors: The checkpoint's; None makes them.
        show_progress: As for `GemModel.read`.
    """
    keys = [digest(model.fingerprint, model.base.number_format, q.text) for q in data.questions]
    if any(key not in kept for key in keys):
        store = ReadingStore(model, memory_bytes=KEPT_BYTES)
        texts = [first_tokens(model, text, max_length) for text in data.paragraphs]
        with GemIndex(fingerprint=model.fingerprint) as index:
            numbers = [{NUMBER: i} for i in range(len(texts))]
            index.add(texts, (vectors or store).embed(texts), metadatas=numbers)
            choice = Choice(1, store.rank, CANDIDATES, weights=model.config.relevance)
            _ask(Retriever(model, index, store), choice, data, keys, kept, show_progress)
    return Tried(np.array([kept[key] for key in keys], dtype=np.float64), np.array(data.gold))


def _ask(
    retriever: Retriever,
    choice: Choice,
    data: Retrieval,
    keys: Sequence[str],
    kept: KeptAnswers,
    show_progress: bool | None,
) -> None:
    """All questions that were not asked yet, those about neighbouring passages together."""
    with progress("asking", len(keys), show_progress) as advance:
        for i in np.argsort(data.gold, kind="stable"):
            question = data.questions[i]
            if keys[i] not in kept:
                without: Where = {NUMBER: {"$ne": question.paragraph}}
                kept[keys[i]] = [
                    _best(retriever, choice, question.text, where) for where in (None, without)
                ]
            advance(1)


def _best(
    retriever: Retriever, choice: Choice, question: str, where: Where | None
) -> tuple[float, float, float, float]:
    """Of the best passage: what it explains, what it covers, its cosine, its rank score."""
    hits = retriever.search(question, choice.wanted, "hybrid", where)
    found = [Candidate(hit, hit.words, hit.score, hit.word_score) for hit in hits]
    best: Chosen[Hit] = choice.best(question, found)[0]
    hit = best.item
    return best.explained or 0.0, hit.covered or 0.0, hit.score or 0.0, best.rank_score or 0.0


def decided(
    model: GemModel,
    title: str,
    data: Retrieval,
    folder: Path,
    *,
    max_length: int,
    vectors: KeptVectors | None = None,
    show_progress: bool | None = None,
) -> list[Measure]:
    """How well a checkpoint tells answerable questions from others, beside its rank score.

    Args:
        model: The checkpoint.
        title: Names the set.
        data: Passages and questions.
        folder: Where what was found is kept.
        max_length: Tokens of a passage that are read.
        vectors: The checkpoint's; None makes them.
        show_progress: As for `GemModel.read`.
    """
    folder.mkdir(parents=True, exist_ok=True)
    kept = KeptAnswers(folder / f"{digest(data.paragraphs, max_length)}.jsonl")
    found = tried(
        model, data, kept, max_length=max_length, vectors=vectors, show_progress=show_progress
    )
    weights = model.config.answerable
    own, without = found.by(CONFIDENCE, weights)
    samples = {
        "answerable answered, default": Sample.mean(own >= weights.threshold, data.gold),
        "unanswerable answered, default": Sample.mean(without >= weights.threshold, data.gold),
    }
    for share in REPORTED:
        for rule in (CONFIDENCE, RANK_SCORE):
            metric = f"unanswerable answered, {share:.0%} kept by {rule}"
            samples[metric] = found.answered(rule, weights, share)
    task = f"{title}: {len(data.paragraphs):,} paragraphs"
    return [
        Measure("answerable", task, metric, len(sample), {CHECKPOINT: sample.score()}, note=NOTE)
        for metric, sample in samples.items()
    ]
