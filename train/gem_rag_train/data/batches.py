"""Pairs as the texts to embed, and their vectors as what the losses compare."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from gem_rag.config import Task
from gem_rag_train.data.pairs import Pair

Text = tuple[str, Task]  # and how to embed it


def texts_of(pairs: Sequence[Pair]) -> list[Text]:
    """All texts of some pairs: the first ones, the second ones, the hard negatives."""
    first: list[Text] = [(p.first, task_of(p)) for p in pairs]
    return first + [(text, "document") for text in seconds_of(pairs)]


def seconds_of(pairs: Sequence[Pair]) -> list[str]:
    """The texts that a first one is compared with: the second ones, then the hard negatives."""
    return [p.second for p in pairs] + [n for p in pairs for n in p.negatives]


def in_order(blocks: Sequence[Tensor], pairs: Sequence[int]) -> tuple[Tensor, Tensor, Tensor]:
    """The processes' vectors, each as `texts_of`, as first, second and negatives of the batch."""
    parts = [
        block.split([n, n, len(block) - 2 * n]) for block, n in zip(blocks, pairs, strict=True)
    ]
    first, second, negatives = (torch.cat(kind) for kind in zip(*parts, strict=True))
    return first, second, negatives


def task_of(pair: Pair) -> Task:
    """How a pair's first text is embedded."""
    return "query" if pair.kind == "query_document" else "document"


def same_source(pairs: Sequence[Pair]) -> Tensor:
    """bool ``[B, B + M]``: columns that are no negatives of a row.

    They are of the same passage, have the same text, or belong to a pair that asks the same.
    """
    texts = seconds_of(pairs)
    others = len(texts) - len(pairs)
    groups = [p.group for p in pairs] + [None] * others
    asked = [p.first for p in pairs] + [None] * others
    columns = list(zip(groups, asked, texts, strict=True))
    return torch.tensor(
        [[p.group == g or p.first == f or p.second == t for g, f, t in columns] for p in pairs]
    )
