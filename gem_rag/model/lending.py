"""A loaded model for other processes: one copy of the weights a machine, or each loads its own."""

from __future__ import annotations

from gem_rag.checkpoints.folder import load_parts
from gem_rag.checkpoints.names import resolve
from gem_rag.checkpoints.origin import known
from gem_rag.compute.lent import Lent, borrow, lend
from gem_rag.compute.linear import in_place
from gem_rag.model.gem_model import GemModel


def lent(model: GemModel) -> Lent:
    """A model's parts with their tensors in one memory, in the dtype the model computes in.

    Raises:
        CheckpointError: The model was made here and is in no folder.
    """
    origin = known(model.origin, model.parts)
    folder = resolve(origin.name, origin.revision)
    parts = load_parts(folder, device="cpu", dtype=origin.dtype, forward="transformers")
    origin.require_same(parts, model.fingerprint)
    return lend(parts)


def borrowed(lent: Lent, forward: str = "auto") -> GemModel:
    """The model of what was lent: its weights are that memory, and are copied nowhere."""
    parts = borrow(lent)
    with in_place():
        parts.choose_forward(forward, keep_weights=True)  # type: ignore[arg-type]
    return GemModel(parts)
