"""The embedding's objective: what belongs together lies together, and as teachers say.

A batch's negatives are the other pairs of all processes; the losses are on everyone's vectors, and
each process differentiates its own.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from gem_rag_train.data.batches import in_order, same_source, seconds_of, texts_of
from gem_rag_train.data.pairs import Pair
from gem_rag_train.objectives.embedder import TrainedEmbedder
from gem_rag_train.objectives.gradcache import GradCache
from gem_rag_train.objectives.losses import (
    Rotation,
    alignment,
    distillation,
    info_nce,
    neighbourhood,
    scale_of,
)
from gem_rag_train.objectives.ranker import Ranker
from gem_rag_train.objectives.step import Outcome, ProcessGroup
from gem_rag_train.objectives.teacher import KnownTexts, Teacher
from gem_rag_train.recipes.config import TrainConfig

# A text this near to a pair's first, as a share of the pair's own similarity, may be a right answer
# too and is no negative (the idea of NV-Retriever's positive-aware mining).
FALSE_NEGATIVE = 0.95
# The losses, and the settings that weigh them.
WEIGHTS = {
    "contrastive": "contrastive",
    "alignment": "alignment",
    "neighbourhood": "neighbourhood",
    "distillation": "distillation",
    "ranking": "ranker_weight",
}


class BatchLosses:
    """The losses on the vectors of a whole batch: InfoNCE, a teacher's, the ranking's.

    Args:
        config: The recipe: what each loss weighs, and its temperature.
        log_scale: Scalar parameter; similarities are scaled by its exponential.
        teacher: Finds false negatives, and is learnt from where a loss on its vectors weighs
            something.
        rotation: Turns the teacher's space, for ``alignment`` and ``neighbourhood``.
        ranker: Whose ranking of the batch's passages the embedding learns.

    Attributes:
        known: All texts of the run and the teacher's vectors of them; ``neighbourhood`` is left
            out without.
    """

    def __init__(
        self,
        config: TrainConfig,
        log_scale: nn.Parameter,
        *,
        teacher: Teacher | None = None,
        rotation: Rotation | None = None,
        ranker: Ranker | None = None,
    ) -> None:
        self.log_scale = log_scale
        self.known: KnownTexts | None = None
        self._config = config
        self._teacher = teacher
        self._rotation = rotation
        self._ranker = ranker

    def of(
        self, pairs: Sequence[Pair], first: Tensor, second: Tensor, negatives: Tensor
    ) -> dict[str, Tensor]:
        """Each loss by its name, a scalar, not weighed yet.

        Args:
            pairs: The batch, ``B`` pairs with ``M`` hard negatives in all.
            first: ``[B, d]`` unit vectors of the pairs' first texts, with gradients.
            second: ``[B, d]``, of their second ones.
            negatives: ``[M, d]``, of their hard negatives.
        """
        same = self.no_negatives(pairs).to(first.device)
        columns = torch.cat([second, negatives])
        return {
            "contrastive": info_nce(first, second, self.log_scale, same, negatives),
            **self._taught(pairs, torch.cat([first, columns])),
            **self._ranking(pairs, first, columns),
        }

    def weighed(self, losses: Mapping[str, Tensor]) -> Tensor:
        """Their sum, each times the recipe's weight; scalar."""
        return sum(
            (getattr(self._config, WEIGHTS[name]) * value for name, value in losses.items()),
            start=torch.zeros((), device=self.log_scale.device),
        )

    def no_negatives(self, pairs: Sequence[Pair]) -> Tensor:
        """bool ``[B, B + M]``: same source, or about as near as the pair itself by the teacher."""
        same = same_source(pairs)
        if self._teacher is None:
            return same
        first = self._teacher.embed([p.first for p in pairs])
        scores = first @ self._teacher.embed(seconds_of(pairs)).T  # (B, B + M)
        return same | (scores > FALSE_NEGATIVE * scores.diagonal()[:, None])

    def _taught(self, pairs: Sequence[Pair], vectors: Tensor) -> dict[str, Tensor]:
        """The losses against the teacher's vectors of the batch's texts, ``[2 B + M, d]``."""
        losses: dict[str, Tensor] = {}
        c = self._config
        if self._teacher is None or not c.taught:
            return losses
        texts = [p.first for p in pairs] + seconds_of(pairs)
        teacher = self._teacher.embed(texts).to(vectors.device)
        if self._rotation is not None:
            rotation = self._rotation(vectors, teacher)
            if c.alignment:
                losses["alignment"] = alignment(vectors, teacher, rotation)
            if self.known is not None:
                losses["neighbourhood"] = neighbourhood(
                    vectors,
                    teacher,
                    rotation,
                    self.known.vectors,
                    self.known.places(texts),
                    c.neighbourhood_temperature,
                )
        if c.distillation:
            losses["distillation"] = distillation(vectors, teacher, c.distillation_temperature)
        return losses

    def _ranking(self, pairs: Sequence[Pair], first: Tensor, passages: Tensor) -> dict[str, Tensor]:
        """The ranking's soft labels for the batch's questions."""
        if self._ranker is None:
            return {}
        asked = [i for i, pair in enumerate(pairs) if pair.kind == "query_document"]
        # The scale is detached: soft labels would lower it, and it is the contrastive loss's.
        similarity = scale_of(self.log_scale).detach() * first[asked] @ passages.T
        questions = [pairs[i].first for i in asked]
        return {"ranking": self._ranker.loss(questions, seconds_of(pairs), asked, similarity)}


