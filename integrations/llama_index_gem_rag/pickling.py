"""Pickled with all it holds, or not at all."""

from __future__ import annotations

import logging
import pickle
from typing import Any, cast

from llama_index.core.bridge.pydantic import BaseModel
from llama_index.core.callbacks import CallbackManager

log = logging.getLogger(__name__)


class PickledWhole:
    """Keeps what LlamaIndex would leave out of a component where it cannot be pickled.

    There a store arrives empty and a model is another one; here the error says what to do. Only
    callbacks that look on may stay behind, with a warning.
    """

    def __getstate__(self) -> dict[Any, Any]:
        state = BaseModel.__getstate__(cast("BaseModel", self))
        fields = state["__dict__"]
        if "callback_manager" in fields and not _is_picklable(fields["callback_manager"]):
            log.warning("%s is pickled without its callbacks, which cannot be", type(self).__name__)
            fields = {**fields, "callback_manager": CallbackManager([])}
        return {**state, "__dict__": fields}

    def __setstate__(self, state: dict[Any, Any]) -> None:
        BaseModel.__setstate__(cast("BaseModel", self), state)


def _is_picklable(value: object) -> bool:
    try:
        pickle.dumps(value)
    except Exception:
        return False
    return True
