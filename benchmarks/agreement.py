"""A checkpoint on held-out texts: BoolQ's questions, and how like the teacher sentences lie.

Needs the extra ``train``. Nothing here is trained on; recipes may be chosen by it.
"""

from __future__ import annotations

import warnings
from random import Random

import numpy as np
from common import arguments, show
from scipy.stats import spearmanr

from gem_rag.model import GemModel
from gem_rag_train.data import SHORT, sentences
from gem_rag_train.evaluation import retrieval
from gem_rag_train.heldout import questions
from gem_rag_train.sources import boolq, web
from gem_rag_train.teacher import Teacher

RELATED = 0.25  # by the teacher's cosine


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
        teacher = Teacher("all-MiniLM-L6-v2")
        self._texts = {"sentences": held_out_sentences(), "short": held_out_short()}
        self._wanted = {n: teacher.embed(texts).numpy() for n, texts in self._texts.items()}

    def __call__(self, model: GemModel, max_length: int | None = None) -> dict[str, float]:
        return {
            f"like the teacher, {name}": likeness(
                model.embed_documents(texts, max_length=max_length, show_progress=False),
                self._wanted[name],
            )
            for name, texts in self._texts.items()
        }


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("checkpoint", nargs="?", help="as for GemModel.from_pretrained")
    parser.add_argument("--questions", type=int, default=150, help="of BoolQ's dev part")
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    model = GemModel.from_pretrained(options.checkpoint)
    pairs = questions(options.questions)
    asked = model.embed_queries([p.first for p in pairs])
    passages = model.embed_documents([p.second for p in pairs], max_length=128)
    scores, _ = retrieval(passages, asked, range(len(pairs)))
    report = {"BoolQ dev, nDCG@10": scores.ndcg10, "BoolQ dev, recall@1": scores.recall1}
    show(report | Likeness()(model), options.json)


if __name__ == "__main__":
    main()
