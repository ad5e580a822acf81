"""Pickled with all it holds, or not at all."""

from __future__ import annotations

from typing import Any, cast

from llama_index.core.bridge.pydantic import BaseModel


class PickledWhole:
    """Keeps what LlamaIndex would leave out of a component where it cannot be pickled.

    There a store arrives empty and a model is another one; here the error says what to do.
    """

    def __getstate__(self) -> dict[Any, Any]:
        return BaseModel.__getstate__(cast("BaseModel", self))

    def __setstate__(self, state: dict[Any, Any]) -> None:
        BaseModel.__setstate__(cast("BaseModel", self), state)
