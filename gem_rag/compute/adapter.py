"""A LoRA adapter that acts at chosen positions, switched per call and not per model.

The adapter hangs on the base's linear layers as forward hooks that do nothing unless the running
pass asked for it. No module is replaced and no module state changes, so one thread can embed
while another streams, and the base's weights and results stay the base's own.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from functools import partial
from operator import attrgetter
from typing import Any

import torch
from torch import Tensor, nn

from gem_rag.config import AdapterConfig
from gem_rag.errors import UnsupportedModelError

EVERYWHERE = slice(None)
VERSION = attrgetter("_version")  # counts changes in place
# On axis 1 of [B, T, ...], the same in all rows, or bool [B, T].
Positions = slice | Tensor


@dataclass(frozen=True, eq=False)
class Acting:
    """An adapter, and where among a pass's queries it acts."""

    adapter: Adapter
    where: Positions


_acting: ContextVar[tuple[Acting, ...]] = ContextVar("gem_acting", default=())


@contextmanager
def applied(acting: Sequence[Acting]) -> Iterator[None]:
    """These adapters act inside the block; none given leaves those that act already."""
    if not acting:
        yield
        return
    token = _acting.set(tuple(acting))
    try:
        yield
    finally:
        _acting.reset(token)


class LowRank(nn.Module):
    """One layer's update ``x A^T B^T``; B starts at zero, so a new adapter changes nothing."""

    def __init__(self, shape: tuple[int, int], rank: int, device: torch.device) -> None:
        super().__init__()
        width, out = shape
        options: dict[str, Any] = {"device": device, "dtype": torch.float32}
        self.a = nn.Parameter(torch.empty(rank, width, **options))
        self.b = nn.Parameter(torch.zeros(out, rank, **options))
        nn.init.kaiming_uniform_(self.a, a=math.sqrt(5))

    def forward(self, x: Tensor) -> Tensor:
        """``[..., in] -> [..., out]`` in x's dtype."""
        return x @ self.a.to(x.dtype).T @ self.b.to(x.dtype).T


class Adapter(nn.Module):
    """LoRA on the linear layers of the decoder blocks: see `Base.new_adapter`.

    Args:
        linears: Inputs and outputs of the blocks' linear layers, by name from the blocks on.
        config: Rank, alpha, and which layers.
        prefix: Name of the blocks inside the base model, for the stored names.
        device: Where to.

    Raises:
        UnsupportedModelError: There is no such layer.
    """

    def __init__(
        self,
        linears: Mapping[str, tuple[int, int]],
        config: AdapterConfig,
        prefix: str,
        device: torch.device,
    ) -> None:
        super().__init__()
        self.config = config
        self.prefix = prefix
        self.scale = config.alpha / config.rank if config.rank else 0.0
        self._flat: list[nn.Parameter] | None = None
        self._counted: list[nn.Parameter] = []
        self._names: dict[str, str] = {}  # the layer's name -> the module's (no dots allowed)
        self.updates = nn.ModuleDict()
        if config.rank == 0:
            return
        if not linears:
            raise UnsupportedModelError(
                f"{prefix} has no linear layers to adapt; expected decoder blocks of nn.Linear"
            )
        last = {name: name.rsplit(".", 1)[-1] for name in linears}
        if odd := set(config.targets) - set(last.values()):
            raise UnsupportedModelError(
                f"{prefix} has no linear layers named {sorted(odd)} to adapt; expected some of "
                f"{sorted(set(last.values()))}"
            )
        for name, shape in linears.items():
            if not config.targets or last[name] in config.targets:
                self._names[name] = name.replace(".", "/")
                self.updates[self._names[name]] = LowRank(shape, config.rank, device)

    def hang_on(self, model: nn.Module) -> None:
        """Add what it adds to the outputs of a model's linear layers, where a pass asks."""
        blocks = model.get_submodule(self.prefix)
        for name in self._names:
            update = self.update_of(name)
            assert update is not None
            hook = partial(self._added_where_asked, update)
            blocks.get_submodule(name).register_forward_hook(hook)

    def _added_where_asked(
        self, update: LowRank, _: nn.Module, args: tuple[Tensor, ...], out: Tensor
    ) -> Tensor | None:
        """The hook of a layer; no closure, so that a model with its adapters can be pickled."""
        mine = [one.where for one in _acting.get() if one.adapter is self]
        for where in mine:
            out = self._added(update, where, args[0], out)
        return out if mine else None

    def _added(self, update: LowRank, where: Positions, x: Tensor, out: Tensor) -> Tensor:
        if isinstance(where, slice) and where == EVERYWHERE:
            everywhere: Tensor = out + self.scale * update(x)
            return everywhere
        place = where if _is_mask(where) else (slice(None), where)
        delta = torch.zeros_like(out)
        delta[place] = self.scale * update(x[place])
        return out + delta

    def at(self, where: Positions | None) -> list[Acting]:
        """This adapter acting there, as `Base.run` takes it; nothing for None."""
        return [] if where is None or not self._names else [Acting(self, where)]

    def state(self) -> tuple[int, ...]:
        """Other than it was once the weights are: exchanged, or changed in place under `no_grad`.

        Asked at every step of an answer, so over a list that is made once: walking 200 modules
        takes ten times as long.
        """
        if self._flat is None:
            self._flat = list(self.parameters())
            # Tensors made in inference mode count no versions: they are not trained.
            self._counted = [p for p in self._flat if not p.is_inference()]
        return (*map(Tensor.data_ptr, self._flat), *map(VERSION, self._counted))

    def update_of(self, name: str) -> LowRank | None:
        """The update of a layer, named from the blocks on (``0.self_attn.q_proj``), if any."""
        if name not in self._names:
            return None
        update = self.updates[self._names[name]]
        assert isinstance(update, LowRank)
        return update

    @property
    def target_modules(self) -> list[str]:
        """The adapted layers' last names, as PEFT's ``target_modules`` wants them."""
        return sorted({name.rsplit(".", 1)[-1] for name in self._names})

    def to_peft(self) -> dict[str, Tensor]:
        """The weights under the names PEFT gives them, fp16 on the CPU."""
        return {
            name: weight.detach().half().cpu().contiguous()
            for name, weight in self._peft_parameters()
        }

    def load_peft(self, tensors: dict[str, Tensor]) -> None:
        """Take over weights stored by `to_peft`.

        Raises:
            UnsupportedModelError: Names or shapes do not fit this base.
        """
        expected = dict(self._peft_parameters())
        if expected.keys() != tensors.keys():
            odd = sorted(expected.keys() ^ tensors.keys())
            raise UnsupportedModelError(
                f"adapter weights do not fit the base: {len(odd)} names differ, such as {odd[0]!r}"
            )
        with torch.no_grad():
            for name, parameter in expected.items():
                if parameter.shape != tensors[name].shape:
                    raise UnsupportedModelError(
                        f"adapter weight {name!r} has shape {tuple(tensors[name].shape)}; "
                        f"the base needs {tuple(parameter.shape)}"
                    )
                parameter.copy_(tensors[name])

    def _peft_parameters(self) -> Iterator[tuple[str, nn.Parameter]]:
        for name, key in self._names.items():
            update = self.updates[key]
            assert isinstance(update, LowRank)
            stem = f"base_model.model.{self.prefix}.{name}"
            yield f"{stem}.lora_A.weight", update.a
            yield f"{stem}.lora_B.weight", update.b


def _is_mask(where: Positions) -> bool:
    return isinstance(where, Tensor) and where.dtype == torch.bool and where.dim() == 2
