"""What each number format costs in quality, beside float32 on the same items.

One model is loaded at a time. Needs the extra ``eval``::

    python benchmarks/formats.py --stsb stsb-en-dev.csv
    python benchmarks/formats.py --kernels     # rows from which floats are the faster
"""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Sequence
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import torch
from common import arguments, show
from torch import Tensor

from gem_rag.compute.formats import FORMATS
from gem_rag.compute.kv import empty_cache
from gem_rag.compute.linear import Packed
from gem_rag.compute.quantised import KINDS, Codes
from gem_rag.errors import OptionError
from gem_rag.model import GemModel
from gem_rag_train.evaluation import sets
from gem_rag_train.evaluation.answers import best, contains
from gem_rag_train.evaluation.embedding import gains, places
from gem_rag_train.evaluation.sets import Retrieval
from gem_rag_train.evaluation.statistics import Sample

EXACT = "float32"
ALIKE = 0.999  # cosine from which vectors of two formats share an index
PERPLEXITY_TEXTS, PERPLEXITY_TOKENS = 60, 256
TOP = 10
# Layers ``(out, in)`` of the default model: of its 30 blocks, and its output head.
LAYERS = {
    "blocks": ((960, 576), (576, 576), (3072, 576), (576, 1536)) * 30,
    "head": ((49152, 576),),
}
ROWS = (1, 2, 4, 5, 8, 9, 12, 16, 24, 32, 48, 64, 128, 256)


