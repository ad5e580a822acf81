"""RAG end to end: SQuAD questions answered through GemRAG, and by the two-model stack."""

from __future__ import annotations

import re
import string
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from gem_rag.checkpoints.fingerprint import seal
from gem_rag.compute.base import Base
from gem_rag.compute.parts import Parts
from gem_rag.config import AdapterConfig
from gem_rag.documents import Document
from gem_rag.index import GemIndex
from gem_rag.model import GemModel
from gem_rag.progress import progress
from gem_rag.rag import ASK, GemRAG
from gem_rag.store import ReadingStore
from gem_rag_train.evaluation.embedding import KEPT_BYTES
from gem_rag_train.evaluation.kept import KeptAnswers, KeptVectors, digest
from gem_rag_train.evaluation.measures import Measure, measure
from gem_rag_train.evaluation.sets import Question, Retrieval
from gem_rag_train.evaluation.statistics import Sample
from gem_rag_train.evaluation.systems import CHECKPOINT, MINILM, PLAIN_BASE

LONGEST_ANSWER = 48  # tokens


class _VectorsKept(ReadingStore):
    """A store that takes vectors made before; readings are made when something is ranked."""

    def __init__(self, model: GemModel, vectors: KeptVectors) -> None:
        super().__init__(model, memory_bytes=KEPT_BYTES)
        self._vectors = vectors

    def embed(
        self, texts: Sequence[str], advance: Callable[[int], object] = lambda _: None
    ) -> np.ndarray:
        """As `ReadingStore.embed`."""
        vectors = self._vectors.embed(texts)
        advance(len(texts))
        return vectors


def end_to_end(
    model: GemModel,
    base: GemModel,
    mine: KeptVectors,
    peer: KeptVectors,
    data: Retrieval,
    folder: Path,
    *,
    chunk_tokens: int,
    show_progress: bool | None = None,
) -> list[Measure]:
    """Exact match and F1 of answers through GemRAG, and through all-MiniLM-L6-v2 and the base.

    Both put one passage before the LLM, in the same words. Every question has an answer, so GemRAG
    always answers (no relevance threshold).

    Args:
        model: The checkpoint.
        base: What it was trained from, the two-model stack's LLM.
        mine: Its vectors.
        peer: all-MiniLM-L6-v2's.
        data: All paragraphs, and the questions to answer.
        folder: Where index and answers are kept.
        chunk_tokens: Longest chunk.
        show_progress: As for `GemModel.read`.
    """
    name = f"{model.fingerprint[:16]}-{digest(data.paragraphs, chunk_tokens)}"
    folder.mkdir(parents=True, exist_ok=True)
    with GemIndex(folder / name, fingerprint=model.fingerprint, dim=model.dim) as index:
        store = _VectorsKept(model, mine)
        rag = GemRAG(model, index, store=store, threshold=None, chunk_tokens=chunk_tokens)
        rag.add(
            [Document(text, f"{i:05d}") for i, text in enumerate(data.paragraphs)],
            show_progress=show_progress,
        )
        stack = TwoModels(base, peer, [record.text for record in index])
        single = Single(rag, KeptAnswers(folder / f"{name}-found.jsonl"))
        answerers: dict[str, Callable[[str], str]] = {
            CHECKPOINT: single.answer,
            PLAIN_BASE: single.plain_answer,
            MINILM: stack.answer,
        }
        other = "" if base is model else f"-{base.config.base.weights[:16]}"
        by = ""
        if rag.skill is not None:
            by = f"-{model.parts.skill(rag.skill).fingerprint[:16]}-beams{rag.beams}"
        files = {
            CHECKPOINT: f"{name}{by}-{CHECKPOINT}",
            PLAIN_BASE: f"{name}-{PLAIN_BASE}",
            MINILM: f"{name}{other}-{MINILM}",
        }
        said = {
            system: _answers(system, answerer, data, folder / files[system], show_progress)
            for system, answerer in answerers.items()
        }
    return _measures(said, data, "the same LLM" if base is model else "the LLM before training")


