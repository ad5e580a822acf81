"""Embeddings measured: STS, retrieval, classification by a linear probe, clustering by k-means."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from gem_rag_train.evaluation.kept import KeptVectors
from gem_rag_train.evaluation.measures import Measure, measure
from gem_rag_train.evaluation.sets import Labelled, Retrieval
from gem_rag_train.evaluation.statistics import Sample
from gem_rag_train.evaluation.systems import MINILM

KEPT_BYTES = 4 << 30  # of readings, while ranking
AT_ONCE = 1024  # queries whose similarities are held at a time
TOP = 10
ITERATIONS = 1000


@dataclass(frozen=True)
class RetrievalScores:
    """Means over questions: nDCG@10 and recall@1 by embedding."""

    ndcg10: float
    recall1: float


# Similarity


def sts(systems: Sequence[KeptVectors], rows: Sequence[tuple[str, str, float]]) -> list[Measure]:
    """Spearman correlation of cosine similarities with people's scores."""
    gold = np.array([score for _, _, score in rows])
    samples = {}
    for system in systems:
        first = system.embed([text for text, _, _ in rows])
        second = system.embed([text for _, text, _ in rows])
        samples[system.name] = Sample("spearman", ((first * second).sum(1), gold))
    return [measure("sts", "STS-B dev", "Spearman", samples, against=MINILM)]


# Retrieval


def place_of(similarity: np.ndarray, gold: Sequence[int]) -> np.ndarray:
    """Where each query's right document stands among ``[q, n]``: ``[q]``, 0 is first.

    Documents as near as the right one stand before it: who finds all alike finds nothing.
    """
    right = similarity[np.arange(len(similarity)), list(gold)]
    found: np.ndarray = (similarity >= right[:, None]).sum(1) - 1
    return found


def places(
    documents: np.ndarray, queries: np.ndarray, gold: Sequence[int]
) -> tuple[np.ndarray, np.ndarray]:
    """Where each query's right document stands by cosine similarity, 0 is first.

    Args:
        documents: float32 ``[n, d]``.
        queries: float32 ``[q, d]``.
        gold: Index of each query's document.

    Returns:
        The places ``[q]``, and each query's ten best documents ``[q, 10]``.
    """
    place, top = [], []
    for start in range(0, len(queries), AT_ONCE):
        similarity = queries[start : start + AT_ONCE] @ documents.T  # (q, n)
        place.append(place_of(similarity, gold[start : start + AT_ONCE]))
        top.append(np.argsort(-similarity, axis=1)[:, :TOP])
    return np.concatenate(place), np.concatenate(top)


def gains(place: np.ndarray) -> np.ndarray:
    """nDCG@10 of each query with one right document."""
    return np.where(place < TOP, 1 / np.log2(place + 2.0), 0.0)


def retrieval(
    documents: np.ndarray, queries: np.ndarray, gold: Sequence[int]
) -> tuple[RetrievalScores, np.ndarray]:
    """`places` as mean scores, and each query's ten best documents ``[q, 10]``."""
    place, top = places(documents, queries, gold)
    return RetrievalScores(float(gains(place).mean()), float((place == 0).mean())), top


def find(part: str, name: str, systems: Sequence[KeptVectors], data: Retrieval) -> list[Measure]:
    """Question to paragraph by embedding alone."""
    ndcg, first = {}, {}
    for system in systems:
        place, _ = _found(system, data)
        ndcg[system.name] = Sample.mean(gains(place), data.gold)
        first[system.name] = Sample.mean(place == 0, data.gold)
    task = f"{name}: question to paragraph, {len(data.paragraphs):,} paragraphs"
    return [
        measure(part, task, "nDCG@10", ndcg, against=MINILM),
        measure(part, task, "recall@1", first, against=MINILM),
    ]


def _found(system: KeptVectors, data: Retrieval) -> tuple[np.ndarray, np.ndarray]:
    queries = system.embed([q.text for q in data.questions], "query")
    return places(system.embed(data.paragraphs), queries, data.gold)


# Classification and clustering


def classify(systems: Sequence[KeptVectors], data: Labelled, seed: int) -> list[Measure]:
    """Accuracy of a logistic regression on the vectors, trained on one half, on the other."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import train_test_split

    train, test = train_test_split(
        range(len(data.texts)), test_size=0.5, random_state=seed, stratify=data.labels
    )
    labels = np.array(data.labels)
    samples = {}
    for system in systems:
        vectors = system.embed(data.texts)
        probe = LogisticRegression(max_iter=ITERATIONS, C=10.0).fit(vectors[train], labels[train])
        samples[system.name] = Sample.mean(probe.predict(vectors[test]) == labels[test])
    task = f"{data.name}: linear probe, {len(set(data.labels))} classes"
    return [measure("classification", task, "accuracy", samples, against=MINILM)]


def cluster(systems: Sequence[KeptVectors], data: Labelled, seed: int) -> list[Measure]:
    """V-measure of k-means with as many clusters as there are labels."""
    from sklearn.cluster import KMeans

    names, gold = np.unique(data.labels, return_inverse=True)
    samples = {}
    for system in systems:
        means = KMeans(len(names), n_init=10, random_state=seed)
        samples[system.name] = Sample(
            "v_measure", (gold, means.fit_predict(system.embed(data.texts)))
        )
    task = f"{data.name}: k-means, {len(names)} clusters"
    return [measure("clustering", task, "v-measure", samples, against=MINILM)]
