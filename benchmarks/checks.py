"""A checkpoint beside what it was before training: text length, and where a suffix looks.

Needs the extra ``train``. Held-out Wikipedia: the embedding of an article's start beside the whole
article's, and a text restored from the special tokens alone.
"""

from __future__ import annotations

from pathlib import Path

from common import arguments, show

from gem_rag.model import GemModel
from gem_rag_train.checks import bottleneck, stability
from gem_rag_train.config import TrainConfig
from gem_rag_train.heldout import LONG_TEXTS, articles, longest, questions
from gem_rag_train.start import untrained

TEXTS = 16


def checks(model: GemModel) -> dict[str, float]:
    report: dict[str, float] = {}
    for length, found in stability(model, longest(articles(), LONG_TEXTS)).items():
        report[f"first {length} tokens, cosine to the whole"] = found.cosine
        report[f"first {length} tokens, whole found first of {found.texts}"] = found.recall1
    restored = bottleneck(model, [p.second for p in questions(TEXTS)], "reconstruction")
    special = restored.attention.special
    report["attention of the suffix on the specials, mean of layers"] = sum(special) / len(special)
    report["the same if it were even"] = restored.attention.even
    report["tokens restored"] = restored.accuracy
    return report


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("checkpoint", type=Path, nargs="?", help="a folder; default: the bundled")
    options = parser.parse_args()
    model = GemModel.from_pretrained(options.checkpoint)
    before = untrained(TrainConfig.from_recipe("default"))
    both = {"before": checks(before), "after": checks(model)}
    rows = {f"{name}, {when}": both[when][name] for name in both["after"] for when in both}
    show(rows, options.json)


if __name__ == "__main__":
    main()
