"""Answers with and without speculation: the same texts, what was guessed right, tokens a second.

    python benchmarks/speculation.py --questions 30 --dtype float32 --streams 1 8

Questions about Wikipedia passages (BoolQ), asked after their readings in three ways, both sides in
turns. Nothing else should run meanwhile. Where two texts part, the difference of the two best
logits there says whether it was a tie.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import cycle
from typing import Any

import torch
from common import arguments, show

from gem_rag.compute.reading import Reading
from gem_rag.engine.results import Generation
from gem_rag.model import GemModel
from gem_rag_train.data.sources import boolq

QUOTE = " Quote the sentences of the text that say so."
RETELL = "\n\nRepeat the most important sentences of the text."


@dataclass
class Side:
    """What was written on one side."""

    tokens: int = 0
    seconds: list[float] = field(default_factory=list)
    answers: list[Generation] = field(default_factory=list)

    @property
    def rate(self) -> float:
        """Tokens a second."""
        return self.tokens / sum(self.seconds)


def asked(model: GemModel, count: int) -> list[tuple[str, str, Reading]]:
    """So many requests: kinds in turn, their words, and what they go on from."""
    pairs = boolq("dev")[: 10 * count : 10]
    readings = model.read([pair.body for pair in pairs])
    kinds = cycle((("asked", "\n\n{}"), ("quoted", "\n\n{}" + QUOTE), ("retold", RETELL)))
    return [
        (kind, words.format(f"{pair.question}?"), reading)
        for pair, reading, (kind, words) in zip(pairs, readings, kinds, strict=False)
    ]


def written(
    model: GemModel, requests: Sequence[tuple[str, str, Reading]], side: Side, **options: Any
) -> None:
    """Write these side by side."""
    started = time.perf_counter()
    found = model.generate_batch(
        [words for _, words, _ in requests], after=[reading for *_, reading in requests], **options
    )
    side.seconds.append(time.perf_counter() - started)
    side.tokens += sum(len(answer.ids) for answer in found)
    side.answers += found


def gap(model: GemModel, one: Generation, other: Generation) -> float:
    """How far the two best logits are apart where two texts part."""
    pairs = zip(one.ids, other.ids, strict=False)
    shared = next(place for place, (a, b) in enumerate(pairs) if a != b)
    ids = [*one.prompt_ids, *one.ids[:shared]]
    with torch.inference_mode():
        best = model.base.model(torch.tensor([ids])).logits[0, -1].float().topk(2).values
    return float(best[0] - best[1])


def compared(model: GemModel, options: argparse.Namespace, streams: int) -> dict[str, Any]:
    """Both sides in turns, so many requests side by side."""
    requests = asked(model, options.questions)
    with_, without = Side(), Side()
    for begin in range(0, len(requests), streams):
        mine = requests[begin : begin + streams]
        turns = [(with_, options.speculate), (without, False)]
        for side, speculate in turns if (begin // streams) % 2 else turns[::-1]:
            print(f"{begin + len(mine)} of {len(requests)}", file=sys.stderr, flush=True)
            written(model, mine, side, max_new_tokens=options.tokens, speculate=speculate)
    pairs = list(zip(with_.answers, without.answers, strict=True))
    parted = [(a, b) for a, b in pairs if a.ids != b.ids]
    usages = [answer.usage for answer in with_.answers]
    proposed = sum(usage.proposed_tokens for usage in usages)
    accepted = sum(usage.accepted_tokens for usage in usages)
    ratios = [b / a for a, b in zip(with_.seconds, without.seconds, strict=True)]
    facts: dict[str, Any] = {
        "texts": len(pairs),
        "the same": len(pairs) - len(parted),
        "gaps where texts part": [gap(model, a, b) for a, b in parted],
        "proposed a token": proposed / with_.tokens,
        "accepted of proposed": accepted / max(1, proposed),
        "tokens a step": with_.tokens / max(1, with_.tokens - accepted),
        "tokens/s with": with_.rate,
        "tokens/s without": without.rate,
        "times as fast": with_.rate / without.rate,
        "median of the turns' ratios": statistics.median(ratios),
    }
    for kind in dict.fromkeys(kind for kind, *_ in requests):
        own = [u for (k, *_), u in zip(requests, usages, strict=True) if k == kind]
        tokens, right = (
            sum(u.completion_tokens for u in own),
            sum(u.accepted_tokens for u in own),
        )
        facts[f"tokens a step, {kind}"] = tokens / max(1, tokens - right)
    return {f"{streams} streams: {name}": value for name, value in facts.items()}


def main() -> None:
    parser = arguments("Answers with and without speculation")
    parser.add_argument("--questions", type=int, default=30)
    parser.add_argument("--tokens", type=int, default=64, help="of the longest answer")
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--streams", type=int, nargs="+", default=[1, 8])
    parser.add_argument(
        "--always", action="store_const", const=True, dest="speculate", help="whatever it costs"
    )
    options = parser.parse_args()
    model = GemModel.from_pretrained(dtype=options.dtype)
    report: dict[str, Any] = {}
    for streams in options.streams:
        report |= compared(model, options, streams)
    show(report, options.json)


if __name__ == "__main__":
    main()
