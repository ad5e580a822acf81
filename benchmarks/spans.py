"""Span vectors from one reading of a document against reading each span alone.

A document is five SQuAD dev paragraphs in a row; each question looks for its paragraph among all,
the paragraphs embedded once from their document's reading (`Reading.embed(spans)`), once alone.
"""

from __future__ import annotations

import numpy as np
from common import arguments, show

from gem_rag.model import GemModel
from gem_rag_train.evaluation import retrieval, squad_sample


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--paragraphs", type=int, default=150)
    options = parser.parse_args()
    model = GemModel.from_pretrained(dtype="float32")
    paragraphs, questions = squad_sample(options.paragraphs)
    queries = model.embed_queries([q.text for q in questions])
    gold = [q.paragraph for q in questions]
    alone = model.embed_documents(paragraphs)
    vectors = []
    for start in range(0, len(paragraphs), 5):
        group = paragraphs[start : start + 5]
        spans, at = [], 0
        for paragraph in group:
            spans.append((at, at + len(paragraph)))
            at += len(paragraph) + 2
        (reading,) = model.read(["\n\n".join(group)], max_length=4000)
        vectors.append(reading.embed(spans))
    of_spans, _ = retrieval(np.concatenate(vectors), queries, gold)
    of_alone, _ = retrieval(alone, queries, gold)
    show(
        {
            "nDCG@10, each paragraph read alone": of_alone.ndcg10,
            "nDCG@10, spans of one reading": of_spans.ndcg10,
            "ratio": of_spans.ndcg10 / of_alone.ndcg10,
        },
        options.json,
    )


if __name__ == "__main__":
    main()
