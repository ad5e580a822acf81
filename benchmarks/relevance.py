"""Where a threshold on rank scores lies: those of passages that answer and of those that do not.

Each question's own passage, and the best of the others that are found beside it. Chosen on BoolQ's
dev part; SQuAD dev only reports. With ``--wordy`` the questions stand among other words, as people
write them: the share whose own passage still passes.
"""

from __future__ import annotations

import random
from collections.abc import Sequence

import numpy as np
from common import arguments, show

from gem_rag.index import GemIndex
from gem_rag.model import GemModel
from gem_rag.rag.question import core
from gem_rag.rag.relevance import is_relevant, known_before
from gem_rag.rag.retrieve import CANDIDATES, Retriever
from gem_rag.store import ReadingStore
from gem_rag_train.data.sources import boolq
from gem_rag_train.evaluation import KEPT_BYTES, first_tokens, squad_sample

KEEP = 0.97
AROUND = (
    "Good morning, my train arrives at noon and I was wondering, {}",
    "Hi there, I am new here and my colleague could not tell me this. {} Thanks a lot in advance!",
    "Sorry to bother you again, we talked on the phone last Tuesday about my order. {}",
    "I have been reading for hours and my eyes hurt, so a short answer is fine: {}",
)


class Passages:
    """Passages in an index, with the model that made it.

    Args:
        model: The checkpoint.
        texts: Each read to 256 tokens.
    """

    def __init__(self, model: GemModel, texts: Sequence[str]) -> None:
        store = ReadingStore(model, memory_bytes=KEPT_BYTES)
        texts = [first_tokens(model, text, 256) for text in texts]
        index = GemIndex(fingerprint=model.fingerprint)
        index.add(texts, store.embed(texts), ids=[str(i) for i in range(len(texts))])
        self._retriever = Retriever(model, index, store)
        self._weights = model.config.relevance
        self._least = model.config.answerable.threshold

    def scores(self, question: str, gold: int) -> tuple[float, float, float, float]:
        """Its own passage's rank score (-inf where it is not found), and the best other's; the same
        of likelihood alone."""
        found = self._retriever.find(question, k=None, candidates=CANDIDATES, rank=True).citations
        ranked = {c.id: c.rank_score or 0.0 for c in found}
        likely = {
            c.id: ranked[c.id] - known_before(c.score, c.word_score, self._weights) for c in found
        }
        own, own_likely = (known.pop(str(gold), -np.inf) for known in (ranked, likely))
        return own, max(ranked.values()), own_likely, max(likely.values())

    def kept(self, question: str, gold: int) -> bool:
        """Whether the answer would be from its own passage, as `GemRAG` decides."""
        for asked in (question, core(question)):
            if asked is None:
                return False
            (best, *_) = self._retriever.find(
                asked, k=1, candidates=CANDIDATES, rank=True
            ).citations
            if is_relevant(best, self._least):
                return best.id == str(gold)
        return False


def turned_away(own: np.ndarray, others: np.ndarray, keep: float) -> tuple[float, float]:
    """The threshold that keeps so many of the right ones, and the share of others below it."""
    threshold = float(np.quantile(own, 1 - keep))
    return threshold, float((others < threshold).mean())


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--questions", type=int, default=300)
    parser.add_argument("--passages", type=int, default=300)
    parser.add_argument("--wordy", action="store_true")
    options = parser.parse_args()
    model = GemModel.from_pretrained()
    used = model.config.relevance.threshold
    report: dict[str, object] = {"threshold in use": used}
    rows = list({p.body: p for p in boolq("dev") if p.question}.values())
    rows = random.Random(0).sample(rows, options.passages)
    paragraphs, questions = squad_sample(options.passages)
    sets = {
        "BoolQ dev": ([p.body for p in rows], [(p.question, i) for i, p in enumerate(rows)]),
        "SQuAD dev": (paragraphs, [(q.text, q.paragraph) for q in questions]),
    }
    for name, (texts, asked) in sets.items():
        passages, asked = Passages(model, texts), asked[: options.questions]
        own, others, own_likely, others_likely = np.array([passages.scores(*a) for a in asked]).T
        at, away = turned_away(own, others, KEEP)
        _, by_likelihood = turned_away(own_likely, others_likely, KEEP)
        report[f"{name}: threshold that keeps {KEEP:.0%}"] = at
        report[f"{name}: others turned away there"] = away
        report[f"{name}: by likelihood alone, at the same rate"] = by_likelihood
        report[f"{name}: kept at the threshold in use"] = float((own >= used).mean())
        report[f"{name}: others turned away at the threshold in use"] = float(
            (others < used).mean()
        )
        if options.wordy:
            plain = np.mean([passages.kept(q, gold) for q, gold in asked])
            for number, around in enumerate(AROUND, 1):
                wordy = [passages.kept(around.format(q), gold) for q, gold in asked]
                report[f"{name}: right passage, wordy {number} / plain"] = float(
                    np.mean(wordy) / plain
                )
    show(report, options.json)


if __name__ == "__main__":
    main()
