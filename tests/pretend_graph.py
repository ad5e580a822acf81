"""A pretended CUDA graph on a CPU: a call's operations, recorded and done again.

As a graph does, it does the same operations on the same memory: what Python decided is not decided
again, and a number that Python saw stays what it was. What a graph cannot hold is refused: a value
that Python waits for, and memory that comes from the host.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from gem_rag.compute.replay import WAITS, WithoutHost

FROM_HOST = {"aten::lift_fresh", "aten::lift_fresh_copy", "aten::_to_copy"}


class PretendGraph(TorchDispatchMode):
    """Inside, operations are recorded."""

    def __init__(self) -> None:
        super().__init__()
        self._done: list[tuple[Any, Any, Any, list[Tensor]]] = []
        self.replayed = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func._schema.name
        if name in WAITS:
            raise RuntimeError(f"a graph cannot hold {name}")
        out = func(*args, **(kwargs or {}))
        made = [x for x in tree_leaves(out) if isinstance(x, Tensor)]
        if name in FROM_HOST and any(x.dim() for x in made if name != "aten::_to_copy"):
            raise RuntimeError(f"a graph cannot hold {name} of {[tuple(x.shape) for x in made]}")
        # A view is where it was; what was written in place is written again.
        there = {memory(x) for x in tree_leaves((args, kwargs)) if isinstance(x, Tensor)}
        self._done.append((func, args, kwargs or {}, [x for x in made if memory(x) not in there]))
        return out

    def again(self) -> None:
        """Do all of it again, on the same memory."""
        self.replayed += 1
        with torch._C.DisableTorchFunction():  # nobody who watches what Python asks for sees this
            for func, args, kwargs, made in self._done:
                if not made and not func._schema.is_mutable:
                    continue
                out = func(*args, **kwargs)
                fresh = [x for x in tree_leaves(out) if isinstance(x, Tensor)]
                for at, new in zip(made, fresh, strict=False):
                    at.copy_(new)


def memory(tensor: Tensor) -> int:
    """Which memory a tensor lies in; packed weights, which no operation makes here, do not say."""
    return 0 if tensor.is_mkldnn else tensor.untyped_storage().data_ptr()


class Pretended:
    """In the place of `gem_rag.compute.replay.recorded`; keeps what was recorded."""

    def __init__(self) -> None:
        self.graphs: list[PretendGraph] = []

    def __call__(
        self, run: Callable[[], Tensor], device: torch.device
    ) -> tuple[Callable[[], None], Tensor]:
        with WithoutHost():  # as `Recorder` does
            run()
        graph = PretendGraph()
        with graph:
            out = run()
        self.graphs.append(graph)
        return graph.again, out

    @property
    def replayed(self) -> int:
        """Steps that were done again, the one beside which each is held among them."""
        return sum(graph.replayed for graph in self.graphs)
