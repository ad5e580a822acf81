"""Where the relevance threshold lies: the calibrated ranking score of passages that answer and not.

Chosen on BoolQ's dev part (each question with its own passage and with the best-ranked of ten
others found by embedding), then reported on SQuAD dev as it is.
"""

from __future__ import annotations

import random

import numpy as np
from common import arguments, show

from gem_rag.model import GemModel
from gem_rag.rag import RELEVANCE_THRESHOLD
from gem_rag.store import ReadingStore
from gem_rag_train.data.sources import boolq
from gem_rag_train.evaluation import KEPT_BYTES, first_tokens, squad_sample


def scores(model, questions, passages, gold) -> tuple[np.ndarray, np.ndarray]:
    """Of each question: its own passage's score, and the best of the ten nearest others'."""
    store = ReadingStore(model, memory_bytes=KEPT_BYTES)
    passages = [first_tokens(model, passage, 256) for passage in passages]
    documents = store.embed(passages)
    queries = model.embed_queries(questions)
    similarity = queries @ documents.T
    similarity[np.arange(len(gold)), gold] = -np.inf
    own, others = [], []
    for question, row, right in zip(
        questions, np.argsort(-similarity, 1)[:, :10], gold, strict=True
    ):
        ranked = store.rank(question, [passages[right], *(passages[i] for i in row)])
        by_index = {r.index: r.score for r in ranked}
        own.append(by_index.pop(0))
        others.append(max(by_index.values()))
    return np.array(own), np.array(others)


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--questions", type=int, default=60)
    parser.add_argument("--passages", type=int, default=300)
    options = parser.parse_args()
    model = GemModel.from_pretrained(dtype="float32")
    rows = [p for p in boolq("dev") if p.question]
    rows = random.Random(0).sample(list({p.body: p for p in rows}.values()), options.passages)
    some = range(options.questions)
    own, others = scores(
        model, [rows[i].question for i in some], [p.body for p in rows], list(some)
    )
    grid = np.arange(-0.2, 2.0, 0.05)
    accuracy = [((own >= t).mean() + (others < t).mean()) / 2 for t in grid]
    paragraphs, questions = squad_sample(options.passages)
    asked = questions[: options.questions]
    squad_own, squad_others = scores(
        model, [q.text for q in asked], paragraphs, [q.paragraph for q in asked]
    )
    t = RELEVANCE_THRESHOLD
    show(
        {
            "BoolQ dev: best threshold": float(grid[int(np.argmax(accuracy))]),
            "BoolQ dev: balanced accuracy there": float(max(accuracy)),
            "threshold in use": t,
            "BoolQ dev: answering passages kept": float((own >= t).mean()),
            "BoolQ dev: others turned away": float((others < t).mean()),
            "SQuAD dev: answering passages kept": float((squad_own >= t).mean()),
            "SQuAD dev: others turned away": float((squad_others < t).mean()),
        },
        options.json,
    )


if __name__ == "__main__":
    main()
