"""A transformers model whose linear layers' weights are held by fused layers."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from gem_rag.compute.base import Base
from gem_rag.compute.linear import Linear
from gem_rag.compute.quantised import Quantised

_KEPT = (
    "training",
    "_forward_hooks",
    "_forward_hooks_with_kwargs",
    "_forward_hooks_always_called",
    "_forward_pre_hooks",
    "_forward_pre_hooks_with_kwargs",
)


class Part(nn.Linear):
    """Stands in a transformers model for an `nn.Linear` whose weight a fused layer holds.

    Also for one whose weight is quantised. The model goes on working, hooks included, and its
    ``state_dict`` is complete; the weight is made again when asked for. Where gradients flow it
    computes with that, slowly.
    """

    def __init__(
        self, whole: Linear, rows: slice, replaced: nn.Linear, shared: nn.Parameter | None = None
    ) -> None:
        nn.Module.__init__(self)
        self.in_features, self.out_features = replaced.in_features, replaced.out_features
        self.whole, self._rows, self.shared = whole, rows, shared
        _hand_on(replaced, self)

    @property
    def weight(self) -> Tensor:  # type: ignore[override]
        """This layer's own ``[out, in]``; a copy, unless it is shared with the embedding."""
        return self.whole.dense()[self._rows] if self.shared is None else self.shared

    @property
    def bias(self) -> Tensor | None:  # type: ignore[override]
        """This layer's own ``[out]``."""
        return None if self.whole.bias is None else self.whole.bias[self._rows]

    def forward(self, x: Tensor) -> Tensor:
        """``[..., in] -> [..., out]``."""
        if torch.is_grad_enabled() and x.requires_grad:
            return functional.linear(x, self.weight, self.bias)
        return self.whole(x.reshape(-1, self.in_features))[:, self._rows].view(*x.shape[:-1], -1)

    def _save_to_state_dict(self, destination: Any, prefix: str, *_: Any) -> None:
        destination[prefix + "weight"] = self.weight
        if self.bias is not None:
            destination[prefix + "bias"] = self.bias

    def restored(self) -> nn.Linear:
        """The layer this stands for: one of its own, quantised where the whole is."""
        if isinstance(self.whole, Quantised):
            return Part(self.whole.part(self._rows), slice(None), self, self.shared)
        out = nn.Linear(self.in_features, self.out_features, bias=False, device="meta")
        own = self.shared
        out.weight = nn.Parameter(self.weight, requires_grad=False) if own is None else own
        if self.bias is not None:
            out.bias = nn.Parameter(self.bias, requires_grad=False)
        _hand_on(self, out)
        return out


def _hand_on(old: nn.Module, new: nn.Module) -> None:
    """The hooks themselves, so that what was hung on the old module can still be taken off."""
    for name in _KEPT:
        setattr(new, name, getattr(old, name))


def replace_in(block: nn.Module, whole: Linear, parts: list[tuple[str, int]]) -> None:
    """Put parts of a fused layer where its modules (names and widths) were."""
    start = 0
    for name, width in parts:
        owner, _, leaf = name.rpartition(".")
        part = Part(whole, slice(start, start + width), getattr(block.get_submodule(owner), leaf))
        setattr(block.get_submodule(owner), leaf, part)
        start += width


def is_tied(model: Any) -> bool:
    """Whether the output head's weight is the embedding's."""
    head: Any = model.get_output_embeddings()
    held = head.shared if isinstance(head, Part) else head.weight  # a part's would be made anew
    return held is model.get_input_embeddings().weight


def replace_head(model: Any, whole: Linear, *, tied: bool) -> None:
    """Likewise for the output head; one that is tied shares the embedding's weight."""
    head: Any = model.get_output_embeddings()
    shared = model.get_input_embeddings().weight if tied else None
    model.set_output_embeddings(Part(whole, slice(None), head, shared))


def restore(base: Base) -> None:
    """Undo every replacing: the model has its own linear layers again."""
    for owner in list(base.model.modules()):
        for name, child in list(owner.named_children()):
            if isinstance(child, Part):
                setattr(owner, name, child.restored())


def unmap(model: Any) -> None:
    """Copy what stays (norms, the embedding) out of the weights' file, so that its pages are freed.

    transformers maps the file into memory; one small tensor left in it would keep all of it there.
    """
    own = (m for m in model.modules() if isinstance(m, nn.Linear) and not isinstance(m, Part))
    linears = {id(m.weight) for m in own}  # a part's would be made anew, to be thrown away
    linears.discard(id(model.get_input_embeddings().weight))  # tied to the head
    for parameter in model.parameters():
        if id(parameter) not in linears:
            parameter.data = parameter.data.clone()
