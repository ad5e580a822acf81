"""A base's weights straight from its files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from gem_rag.checkpoints.quantised import codes_in
from gem_rag.compute.both import chosen
from gem_rag.compute.linear import Linear, choose, joined
from gem_rag.compute.outline import BlockOutline, Outline
from gem_rag.compute.quantised import Codes, layer_of


class Files:
    """Weights in safetensors files as the `Source` of an outline.

    A file is mapped into memory for one block at a time, so that what was read of it is not held.

    Args:
        files: All of one base.
        dtype: What is computed in.
        device: Where to.
        exact: A file of plain numbers that are exactly its weights, for few rows; or None.

    Raises:
        OSError: A file is missing.
        safetensors.SafetensorError: A file is damaged.
    """

    def __init__(
        self,
        files: Sequence[Path],
        dtype: torch.dtype,
        device: torch.device,
        exact: Path | None = None,
    ) -> None:
        self._dtype, self._device, self._has_both = dtype, device, exact is not None
        self._open: dict[Path, Any] = {}
        files = [exact, *files] if exact else files  # of a name in both, the floats' is taken
        self._where = {name: file for file in files for name in self._mapped(file).keys()}  # noqa: SIM118
        self._open.clear()

    def __contains__(self, name: str) -> bool:
        """Whether there is a tensor of this name."""
        return name in self._where

    def stored(self, name: str) -> Tensor:
        """A tensor as it is in its file."""
        tensor: Tensor = self._mapped(self._where[name]).get_tensor(name)
        return tensor

    def tensor(self, name: str) -> Tensor:
        """A parameter, in memory of its own."""
        return self.stored(name).to(self._device, self._dtype, copy=True)

    def linear(self, names: Sequence[str]) -> Linear:
        """Linear layers of one input as one, quantised where they are kept so."""
        biases = [self.tensor(f"{name}.bias") for name in names if f"{name}.bias" in self]
        bias = torch.cat(biases) if biases else None
        codes = self._codes(names)
        if codes and not self._has_both:
            return layer_of(Codes.cat(codes).to(self._device, self._dtype), bias)
        return chosen(joined([self.tensor(f"{name}.weight") for name in names]), bias, codes)

    def head(self, outline: Outline) -> Linear:
        """The output head; of two sets of weights the floats (see `Modules.head`)."""
        name = outline.head
        if self._codes([name]) and not self._has_both:
            return self.linear([name])
        bias = self.tensor(f"{name}.bias") if f"{name}.bias" in self else None
        return choose(self.tensor(outline.table if outline.tied else f"{name}.weight"), bias)

    def used(self, index: int, outline: BlockOutline, linears: Mapping[str, Linear]) -> None:
        """Give the files' pages back."""
        del index, outline, linears
        self._open.clear()

    def _codes(self, names: Sequence[str]) -> list[Codes]:
        """Of these layers; none unless all have them."""
        found = [codes_in(self._where, self.stored, name) for name in names]
        codes = [one for one in found if one is not None]
        return codes if len(codes) == len(names) else []

    def _mapped(self, file: Path) -> Any:
        from safetensors import safe_open

        if file not in self._open:
            self._open[file] = safe_open(file, framework="pt")
        return self._open[file]
