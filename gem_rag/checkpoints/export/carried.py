"""A plain decoder that carries the adapter: wider MLPs, half of which act at special tokens alone.

No runtime needs to know of it. The residual stream gets a few more numbers, of which two say what a
token is: ``(f, 0)`` for a word, ``(0, f)`` for a special token; nothing ever writes to them. Each
MLP gets a second copy of itself with the adapter merged into it, and the gates of either copy are
shut by the other kind's number: ``silu`` of a large negative number is zero. So a word is computed
as the base computes it, and a special token as base and adapter do. The norms make up for the
wider stream: ``f`` squared is taken off their epsilon, so that not even that differs.
"""

from __future__ import annotations

import copy
import math
from typing import Any

import torch
from torch import Tensor

from gem_rag.checkpoints.export.form import ExportForm, as_float32
from gem_rag.compute.adapter import Adapter
from gem_rag.errors import UnsupportedModelError

MLP = ("gate_proj", "up_proj", "down_proj")
FAMILIES = ("llama", "mistral")  # whose norms and MLPs are these, and whose heads have a width
SHUT = 1e8  # times f and over a token's size: far below any gate's own value


def carrying(form: ExportForm) -> tuple[Any, dict[str, Tensor]]:
    """Config and float32 weights of the base's decoder, wide enough to carry the adapter.

    Raises:
        UnsupportedModelError: The adapter acts on attention too, or the base is of another family.
    """
    _require_carriable(form)
    base = form.parts.base
    narrow = base.hidden_size
    # Two would do, but transformers wants a multiple of the heads.
    extra = max(2, int(base.config.num_attention_heads))
    wide, epsilon = narrow + extra, float(base.config.rms_norm_eps)
    flag = math.sqrt(epsilon * narrow / 2)
    config = copy.deepcopy(base.decoder.config)
    config.hidden_size, config.intermediate_size = wide, 2 * base.config.intermediate_size
    config.head_dim = base.config.head_dim
    config.rms_norm_eps = epsilon * narrow / wide / 2
    weights = as_float32(base.decoder.state_dict())
    for name in [name for name in weights if "layers." in name]:
        weights[name] = _widened(name, weights[name], extra)
    _carry(weights, form.parts.adapter, narrow)
    for name in [name for name in weights if name.endswith("norm.weight")]:
        weights[name] = _norm(weights[name][:narrow], extra)
    weights["norm.weight"][narrow:] = 0  # what a token is, is no part of the vector
    kinds = torch.zeros(base.model.get_input_embeddings().weight.shape[0], extra)
    kinds[:, 0] = flag
    kinds[list(form.rows), :2] = torch.tensor([0.0, flag])
    weights["embed_tokens.weight"] = torch.cat([form.embedding(), kinds], 1)
    return config, weights


def _require_carriable(form: ExportForm) -> None:
    targets = form.parts.adapter.target_modules
    family = form.parts.base.config.model_type
    if odd := [name for name in targets if name not in MLP]:
        raise UnsupportedModelError(
            f"{form.name} has an adapter on {', '.join(odd)} that acts at special tokens alone, "
            f"which sentence-transformers cannot express; expected one on {', '.join(MLP)} (the "
            "recipe `export`), or the grade of token vectors (adapter_rank = 0). `gem-rag export "
            "gguf` takes it as it is"
        )
    if family not in FAMILIES or form.parts.base.config.hidden_act != "silu":
        raise UnsupportedModelError(
            f"{form.name} has a base of the family {family!r} and an adapter; expected one of "
            f"{', '.join(FAMILIES)} with silu gates, or the grade of token vectors "
            "(adapter_rank = 0)"
        )


def _norm(weight: Tensor, extra: int) -> Tensor:
    """A norm over more numbers, the new ones being as long as epsilon says: the same outputs."""
    narrow = weight.shape[0]
    scale = math.sqrt(narrow / (narrow + extra))
    return torch.cat([weight * scale, torch.ones(extra)])


def _widened(name: str, weight: Tensor, extra: int) -> Tensor:
    """Zeros where a layer reads the new numbers, and where it would write to them."""
    layer, kind = name.split(".")[-2:]
    if layer in ("o_proj", "down_proj"):
        return torch.cat([weight, weight.new_zeros(extra, *weight.shape[1:])])
    if kind == "weight" and weight.dim() == 2:
        return torch.cat([weight, weight.new_zeros(weight.shape[0], extra)], 1)
    return weight


def _carry(weights: dict[str, Tensor], adapter: Adapter, narrow: int) -> None:
    """Every MLP twice: for words as it is, for special tokens with the adapter in it."""
    for name in [name for name in weights if ".mlp." in name]:
        own = weights[name]
        layer = name.removeprefix("layers.").removesuffix(".weight")
        update = adapter.update_of(layer) if name.endswith(".weight") else None
        adapted = own.clone()
        if update is not None:
            delta = adapter.scale * update.b.detach().float() @ update.a.detach().float()
            adapted[: delta.shape[0], : delta.shape[1]] += delta.cpu()
        if "down_proj" in name:
            if own.dim() == 2:
                weights[name] = torch.cat([own, adapted], 1)
            continue
        if "gate_proj" in name and own.dim() == 2:
            own[:, narrow + 1] = -SHUT  # for words: shut at special tokens
            adapted[:, narrow] = -SHUT
        weights[name] = torch.cat([own, adapted])
