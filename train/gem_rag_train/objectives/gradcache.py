"""Cached gradients: contrastive batches of any size in the memory of one chunk.

Gao et al. 2021, arXiv 2101.06983. Nothing here knows the model: a chunk is whatever `embed` takes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Generic, TypeVar

import torch
from torch import Tensor

Chunk = TypeVar("Chunk")
Loss = Callable[[Tensor], Tensor]


class GradCache(Generic[Chunk]):
    """Backward through a loss over all vectors, without ever holding the graph of all of them.

    Args:
        embed: A chunk's vectors ``[b, d]``, with gradients; the same each time (no dropout).
        cached: False keeps every chunk's graph instead of running the chunks twice: the same
            gradients in less time and more memory.
    """

    def __init__(self, embed: Callable[[Chunk], Tensor], *, cached: bool = True) -> None:
        self._embed = embed
        self._cached = cached

    def backward(self, chunks: Sequence[Chunk], loss: Loss) -> None:
        """Add the gradients of ``loss(vectors)``, vectors ``[B, d]`` in the chunks' order."""
        if self._cached:
            blocks = self.without_graph(chunks)
            gradients = self.vector_gradients(torch.cat(blocks), loss)
            self.chunk_gradients(chunks, gradients.split([len(b) for b in blocks]))
        else:
            vectors = torch.cat([self._embed(chunk) for chunk in chunks])
            vectors.backward(self.vector_gradients(vectors, loss))

    @torch.no_grad()
    def without_graph(self, chunks: Sequence[Chunk]) -> list[Tensor]:
        """Step 1: each chunk's vectors, without a graph."""
        return [self._embed(chunk) for chunk in chunks]

    def vector_gradients(self, vectors: Tensor, loss: Loss) -> Tensor:
        """Step 2: the loss over all vectors, and its gradients at them, ``[B, d]``."""
        leaf = vectors.detach().requires_grad_()
        loss(leaf).backward()
        assert leaf.grad is not None
        return leaf.grad

    def chunk_gradients(self, chunks: Sequence[Chunk], gradients: Sequence[Tensor]) -> None:
        """Step 3: each chunk again, with its graph, and its vectors' gradients through it."""
        for chunk, gradient in zip(chunks, gradients, strict=True):
            self._embed(chunk).backward(gradient)