class ContrastiveObjective:
    """A step's gradients of a batch's losses.

    Args:
        losses: On the whole batch's vectors.
        embedder: Embeds this process's texts.
        processes: Which slice of the batch is whose.
        cached: Hold the graph of one forward at a time (GradCache) instead of the whole batch's.
    """

    def __init__(
        self,
        losses: BatchLosses,
        embedder: TrainedEmbedder,
        processes: ProcessGroup,
        *,
        cached: bool = False,
    ) -> None:
        self._losses = losses
        self._embedder = embedder
        self._processes = processes
        self._cached = cached

    def backward(self, pairs: Sequence[Pair], weight: float) -> Outcome:
        """Add the gradients of the batch's losses, times `weight`."""
        parts = [self._processes.slice_of(pairs, r) for r in range(self._processes.count)]
        texts = texts_of(parts[self._processes.rank])
        chunks, lengths = self._embedder.batches(texts)
        order = [i for chunk in chunks for i in chunk]
        back = torch.tensor(order, device=self._embedder.device).argsort()
        chunks = self._processes.as_many(chunks, [0])  # a spare one's vectors are not taken back
        sizes, counts = [len(texts_of(part)) for part in parts], [len(part) for part in parts]
        facts: dict[str, float] = {}

        def loss(vectors: Tensor) -> Tensor:
            everyone = self._processes.gather(vectors[back], sizes)
            first, second, negatives = in_order(everyone, counts)
            losses = self._losses.of(pairs, first, second, negatives)
            total = self._losses.weighed(losses)
            facts.update({name: value.item() for name, value in losses.items()})
            facts.update(accuracy=_accuracy(first, second), loss=total.item())
            return weight * total

        def embed(chunk: Sequence[int]) -> Tensor:
            return self._embedder.embed([texts[i] for i in chunk])

        GradCache(embed, cached=self._cached).backward(chunks, loss)
        log_scale = self._losses.log_scale
        if log_scale.grad is not None:  # every process has the whole of it
            log_scale.grad /= self._processes.count
        return Outcome(facts.pop("loss"), sum(lengths), facts)


def _accuracy(first: Tensor, second: Tensor) -> float:
    """Share of first texts whose nearest second one is their own."""
    right = (first @ second.T).argmax(1) == torch.arange(len(first), device=first.device)
    return right.float().mean().item()
