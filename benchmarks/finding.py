"""What a question costs over kept readings: words beside vectors and all that is known, beside
vectors and likelihood alone, in one run on the same questions."""

from __future__ import annotations

import statistics
import time

from common import arguments, show

from gem_rag.documents import Document
from gem_rag.index import GemIndex
from gem_rag.model import GemModel
from gem_rag.rag import GemRAG
from gem_rag.rag.retrieve import Candidate, Choice, Retriever
from gem_rag.store import ReadingStore
from gem_rag_train.evaluation import KEPT_BYTES, squad_sample


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--paragraphs", type=int, default=300)
    parser.add_argument("--questions", type=int, default=100)
    parser.add_argument("--dtype", default="auto")
    options = parser.parse_args()
    model = GemModel.from_pretrained(dtype=options.dtype)
    paragraphs, questions = squad_sample(options.paragraphs)
    index = GemIndex(fingerprint=model.fingerprint)
    store = ReadingStore(model, memory_bytes=KEPT_BYTES)
    rag = GemRAG(model, index, store=store)
    rag.add([Document(text, f"{i:05d}") for i, text in enumerate(paragraphs)])
    retriever = Retriever(model, index, store)

    def by_vectors(question: str) -> str:
        """Ten best vectors, ranked by likelihood: how it was before words were searched."""
        hits = retriever.search(question, 10, "vector", None)
        choice = Choice(k=1, rank=store.rank, candidates=10)
        return choice.best(question, [Candidate(h, h.words, h.score) for h in hits])[0].item.id

    def by_all(question: str) -> str:
        return rag.retrieve(question, k=1)[0].id

    def found(question: str) -> str:
        return rag.retrieve(question, k=1, rank=False)[0].id

    ways = {"ten best vectors, ranked": by_vectors, "hybrid, ranked": by_all, "hybrid": found}
    times: dict[str, list[float]] = {way: [] for way in ways}
    asked = [q.text for q in questions[: options.questions]]
    for warm in (True, False):
        for question in asked:
            for way, ask in ways.items():  # side by side, so that a busy moment meets all
                start = time.perf_counter()
                ask(question)
                if not warm:
                    times[way].append(time.perf_counter() - start)
    medians = {way: statistics.median(taken) for way, taken in times.items()}
    first, second, _ = medians.values()
    show(
        {
            "dtype": str(model.base.dtype),
            **{f"{way}: seconds a question": taken for way, taken in medians.items()},
            "hybrid, ranked / ten best vectors, ranked": second / first,
        },
        options.json,
    )


if __name__ == "__main__":
    main()