class Items:
    """What is asked of every format."""

    def __init__(self, questions: int, stsb: Path | None) -> None:
        self.data = Retrieval(*sets.squad()).sample(questions, questions, 1)
        self.shifted = [
            text
            for name in sets.SHIFTED
            for text in Retrieval(*sets.squad(name)).sample(questions // 4, 1, 1).paragraphs
        ]
        self.rows = [] if stsb is None else sets.load_stsb(stsb)
        self.passages = sets.held_out_passages()[:PERPLEXITY_TEXTS]


def measured(model: GemModel, items: Items, answers: int) -> dict[str, Any]:
    """Vectors of all texts, and a `Sample` for each metric."""
    data = items.data
    documents = model.embed_documents(data.paragraphs + items.shifted, show_progress=False)
    queries = model.embed_queries([q.text for q in data.questions], show_progress=False)
    place, top = places(documents[: len(data.paragraphs)], queries, data.gold)
    readings = model.read(data.paragraphs, show_progress=False)
    ranked = [
        near[model.rank(q.text, [readings[i] for i in near])[0].index] == q.paragraph
        for q, near in zip(data.questions, top, strict=True)
    ]
    out: dict[str, Any] = {
        "vectors": np.concatenate([documents, queries]),
        "nDCG@10": Sample.mean(gains(place)),
        "recall@1, ranked": Sample.mean(np.array(ranked, dtype=float)),
        "answers": _answers(model, data, readings, answers),
        "perplexity": _perplexity(model, items.passages),
    }
    if items.rows:
        first, second = (
            model.embed_queries([row[i] for row in items.rows], show_progress=False) for i in (0, 1)
        )
        gold = np.array([row[2] for row in items.rows])
        out["vectors"] = np.concatenate([out["vectors"], first, second])
        out["Spearman, STS-B"] = Sample("spearman", ((first * second).sum(1), gold))
    return out


def _answers(model: GemModel, data: Retrieval, readings: list[Any], count: int) -> Sample:
    prompt = model.parts.skill("answer").config.prompt
    asked = data.questions[:count]
    said = model.generate_batch(
        [prompt.replace("{question}", q.text) for q in asked],
        after=[readings[q.paragraph] for q in asked],
        max_new_tokens=48,
        skill="answer",
    )
    return Sample.mean([best(contains, a.text, q) for a, q in zip(said, asked, strict=True)])


def _perplexity(model: GemModel, passages: list[str]) -> Sample:
    found = [model.engine.call(lambda text=text: _log_likelihood(model, text)) for text in passages]
    sums, counts = zip(*found, strict=True)
    return Sample("perplexity", (np.array(sums), np.array(counts, dtype=float)))


def _log_likelihood(model: GemModel, text: str) -> tuple[float, int]:
    ids = torch.tensor([model.codec.encode(text)[:PERPLEXITY_TOKENS]])
    with torch.inference_mode():
        cache = empty_cache(model.base.num_layers)
        hidden = model.parts.run(ids, torch.arange(ids.shape[1])[None], None, cache)
        steps = model.parts.logits(hidden[0, :-1]).float().log_softmax(-1)
    return float(steps.gather(1, ids[0, 1:, None]).sum()), ids.shape[1] - 1


def beside(model: GemModel, passages: list[str]) -> float:
    """Largest difference of a next token's logit alone and beside seven other rows."""
    prompts = [model.codec.encode(p)[: 20 + 9 * i] for i, p in enumerate(passages[:8])]
    together = model.engine.call(lambda: _logits(model, prompts))
    alone = [model.engine.call(lambda one=one: _logits(model, [one]))[0] for one in prompts]
    return max(float((a - b).abs().max()) for a, b in zip(alone, together, strict=True))


def _logits(model: GemModel, prompts: list[list[int]]) -> Tensor:
    from gem_rag.compute.step import advance

    cache = empty_cache(model.base.num_layers)
    with torch.inference_mode():
        return advance(model.parts, prompts, [0] * len(prompts), cache).float()


def quality(formats: list[str], questions: int, answers: int, stsb: Path | None) -> dict[str, Any]:
    """Each format's numbers, and its paired differences to float32."""
    items, report = Items(questions, stsb), {}
    exact: dict[str, Any] = {}
    for name in [EXACT, *[f for f in formats if f != EXACT]]:
        try:
            model = GemModel.from_pretrained(dtype=name)
        except OptionError as error:
            report[name] = {"left out": str(error)}
            continue
        found = measured(model, items, answers)
        exact = exact or found
        report[name] = _compared(found, exact)
        report[name]["weights, MB"] = model.parts.weights_bytes / 1e6
        report[name]["a logit beside others"] = beside(model, items.passages)
        report[name]["fingerprint"] = model.fingerprint[:12]
        del model
        gc.collect()
    return report


def _compared(found: dict[str, Any], exact: dict[str, Any]) -> dict[str, Any]:
    cosine = (found["vectors"] * exact["vectors"]).sum(1)
    out: dict[str, Any] = {
        "cosine, mean": float(cosine.mean()),
        "cosine, least": float(cosine.min()),
        "cosine below 0.999": float((cosine < ALIKE).mean()),
    }
    for metric, sample in found.items():
        if metric == "vectors":
            continue
        out[metric] = sample.value
        gap = sample.minus(exact[metric])
        out[f"{metric}, difference"] = [gap.value, gap.low, gap.high]
    return out


def kernels() -> dict[str, Any]:
    """Milliseconds of all layers of the default model by rows: the integer kernel, widened weights
    and packed bfloat16."""
    report: dict[str, Any] = {}
    where = torch.device("cpu")
    for (name, kind), (part, shapes) in product(KINDS.items(), LAYERS.items()):
        codes = [Codes.of(torch.randn(s) * 0.05, name).to(where, torch.bfloat16) for s in shapes]
        layers = [kind(one) for one in codes]
        floats = [Packed(one.dense()) for one in codes]
        for rows in ROWS:
            inputs = [torch.randn(rows, i).bfloat16() for _, i in shapes]
            report[f"{name}, {part}, {rows} rows"] = [
                _least([one.narrow for one in layers], inputs),
                _least([one.wide for one in layers], inputs),
                _least(floats, inputs),
            ]
    return report


def _least(
    products: Sequence[Callable[[Tensor], Tensor]], inputs: Sequence[Tensor], turns: int = 5
) -> float:
    times = []
    for _ in range(turns):
        start = time.perf_counter()
        for one, x in zip(products, inputs, strict=True):
            one(x)
        times.append(time.perf_counter() - start)
    return 1e3 * min(times)


def main() -> None:
    parser = arguments(__doc__.splitlines()[0])
    parser.add_argument("--formats", default=",".join(FORMATS))
    parser.add_argument("--questions", type=int, default=300, help="and paragraphs of SQuAD dev")
    parser.add_argument("--answers", type=int, default=100)
    parser.add_argument("--stsb", type=Path)
    parser.add_argument("--kernels", action="store_true")
    args = parser.parse_args()
    if args.kernels:
        show(kernels(), args.json)
        return
    report = quality(args.formats.split(","), args.questions, args.answers, args.stsb)
    for name, found in report.items():
        print(f"-- {name}")
        show(found, args.json)


if __name__ == "__main__":
    main()
