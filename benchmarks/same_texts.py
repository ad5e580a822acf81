"""Greedy texts on our own forward and on transformers': 200 prompts, float32, one after another.

Where two texts part, the two best logits there say whether it was a tie: `python
benchmarks/same_texts.py`.
"""

from __future__ import annotations

import torch
from common import arguments, show

from gem_rag.model import GemModel
from gem_rag_train.data.sources import boolq

PROMPTS, TOKENS = 200, 24


def gap(model: GemModel, ids: tuple[int, ...]) -> float:
    """How far the two best logits after these ids are apart."""
    with torch.inference_mode():
        best = model.base.model(torch.tensor([ids])).logits[0, -1].topk(2).values
    return float(best[0] - best[1])


def main() -> None:
    """Compare, and print how many are the same and what parts the others."""
    as_json = arguments("Greedy texts on two forwards").parse_args().json
    prompts = [f"{p.question}?" for p in boolq("dev")[:PROMPTS]]
    ours = GemModel.from_pretrained(dtype="float32")
    theirs = GemModel.from_pretrained(dtype="float32", forward="transformers")
    same, gaps, furthest = 0, [], 0.0
    for prompt in prompts:
        kept: list[torch.Tensor] = []
        hook = lambda _, logits: kept.append(logits.clone()) or logits  # noqa: E731, B023
        a = theirs.generate(prompt, max_new_tokens=TOKENS, logits_hook=hook)
        first = kept[0]
        kept.clear()
        b = ours.generate(prompt, max_new_tokens=TOKENS, logits_hook=hook)
        furthest = max(furthest, float((first - kept[0]).abs().max()))
        same += a.ids == b.ids
        if a.ids != b.ids:
            at = next(i for i, (x, y) in enumerate(zip(a.ids, b.ids, strict=False)) if x != y)
            gaps.append(gap(theirs, (*a.prompt_ids, *a.ids[:at])))
    facts = {
        "prompts": len(prompts),
        "tokens": TOKENS,
        "same texts": same,
        "first logits differ by at most": furthest,
        "gaps where texts part": gaps,
    }
    show(facts, as_json)


if __name__ == "__main__":
    main()
