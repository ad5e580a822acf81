"""The decoder of a sentence-transformers folder as ONNX, for its ``backend="onnx"``.

Written here and not by optimum: what that makes of a decoder asks for positions, which
sentence-transformers does not give.
"""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from gem_rag.errors import MissingExtraError

INPUTS, OUTPUT = ("input_ids", "attention_mask"), "last_hidden_state"


class _Outputs(nn.Module):
    """Ids and mask ``[B, T]`` to the last layer's outputs ``[B, T, hidden]``."""

    def __init__(self, decoder: Any) -> None:
        super().__init__()
        self.decoder = decoder

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """Positions are those of texts padded on the right."""
        outputs = self.decoder(input_ids=input_ids, attention_mask=attention_mask, use_cache=False)
        hidden: Tensor = outputs.last_hidden_state
        return hidden


def require_onnx() -> None:
    """Raise `MissingExtraError` where torch cannot write ONNX."""
    if find_spec("onnxscript") is None:
        raise MissingExtraError("ONNX", "onnx")


def write_onnx(folder: Path) -> None:
    """Write ``onnx/model.onnx``, float32, where sentence-transformers looks for it.

    Args:
        folder: The sentence-transformers folder, the decoder's weights in it.
    """
    from transformers import AutoModel

    decoder = AutoModel.from_pretrained(folder, dtype=torch.float32)
    (folder / "onnx").mkdir()
    ids = torch.tensor([[1, 2, 3, 4], [5, 6, 0, 0]])  # two lengths, so that none is taken as fixed
    dynamic = dict.fromkeys((0, 1), torch.export.Dim.DYNAMIC)
    torch.onnx.export(
        _Outputs(decoder.eval()),
        (ids, (ids > 0).long()),
        folder / "onnx" / "model.onnx",
        input_names=list(INPUTS),
        output_names=[OUTPUT],
        dynamic_shapes=(dynamic, dynamic),
        dynamo=True,
        external_data=False,
        verbose=False,
    )
