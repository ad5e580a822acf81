"""A checkpoint on held-out texts: BoolQ's questions, and how like the teacher sentences lie.

Needs the extra ``train``. Nothing here is trained on; recipes may be chosen by it.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from random import Random

import numpy as np
from common import arguments, show
from scipy.stats import spearmanr

from gem_rag.model import GemModel
from gem_rag_train.data.pairs import SHORT, Pair, sentences
from gem_rag_train.data.sources import boolq, web
from gem_rag_train.evaluation import retrieval
from gem_rag_train.monitor.heldout import questions
from gem_rag_train.objectives.teacher import Teacher

RELATED = 0.25  # by the teacher's cosine
CUT = 128  # tokens of a passage


def held_out_sentences(count: int = 400) -> list[str]:
    found: list[str] = []
    for passage in Random(0).sample(boolq("dev"), 120):
        found += [s for s in sentences(passage.body) if 5 < len(s.split()) < 40][:4]
    return list(dict.fromkeys(found))[:count]


def held_out_short(count: int = 400) -> list[str]:
    """Sentences of few words from web pages."""
    found = [s for page in web("dev") for s in sentences(page.body) if len(s.split()) in SHORT]
    return list(dict.fromkeys(found))[:count]


def likeness(mine: np.ndarray, theirs: np.ndarray) -> float:
    """Rank correlation of two embedders' cosines, over pairs that the second one finds related."""
    above = np.triu_indices(len(mine), 1)
    cosines, wanted = (mine @ mine.T)[above], (theirs @ theirs.T)[above]
    related = wanted > RELATED
    return float(spearmanr(cosines[related], wanted[related]).statistic)


class Likeness:
    """How like the teacher a model finds held-out texts, by kind of text."""

    def __init__(self) -> None:
        self.teacher = Teacher("all-MiniLM-L6-v2")
        self._texts = {"sentences": held_out_sentences(), "short": held_out_short()}
        self._wanted = {n: self.teacher.embed(texts).numpy() for n, texts in self._texts.items()}

    def __call__(self, model: GemModel, max_length: int | None = None) -> dict[str, float]:
        return {
            f"like the teacher, {name}": likeness(
                model.embed_documents(texts, max_length=max_length, show_progress=False),
                self._wanted[name],
            )
            for name, texts in self._texts.items()
        }


def among(pairs: Sequence[Pair], others: int) -> list[str]:
    """The pairs' passages, then others of BoolQ's train part that may be mistaken for them."""
    own = [p.second for p in pairs]
    rest = sorted({p.body for p in boolq("train")} - set(own))
    return own + Random(0).sample(rest, others)


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("checkpoint", nargs="?", help="as for GemModel.from_pretrained")
    parser.add_argument("--questions", type=int, default=150, help="of BoolQ's dev part")
    parser.add_argument("--among", type=int, default=0, help="so many more passages")
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    model = GemModel.from_pretrained(options.checkpoint, dtype="float32")
    pairs = questions(options.questions)
    asked, passages = [p.first for p in pairs], among(pairs, options.among)
    likeness = Likeness()
    vectors = {
        "": (model.embed_queries(asked), model.embed_documents(passages, max_length=CUT)),
        ", the teacher": tuple(likeness.teacher.embed(t).numpy() for t in (asked, passages)),
    }
    report = {}
    for name, (queries, documents) in vectors.items():
        scores, _ = retrieval(documents, queries, range(len(pairs)))
        report[f"BoolQ dev, nDCG@10{name}"] = scores.ndcg10
        report[f"BoolQ dev, recall@1{name}"] = scores.recall1
    show(report | likeness(model), options.json)


if __name__ == "__main__":
    main()
