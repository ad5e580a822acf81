"""A checkpoint beside what it was before training: text length, and where attention goes.

Needs the extra ``train``. Wikipedia that the bundled recipe does not train on: the embedding of an
article's start beside that of all that is read of it (1,024 tokens); a text restored from the
special tokens alone; how the special tokens spread their attention over the text, where an
encoder's mean pooling looks at every token alike.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from common import arguments, show
from torch import Tensor

from gem_rag.model import GemModel
from gem_rag_train.data.sources import wikipedia
from gem_rag_train.loop.start import untrained
from gem_rag_train.monitor.checks import attention_weights, bottleneck, stability
from gem_rag_train.monitor.heldout import CHECKED_TEXTS, LONG_TEXTS, articles, longest, questions
from gem_rag_train.recipes.config import TrainConfig


def checks(model: GemModel) -> dict[str, float]:
    report: dict[str, float] = {}
    whole = articles(replace(p, title=p.title.partition(": ")[0]) for p in wikipedia())
    for length, found in stability(model, longest(whole, LONG_TEXTS)).items():
        report[f"first {length} tokens, cosine to the whole"] = found.cosine
        report[f"first {length} tokens, whole found first of {found.texts}"] = found.recall1
    passages = [p.second for p in questions(CHECKED_TEXTS)]
    restored = bottleneck(model, passages, "reconstruction")
    special = restored.attention.special
    report["attention of the suffix on the specials, mean of layers"] = sum(special) / len(special)
    report["the same if it were even"] = restored.attention.even
    report["tokens restored"] = restored.accuracy
    return report | spread(model, passages)


def spread(model: GemModel, texts: list[str]) -> dict[str, float]:
    """Where the special tokens look, mean over texts, layers, heads and special tokens."""
    before = len(model.config.preamble_ids)
    on_text: list[Tensor] = []
    evenness: list[Tensor] = []
    for reading in model.read(texts, show_progress=False):
        text = slice(before, before + len(reading.offsets))

        def look(weights: Tensor, text: slice = text) -> None:
            mine = weights[:, :, -model.config.num_special_tokens :, text].double()
            share = mine.sum(-1)
            mine = mine / share[..., None]
            entropy = -(mine * mine.clamp(min=1e-12).log()).sum(-1)
            on_text.append(share.mean())
            evenness.append((entropy.exp() / mine.shape[-1]).mean())

        with attention_weights(model.base, look):
            reading.embed()
    return {
        "special tokens' attention on the text": float(torch.stack(on_text).mean()),
        "share of the text it is spread over (mean pooling: 1)": float(
            torch.stack(evenness).mean()
        ),
    }


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("checkpoint", nargs="?", help="as for GemModel.from_pretrained")
    options = parser.parse_args()
    model = GemModel.from_pretrained(options.checkpoint, dtype="float32")
    before = untrained(TrainConfig.from_recipe("default"))
    both = {"before": checks(before), "after": checks(model)}
    rows = {f"{name}, {when}": both[when][name] for name in both["after"] for when in both}
    show(rows, options.json)


if __name__ == "__main__":
    main()
