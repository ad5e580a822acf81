"""A model's parts taken apart: all tensors in one memory, which many processes can look at.

What is lent is pickled without its tensors; whoever borrows it puts views of the memory in their
place. So one copy of the weights serves every process that has that memory: Ray's object store
maps it into each of a node's workers, read-only.
"""

from __future__ import annotations

import io
import pickle
import warnings
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from gem_rag.compute.parts import Parts

ALIGNED = 64  # bytes: a cache line, and what vector instructions like


class Place(NamedTuple):
    """Where a tensor lies, and what it is."""

    offset: int
    shape: tuple[int, ...]
    dtype: torch.dtype
    is_parameter: bool


class Lent(NamedTuple):
    """A model's parts, tensors apart.

    Attributes:
        skeleton: All but the tensors, pickled.
        places: Of each tensor.
        memory: uint8, all tensors; never written to.
    """

    skeleton: bytes
    places: list[Place]
    memory: np.ndarray


def lend(parts: Parts) -> Lent:
    """Take parts on the CPU apart; those of a model that runs on transformers' forward.

    The base's matrices come first, one after another, so that those of one input are one already.
    """
    file = io.BytesIO()
    pickler = _WithoutTensors(file)
    pickler.dump(parts)
    tensors = [tensor.detach() for tensor in pickler.tensors]
    matrices = [p for p in parts.base.model.parameters() if p.dim() == 2]
    first = {id(matrix): i for i, matrix in enumerate(matrices)}
    order = sorted(
        range(len(tensors)), key=lambda i: first.get(id(pickler.tensors[i]), len(matrices))
    )
    offsets, size = [0] * len(tensors), 0
    for i in order:
        offsets[i] = size
        size += -(-tensors[i].nbytes // ALIGNED) * ALIGNED
    memory = np.zeros(size, dtype=np.uint8)
    whole = torch.from_numpy(memory)
    for tensor, offset in zip(tensors, offsets, strict=True):
        raw = tensor.contiguous().flatten().view(torch.uint8)
        whole[offset : offset + tensor.nbytes] = raw
    places = [
        Place(offset, tuple(t.shape), t.dtype, isinstance(t, nn.Parameter))
        for t, offset in zip(pickler.tensors, offsets, strict=True)
    ]
    return Lent(file.getvalue(), places, memory)


def borrow(lent: Lent) -> Parts:
    """Parts whose tensors are views of the lent memory; what writes to one may kill the process."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*not writable.*")
        memory = torch.from_numpy(lent.memory)
    tensors = [_view(memory, place) for place in lent.places]
    parts = _WithTensors(io.BytesIO(lent.skeleton), tensors).load()
    assert isinstance(parts, Parts)
    return parts


def _view(memory: Tensor, place: Place) -> Tensor:
    size = place.dtype.itemsize
    for length in place.shape:
        size *= length
    tensor = memory[place.offset : place.offset + size].view(place.dtype).view(place.shape)
    return nn.Parameter(tensor, requires_grad=False) if place.is_parameter else tensor


class _WithoutTensors(pickle.Pickler):
    def __init__(self, file: io.BytesIO) -> None:
        super().__init__(file)
        self.tensors: list[Tensor] = []
        self._numbers: dict[int, int] = {}

    def persistent_id(self, obj: Any) -> int | None:
        """A tensor's number; the same one's is the same, so that what was tied stays tied."""
        if not isinstance(obj, Tensor):
            return None
        if id(obj) not in self._numbers:
            self._numbers[id(obj)] = len(self.tensors)
            self.tensors.append(obj)
        return self._numbers[id(obj)]


class _WithTensors(pickle.Unpickler):
    def __init__(self, file: io.BytesIO, tensors: list[Tensor]) -> None:
        super().__init__(file)
        self._tensors = tensors

    def persistent_load(self, pid: int) -> Tensor:
        """The tensor of a number."""
        return self._tensors[pid]
