"""What word score and cosine count for beside likelihood, chosen on held-out questions.

On BoolQ's dev part and the odd NarrativeQA stories and QuAC dialogues; SQuAD is not looked at. The
weights maximise the likelihood of the right passage among a question's candidates (softmax), the
threshold keeps 97 % of the right passages. ``--write FOLDER`` puts them into a checkpoint's config.
What was ranked is kept in ``--kept``, so that an interrupted run goes on.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
from common import arguments, show
from scipy.optimize import minimize

from gem_rag.config import CONFIG_FILE, GemConfig, RelevanceWeights
from gem_rag.files import atomic_write
from gem_rag.index import GemIndex
from gem_rag.index.fusion import COSINE_SHARE
from gem_rag.model import GemModel
from gem_rag.rag.relevance import explained
from gem_rag.rag.retrieve import CANDIDATES, Retriever
from gem_rag.store import ReadingStore
from gem_rag_train.evaluation import KEPT_BYTES
from gem_rag_train.evaluation.choosing import boolq_dev, narrative_odd, quac_odd
from gem_rag_train.evaluation.kept import KeptAnswers, digest
from gem_rag_train.evaluation.report import shown
from gem_rag_train.evaluation.sets import Retrieval
from gem_rag_train.evaluation.statistics import Sample

KEEP = 0.97
Candidates = tuple[
    np.ndarray, np.ndarray
]  # float [n, 3]: explained, words, cosine; bool [n]: right


def candidates(model: GemModel, data: Retrieval, kept: KeptAnswers) -> list[Candidates]:
    """Of each question what is known of its candidates."""
    store = ReadingStore(model, memory_bytes=KEPT_BYTES)
    keys = [digest(model.fingerprint, str(model.base.dtype), q.text) for q in data.questions]
    with GemIndex(fingerprint=model.fingerprint) as index:
        if any(key not in kept for key in keys):
            index.add(data.paragraphs, store.embed(data.paragraphs))
        retriever = Retriever(model, index, store)
        for key, question in zip(keys, data.questions, strict=True):
            if key not in kept:
                hits = retriever.search(question.text, CANDIDATES, "hybrid", None)
                ranked = store.rank(question.text, [hit.text for hit in hits])
                likely = {place.index: explained(place) for place in ranked}
                right = data.paragraphs[question.paragraph]
                kept[key] = [
                    [likely[i], hit.word_score or 0.0, hit.score or 0.0, hit.text == right]
                    for i, hit in enumerate(hits)
                ]
    tables = [np.array(kept[key]) for key in keys]
    return [(table[:, :3], table[:, 3] > 0) for table in tables]


def loss(weights: np.ndarray, sets: list[list[Candidates]]) -> float:
    """Mean negative log-likelihood of the right passage, each set counting alike.

    The first of the weights is the scale of all, which only the softmax needs.
    """
    scale, *rest = weights
    means = []
    for questions in sets:
        of_set = []
        for known, right in questions:
            if right.any():
                scores = scale * (known @ np.array([1.0, *rest]))
                scores -= scores.max()
                of_set.append(np.log(np.exp(scores).sum()) - np.log(np.exp(scores[right]).sum()))
        means.append(np.mean(of_set))
    return float(np.mean(means))


def first(questions: list[Candidates], weights: tuple[float, float, float]) -> Sample:
    """Whether each question's best candidate is the right one."""
    best = [right[(known @ np.array(weights)).argmax()] for known, right in questions]
    return Sample.mean(np.array(best))


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--questions", type=int, default=500, help="of each set")
    parser.add_argument("--kept", type=Path, default=Path("weights-kept"))
    parser.add_argument("--write", type=Path, help="a checkpoint folder")
    options = parser.parse_args()
    model = GemModel.from_pretrained()
    data = {
        "BoolQ dev": boolq_dev(),
        "NarrativeQA odd": narrative_odd(model),
        "QuAC odd": quac_odd(model),
    }
    options.kept.mkdir(parents=True, exist_ok=True)
    sets = {
        name: candidates(
            model,
            of_set.sample(None, options.questions, seed=0),
            KeptAnswers(options.kept / f"{digest(name)}.jsonl"),
        )
        for name, of_set in data.items()
    }
    start = np.array([10.0, 1.0, 1.0])
    fit = minimize(loss, start, args=(list(sets.values()),), method="Nelder-Mead")
    words, cosine = (round(float(w), 2) for w in fit.x[1:])
    chosen = (1.0, words, cosine)
    own = [
        (known @ np.array(chosen))[right].max()
        for questions in sets.values()
        for known, right in questions
        if right.any()
    ]
    threshold = round(float(np.quantile(own, 1 - KEEP)), 2)
    report: dict[str, object] = {"words": words, "cosine": cosine, "threshold": threshold}
    for name, questions in sets.items():
        ranked = first(questions, chosen)
        others = {"likelihood": (1.0, 0, 0), "both": (0, 1 - COSINE_SHARE, COSINE_SHARE)}
        report[f"{name}: recall@1"] = shown(ranked.score())
        for other, weights in others.items():
            report[f"{name}: over {other} alone"] = shown(
                ranked.minus(first(questions, weights)), "+"
            )
    if options.write:
        config = GemConfig.from_folder(options.write)
        weights = RelevanceWeights(words, cosine, threshold)
        config = dataclasses.replace(config, relevance=weights)
        atomic_write(options.write / CONFIG_FILE, config.to_json())
    show(report, options.json)


if __name__ == "__main__":
    main()
