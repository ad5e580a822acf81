"""What is measured side by side: the checkpoint, its base mean-pooled, and all-MiniLM-L6-v2."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from torch import nn

from gem_rag.checkpoints.names import OWN_BASE
from gem_rag.compute.batches import by_budget, tokens_per_batch
from gem_rag.config import AdapterConfig, Task
from gem_rag.errors import GemError, MissingExtraError, TruncationWarning
from gem_rag.model import GemModel, create, name_of
from gem_rag.progress import quiet_transformers
from gem_rag_train.objectives.teacher import MINILM as MINILM_SOURCE
from gem_rag_train.objectives.teacher import minilm_folder
from gem_rag_train.recipes.config import RECIPE, TrainConfig

CHECKPOINT, BASE, MEAN_POOLED, MINILM = (
    "checkpoint",
    "base",
    "mean-pooled base",
    "all-MiniLM-L6-v2",
)
# Answers without a skill, where the checkpoint has one.
PLAIN_BASE = "plain base"
# Answers of the checkpoint's skill without a search: the likeliest token, one after another.
GREEDY = "checkpoint, greedy"
# Ways to find that are measured beside a checkpoint that finds by all it has.
WORDS, MINILM_WORDS = "words", f"{MINILM} + words"
VECTORS, HYBRID = "vectors", "vectors + words"
MINILM_DIM, MINILM_POSITIONS = 384, 512

Embed = Callable[[Sequence[str]], np.ndarray]


class Embedder(Protocol):
    """Something that embeds.

    Attributes:
        name: For tables.
        key: Names the vectors: what has the same key makes the same ones.
        dim: Length d of a vector.
    """

    name: str
    key: str
    dim: int

    def embed(self, texts: Sequence[str], kind: Task) -> np.ndarray:
        """Unit vectors ``[n, d]``, float32."""
        ...


class GemEmbedder:
    """A GEM checkpoint.

    Args:
        model: The checkpoint.
        max_length: Tokens of a text that count.
    """

    name = CHECKPOINT

    def __init__(self, model: GemModel, max_length: int = 256) -> None:
        self.key = f"gem-{model.fingerprint[:16]}-{max_length}"
        self.dim = model.dim
        self._model = model
        self._max_length = max_length

    def embed(self, texts: Sequence[str], kind: Task) -> np.ndarray:
        """Queries and documents as the checkpoint embeds them."""
        of_kind = self._model.embed_queries if kind == "query" else self._model.embed_documents
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", TruncationWarning)  # the same bound for all systems
            return of_kind(texts, max_length=self._max_length, show_progress=False)


class MeanPooled:
    """The raw base: the mean of its last layer's outputs, no special tokens, no preamble.

    Args:
        model: Whose base.
        max_length: Tokens of a text that count.
    """

    name = MEAN_POOLED

    def __init__(self, model: GemModel, max_length: int = 256) -> None:
        self.key = f"mean-{model.config.base.weights[:16]}-{max_length}"
        self.dim = model.base.hidden_size
        self._model = model
        self._max_length = max_length

    def embed(self, texts: Sequence[str], kind: Task) -> np.ndarray:  # noqa: ARG002
        """Queries and documents alike."""
        ids = [self._ids(text) for text in texts]
        out = np.empty((len(ids), self.dim), dtype=np.float32)
        order = sorted(range(len(ids)), key=lambda i: -len(ids[i]))
        for rows in by_budget(
            order, [len(i) for i in ids], tokens_per_batch(self._model.base.device)
        ):
            out[rows] = self._batch([ids[i] for i in rows])
        return out

    def _ids(self, text: str) -> list[int]:
        tokenizer: Any = self._model.codec.tokenizer
        ids: list[int] = tokenizer(text, truncation=True, max_length=self._max_length)["input_ids"]
        return ids or list(self._model.config.preamble_ids[:1])  # an empty text has to be something

    @torch.inference_mode()
    def _batch(self, ids: Sequence[Sequence[int]]) -> np.ndarray:
        width = max(map(len, ids))
        padded = torch.tensor([[*row, *[0] * (width - len(row))] for row in ids])
        mask = torch.tensor([[1] * len(row) + [0] * (width - len(row)) for row in ids])
        base = self._model.base
        padded, mask = padded.to(base.device), mask.to(base.device)
        hidden = base.decoder(
            input_ids=padded, attention_mask=mask, use_cache=False
        ).last_hidden_state.float()  # (B, n, hidden)
        mean = (hidden * mask[..., None]).sum(1) / mask.sum(1, keepdim=True)
        return nn.functional.normalize(mean, dim=-1).cpu().numpy()


class MiniLM:
    """all-MiniLM-L6-v2, the embedder users pick beside an LLM; loaded when first needed.

    Args:
        max_length: Tokens of a text that count; it has 512 positions.
    """

    name = MINILM
    dim = MINILM_DIM

    def __init__(self, max_length: int = 256) -> None:
        self._max_length = min(max_length, MINILM_POSITIONS)
        self.key = f"minilm-{MINILM_SOURCE.sha256[:16]}-{self._max_length}"

    def embed(self, texts: Sequence[str], kind: Task) -> np.ndarray:  # noqa: ARG002
        """Queries and documents alike."""
        return self._embed(texts)

    @cached_property
    def _embed(self) -> Embed:
        return minilm(self._max_length)


def minilm(max_length: int = 256) -> Embed:
    """all-MiniLM-L6-v2 as a function: texts to unit ``[n, 384]``."""
    try:
        from sentence_transformers import SentenceTransformer
    except ImportError as error:
        raise MissingExtraError("the comparison with all-MiniLM-L6-v2", "eval") from error
    with quiet_transformers():
        peer = SentenceTransformer(str(minilm_folder()), device="cpu")
    peer.max_seq_length = max_length

    def embed(texts: Sequence[str]) -> np.ndarray:
        vectors: Any = peer.encode(
            list(texts), normalize_embeddings=True, batch_size=32, show_progress_bar=False
        )
        return np.asarray(vectors, dtype=np.float32)

    return embed


def base_of(model: GemModel) -> GemModel:
    """The model as it was before training, to generate and to be mean-pooled.

    The same one, but for a checkpoint of full fine-tuning, whose own base was trained: then the one
    its recipe names.

    Raises:
        GemError: The checkpoint does not say which base it comes from.
    """
    if model.config.base.name != OWN_BASE:
        return model
    recipe = None if model.path is None else Path(model.path) / RECIPE
    if recipe is None or not recipe.is_file():
        raise GemError(
            f"{name_of(model)} was trained with its base, and has no {RECIPE} that says which base "
            'it comes from; write one with base = "..."'
        )
    name = TrainConfig.from_recipe(recipe).base
    device, plain = str(model.base.device), AdapterConfig(rank=0)
    return create(name, device=device, dtype="float32", num_special_tokens=1, adapter=plain)


def first_tokens(model: GemModel, text: str, count: int) -> str:
    """The text's first `count` tokens."""
    offsets = model.codec.encode_texts([text], count)[0].offsets
    return text[: offsets[-1][1]] if offsets else text
