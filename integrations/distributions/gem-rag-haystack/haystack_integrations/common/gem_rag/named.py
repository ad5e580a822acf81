"""The model a component names: loaded when it is needed, shared with all who name it."""

from __future__ import annotations

from typing import Any

from haystack.utils import ComponentDevice

from gem_rag.checkpoints.names import DEFAULT
from gem_rag.model import GemModel, Model, as_model, name_of


class NamedModel:
    """A model by name; one copy of its weights serves every component.

    Args:
        model: A bundled name, folder or hub id, or a loaded `GemModel`; None is the default.
        device: Where it runs; None chooses (CUDA, then MPS, then CPU).
        dtype: As for `GemModel.from_pretrained`.
        revision: Of a hub id.
    """

    def __init__(
        self, model: Model, device: ComponentDevice | None, dtype: str, revision: str | None
    ) -> None:
        self._loaded = model if isinstance(model, GemModel) else None
        self.name = name_of(model) if isinstance(model, GemModel) else str(model or DEFAULT)
        self._device = device
        self._dtype = dtype
        self._revision = revision

    def load(self) -> GemModel:
        """The loaded model."""
        if self._loaded is None:
            device = "auto" if self._device is None else self._device.to_torch_str()
            self._loaded = as_model(
                self.name, device=device, dtype=self._dtype, revision=self._revision
            )
        return self._loaded

    def to_dict(self) -> dict[str, Any]:
        """What a component is made with, as its own `to_dict` needs it."""
        return {
            "model": self.name,
            "device": None if self._device is None else self._device.to_dict(),
            "dtype": self._dtype,
            "revision": self._revision,
        }
