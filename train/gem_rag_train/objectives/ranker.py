"""The model as its own teacher: its ranking as soft labels for its embedding (ART).

The base's query likelihood tells passages apart far better than the embedding does, and needs no
labels (Sachan et al. 2022, "Questions Are All You Need to Train a Dense Passage Retriever").
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from gem_rag.compute.reading import Reading
from gem_rag.errors import GemError
from gem_rag.model import GemModel
from gem_rag_train.kept.lines import append_line, read_lines
from gem_rag_train.objectives.losses import soft_labels


class Ranker:
    """Scores passages for questions by the base's query likelihood; remembers what it scored.

    Args:
        model: Whose base ranks.
        candidates: Passages scored for each question: its own and those the embedding now finds
            nearest. 0 is all it is given.
        temperature: Mean log-likelihoods (nats per token) are divided by it.
        max_length: Tokens of a passage.
        memory: A file of scores; a resumed run finds its own there, to the last bit.

    Attributes:
        read: Where passages' readings come from.

    Raises:
        GemError: Readings cannot be ranked from, or training changes the ranking itself.
    """

    def __init__(
        self,
        model: GemModel,
        *,
        candidates: int = 8,
        temperature: float = 0.2,
        max_length: int = 256,
        memory: Path | None = None,
    ) -> None:
        if model.config.adapter_scope != "tokens":
            raise GemError(
                "a ranker needs readings that training leaves alone, adapter_scope "
                f"{model.config.adapter_scope!r} changes them; use scope 'tokens', or "
                "ranker_weight=0"
            )
        self.read: Callable[[Sequence[str]], list[Reading]] = partial(
            model.read, max_length=max_length, show_progress=False
        )
        self._model = model
        self._candidates = candidates
        self._temperature = temperature
        self._salt = f"{model.parts.reading_fingerprint}:{max_length}"
        self._memory = memory
        self._known: dict[str, float] = {}
        for scores in read_lines(memory) if memory is not None else []:
            self._known |= scores

    def loss(
        self,
        questions: Sequence[str],
        passages: Sequence[str],
        own: Sequence[int],
        similarity: Tensor,
    ) -> Tensor:
        """How far the embedding's view of the candidates is from the ranking's.

        Args:
            questions: ``Q`` questions.
            passages: ``D`` passages, those of the batch.
            own: The passage each question belongs to.
            similarity: ``[Q, D]`` with gradients, already scaled.

        Returns:
            Scalar loss: KL divergence, averaged over questions; zero without questions.
        """
        if not questions:
            return similarity.sum() * 0
        found = self._nearest(similarity.detach(), own)  # (Q, C)
        scores = self.scores(questions, passages, found.tolist()).to(found.device)
        return soft_labels(similarity.gather(1, found), scores, self._temperature)

    def _nearest(self, similarity: Tensor, own: Sequence[int]) -> Tensor:
        """Each question's candidates ``[Q, C]``: its own passage, then the most similar ones."""
        count = min(self._candidates or similarity.shape[1], similarity.shape[1])
        first = similarity.clone()
        first[range(len(own)), list(own)] = torch.inf
        return first.topk(count, dim=1).indices

    def scores(
        self,
        questions: Sequence[str],
        passages: Sequence[str],
        candidates: Sequence[Sequence[int]],
    ) -> Tensor:
        """Mean log-likelihood of each question given each of its candidates, float32 ``[Q, C]``.

        A pair is scored once, from a reading made once for all questions: the base never changes.
        """
        keys = [
            {j: self._key(question, passages[j]) for j in row}
            for question, row in zip(questions, candidates, strict=True)
        ]
        missing = [[j for j, key in of_row.items() if key not in self._known] for of_row in keys]
        wanted = sorted({j for row in missing for j in row})
        readings = dict(zip(wanted, self.read([passages[j] for j in wanted]), strict=True))
        for question, row, of_row in zip(questions, missing, keys, strict=True):
            if row:
                ranked = self._model.rank(question, [readings[j] for j in row])
                self._remember({of_row[row[r.index]]: r.log_likelihood for r in ranked})
        return torch.tensor([[self._known[key] for key in of_row.values()] for of_row in keys])

    def _key(self, question: str, passage: str) -> str:
        whole = "\0".join((self._salt, question, passage))
        return hashlib.sha256(whole.encode()).hexdigest()[:32]

    def _remember(self, scores: dict[str, float]) -> None:
        self._known |= scores
        if self._memory is not None:
            append_line(self._memory, scores)