class Single:
    """`GemRAG`, and the plain base after the passage that it found: it is found and ranked once.

    Args:
        rag: Finds and answers.
        found: The passage of each question.
    """

    def __init__(self, rag: GemRAG, found: KeptAnswers) -> None:
        self._rag = rag
        self._found = found

    def answer(self, question: str) -> str:
        """What `GemRAG` answers."""
        answer = self._rag.answer(question, max_new_tokens=LONGEST_ANSWER)
        self._found[question] = answer.citations[0].text
        return answer.answer

    def plain_answer(self, question: str) -> str:
        """What it would answer without a skill: the base's words after the same passage."""
        if question not in self._found:
            self._found[question] = self._rag.retrieve(question, k=1)[0].text
        return _words_after(self._rag.model, self._found[question], question)


class TwoModels:
    """The usual stack: all-MiniLM-L6-v2 finds one chunk, an LLM that was not adapted answers.

    Args:
        base: The LLM, its adapter left out.
        peer: The embedder's vectors.
        chunks: What is searched.
    """

    def __init__(self, base: GemModel, peer: KeptVectors, chunks: Sequence[str]) -> None:
        self._llm = plain(base)
        self._peer = peer
        self._chunks = chunks
        self._vectors = peer.embed(chunks)

    def answer(self, question: str) -> str:
        """The LLM's words after the chunk nearest to the question."""
        nearest = int((self._vectors @ self._peer.embed([question], "query")[0]).argmax())
        return _words_after(self._llm, self._chunks[nearest], question)


def _words_after(model: GemModel, passage: str, question: str) -> str:
    """The plain base's answer to a question, one passage before it."""
    (reading,) = model.read([passage], show_progress=False)
    asked = ASK.format(question=question)
    return model.generate(asked, after=reading, max_new_tokens=LONGEST_ANSWER).text.strip()


def plain(model: GemModel) -> GemModel:
    """The same base weights without the adapter, to generate with."""
    if model.config.adapter_scope == "tokens":
        return model
    config = replace(model.config, adapter_scope="tokens", adapter=AdapterConfig(rank=0))
    return GemModel(seal(Parts(Base(model.base.model), model.codec, config)))


def _answers(
    system: str,
    answer: Callable[[str], str],
    data: Retrieval,
    file: Path,
    show_progress: bool | None,
) -> list[str]:
    """An answer to each question, neighbouring paragraphs' one after the other (see `finding`)."""
    kept = KeptAnswers(file.with_suffix(".jsonl"))
    order = np.argsort(data.gold, kind="stable")
    with progress(f"{system}: answering", len(order), show_progress) as advance:
        for i in order:
            question = data.questions[i].text
            if question not in kept:
                kept[question] = answer(question)
            advance(1)
    return [kept[question.text] for question in data.questions]


def _measures(said: dict[str, list[str]], data: Retrieval, llm: str) -> list[Measure]:
    note = f"all-MiniLM-L6-v2: the two-model stack, with {llm} and the same prompt"
    measures = []
    for metric, function in METRICS.items():
        samples = {
            system: Sample.mean(
                [best(function, a, q) for a, q in zip(answers, data.questions, strict=True)],
                data.gold,
            )
            for system, answers in said.items()
        }
        task = f"SQuAD dev answered end to end, {len(data.paragraphs):,} paragraphs"
        measures.append(measure("rag", task, metric, samples, against=MINILM, note=note))
    return measures


# SQuAD's metrics


def normalised(text: str) -> list[str]:
    """Words without letter case, punctuation and articles (SQuAD's convention)."""
    text = re.sub(f"[{re.escape(string.punctuation)}]", "", text.lower())
    return re.sub(r"\b(a|an|the)\b", " ", text).split()


def exact(answer: str, gold: str) -> float:
    """1 if both are the same words."""
    return float(normalised(answer) == normalised(gold))


def f1(answer: str, gold: str) -> float:
    """Harmonic mean of precision and recall of the words."""
    said, right = normalised(answer), normalised(gold)
    common = (Counter(said) & Counter(right)).total()
    if not said or not right:
        return float(said == right)
    return 2 * common / (len(said) + len(right))


def contains(answer: str, gold: str) -> float:
    """1 if the gold words stand in the answer, one after the other."""
    return float(f" {' '.join(normalised(gold))} " in f" {' '.join(normalised(answer))} ")


def best(metric: Callable[[str, str], float], answer: str, question: Question) -> float:
    """The metric's best over the accepted answers."""
    return max((metric(answer, gold) for gold in question.answers), default=0.0)


METRICS: dict[str, Callable[[str, str], float]] = {
    "exact match": exact,
    "F1": f1,
    "answer contains the gold one": contains,
}
