"""Embedding quality and next-token loss on texts a run does not train on, measured as it goes."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from pathlib import Path
from random import Random
from typing import Any, Literal

import numpy as np
import torch
from torch import nn

from gem_rag.compute.attention import Rule
from gem_rag.compute.batches import by_budget, tokens_per_batch
from gem_rag.config import Task
from gem_rag.errors import GemError
from gem_rag.files import atomic_write
from gem_rag.model import GemModel
from gem_rag_train.data.pairs import Pair
from gem_rag_train.data.sources import Passage, boolq
from gem_rag_train.evaluation import retrieval
from gem_rag_train.kept.readings import KeptReadings
from gem_rag_train.monitor.checks import SuffixTask, alignment, bottleneck, stability, uniformity
from gem_rag_train.recipes.config import TrainConfig

SEED = 0  # not the run's: all runs are measured on the same passages
LOSS_TEXTS, CHECKED_TEXTS, LONG_TEXTS = 32, 16, 24
CHECKS = "checks.json"


class HeldOut:
    """A fixed retrieval task over texts that are not trained on.

    Attributes:
        what: It in words, for the model card.

    Args:
        model: What is measured; its weights may change between measurements.
        config: The run's recipe. With scope ``tokens`` the texts are read once, into the folder
            ``<output>.readings``, and a measurement costs the special tokens only.
        pairs: What is held out of the user's own pairs; without any it is BoolQ's dev part.
        keep: False reads the texts anew in each measurement.
        show_progress: A bar while reading.

    Raises:
        GemError: Fewer than two pairs: there is nothing to be confused with.
    """

    def __init__(
        self,
        model: GemModel,
        config: TrainConfig,
        pairs: Sequence[Pair] = (),
        *,
        keep: bool = True,
        show_progress: bool | None = None,
    ) -> None:
        self.model = model
        self.pairs = list(pairs) or questions(config.heldout_passages)
        source = "the data files" if pairs else "BoolQ's dev part"
        self.what = f"{len(self.pairs)} held-out pairs of {source}"
        if len(self.pairs) < 2:
            raise GemError(f"{len(self.pairs)} pair is held out; expected 2 at least")
        self.long_texts = longest([p.second for p in pairs] if pairs else articles(), LONG_TEXTS)
        texts = [p.first for p in self.pairs] + [p.second for p in self.pairs]
        self._ids = [t.ids for t in model.codec.encode_texts(texts, config.max_length)]
        queries = [p.kind == "query_document" for p in self.pairs]
        self._tasks: list[Task] = ["query" if query else "document" for query in queries]
        self._tasks += ["document"] * len(self.pairs)
        self._loss: float | None = None
        self._kept: KeptReadings | None = None
        if keep and model.config.adapter_scope == "tokens":
            folder, most = config.readings_folder, int(config.kept_gigabytes * 1e9)
            self._kept = KeptReadings(model, folder, most_bytes=most, show_progress=show_progress)
            self._kept.add("heldout", zip(self._ids, self._tasks, strict=True))

    def measure(self) -> dict[str, float]:
        """How good the model is now: retrieval, the next-token loss (nats), the space's shape."""
        first, second = self.embed()
        scores, _ = retrieval(second, first, range(len(first)))
        return {
            "heldout_ndcg10": scores.ndcg10,
            "heldout_recall1": scores.recall1,
            "heldout_ntp_loss": self.next_token_loss(),
            "heldout_alignment": alignment(first, second),
            "heldout_uniformity": uniformity(second),
        }

    def check(self) -> dict[str, Any]:
        """`measure` and all of `monitor.checks` as plain values, for the run's report."""
        texts = [p.second for p in self.pairs[:CHECKED_TEXTS]]
        tasks: tuple[SuffixTask, ...] = ("reconstruction", "continuation")
        return {
            "heldout": self.measure(),
            "bottleneck": {
                task: {
                    rule.value: asdict(bottleneck(self.model, texts, task, rule=rule))
                    for rule in (Rule.GEM, Rule.CAUSAL)
                }
                for task in tasks
            },
            "stability": {
                str(n): asdict(found) for n, found in stability(self.model, self.long_texts).items()
            },
        }

    def record_checks(self, run_folder: str | Path, when: Literal["before", "after"]) -> None:
        """Make the checks and put them into ``checks.json``, where the run's report looks."""
        path = Path(run_folder) / CHECKS
        known = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
        atomic_write(path, json.dumps(known | {when: self.check()}, indent=2))

    def embed(self) -> tuple[np.ndarray, np.ndarray]:
        """The pairs' first and second texts as they are embedded now, float32 ``[n, d]`` each.

        Raises:
            GemError: An embedding is not finite.
        """
        out = np.empty((len(self._ids), self.model.dim), dtype=np.float32)
        lengths = [max(1, len(i)) for i in self._ids]
        for task in set(self._tasks):
            mine = [i for i, t in enumerate(self._tasks) if t == task]
            order = sorted(mine, key=lambda i: -lengths[i])
            for rows in by_budget(order, lengths, tokens_per_batch(self.model.base.device)):
                out[rows] = self._forward([self._ids[i] for i in rows], task)
        if not np.isfinite(out).all():  # a NaN is nearer to nothing, and would count as found
            raise GemError("held-out embeddings are not finite; lower the learning rate")
        return out[: len(self.pairs)], out[len(self.pairs) :]

    @torch.no_grad()  # not inference mode: what the model caches on the way is trained with too
    def _forward(self, ids: Sequence[Sequence[int]], task: Task) -> np.ndarray:
        return (self._kept or self.model.embedder).forward_texts(ids, task).float().cpu().numpy()

    def next_token_loss(self) -> float:
        """The generator's, nats per token; it changes with scope ``always`` only."""
        if self._loss is None or self.model.config.adapter_scope == "always":
            self._loss = next_token_loss(self.model, self._ids[len(self.pairs) :][:LOSS_TEXTS])
        return self._loss


@torch.no_grad()
def next_token_loss(model: GemModel, ids: Sequence[Sequence[int]]) -> float:
    """Mean negative log-likelihood of texts' tokens, each text after the preamble, nats per token.

    A text's first token is given, not predicted.
    """
    total, count = 0.0, 0
    adapted = model.config.adapter_scope == "always"
    for text in ids:
        tokens, cache = model.reader.read([[]], adapted, room=len(text))
        hidden = model.reader.continue_from(tokens, cache, torch.tensor([text], dtype=torch.long))
        logits = model.base.logits(hidden[0, :-1]).float()  # (n - 1, vocab)
        target = torch.tensor(text[1:], dtype=torch.long, device=logits.device)
        total += float(nn.functional.cross_entropy(logits, target, reduction="sum"))
        count += len(target)
    return total / max(1, count)


def questions(count: int) -> list[Pair]:
    """Questions of BoolQ's dev part, each with its passage, no passage twice."""
    passages = list({p.body: p for p in boolq("dev")}.values())
    drawn = Random(SEED).sample(passages, min(count, len(passages)))
    return [Pair(p.question, p.body, "query_document", p.group) for p in drawn]


def articles(passages: Iterable[Passage] | None = None) -> list[str]:
    """Passages (None: BoolQ's dev part), those of one title as one text."""
    bodies: dict[str, dict[str, None]] = defaultdict(dict)
    for passage in boolq("dev") if passages is None else passages:
        bodies[passage.title][passage.body] = None
    return ["\n".join(parts) for parts in bodies.values()]


def longest(texts: Sequence[str], count: int) -> list[str]:
    """The longest different texts."""
    return sorted(dict.fromkeys(texts), key=len, reverse=True)[:count]
