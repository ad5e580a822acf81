"""What is asked of a base outside its forward: plain data, read off a transformers model."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from gem_rag.errors import UnsupportedModelError

if TYPE_CHECKING:
    from transformers import PreTrainedModel

SUPPORTED_LAYERS = {"full_attention", "sliding_attention"}
# These rewrite their frequencies once a text outgrows the original window, and old keys with them.
SHIFTING_ROPE = {"dynamic", "longrope"}


@dataclass(frozen=True)
class Facts:
    """A base's, apart from its weights.

    Attributes:
        hidden_size: Width of the hidden states.
        vocabulary: Number of logits.
        table_rows: Of the embedding.
        kv_width: Of a token's keys in one layer, all heads.
        layer_types: Kind of attention of each layer.
        declares_types: Whether the config names them: such a model takes a mask for each kind.
        window: Of sliding attention, tokens.
        max_context: How many tokens fit, preamble included, such that cached keys stay valid.
        end_ids: Ids that end an answer.
        blocks_name: Where the decoder blocks are inside the model, as PEFT names them.
        linears: Inputs and outputs of the blocks' linear layers, by name (``0.mlp.up_proj``).
        turned_by: What the values of rotary positions are scaled by, for each kind of layer that
            has frequencies of its own; one empty name where all share theirs.
    """

    hidden_size: int
    vocabulary: int
    table_rows: int
    kv_width: int
    layer_types: tuple[str, ...]
    declares_types: bool
    window: int | None
    max_context: int
    end_ids: tuple[int, ...]
    blocks_name: str
    linears: dict[str, tuple[int, int]]
    turned_by: dict[str, float]


class Rotary:
    """Rotary positions of fixed frequencies; called as transformers' module is.

    Args:
        frequencies: float32 ``[R / 2]`` of each kind in `Facts.turned_by`.
        turned_by: The facts'.
    """

    def __init__(self, frequencies: dict[str, Tensor], turned_by: dict[str, float]) -> None:
        self.frequencies, self._turned_by = frequencies, turned_by

    def __call__(self, x: Tensor, positions: Tensor, kind: str = "") -> tuple[Tensor, Tensor]:
        """Cosines and sines ``[B, Q, R]`` of int64 positions ``[B, Q]``, in x's dtype."""
        angles = positions[..., None].float() * self.frequencies[kind]
        angles = torch.cat([angles, angles], -1)
        scale = self._turned_by[kind]
        return (angles.cos() * scale).to(x.dtype), (angles.sin() * scale).to(x.dtype)


def decoder_of(model: PreTrainedModel) -> Any:
    """The decoder inside a causal model.

    Raises:
        UnsupportedModelError: Its blocks are in no list.
    """
    decoder = model.get_decoder()
    if not isinstance(getattr(decoder, "layers", None), nn.ModuleList):
        raise UnsupportedModelError(
            f"{type(model).__name__} keeps its decoder blocks in no `layers` list; expected a "
            "decoder such as Llama, Mistral, Qwen, Gemma or Phi-3"
        )
    return decoder


def facts_of(model: Any) -> Facts:
    """A model's facts.

    Raises:
        UnsupportedModelError: The architecture cannot be read and embedded; the message says why.
    """
    decoder: Any = decoder_of(model)
    config: Any = model.config.get_text_config()
    types = _layer_types(config, len(decoder.layers))
    _check(type(model).__name__, config, decoder, types)
    heads = int(config.num_attention_heads)
    width = int(getattr(config, "head_dim", None) or config.hidden_size // heads)
    shared = int(getattr(config, "num_key_value_heads", None) or heads)
    window = getattr(config, "sliding_window", None)
    return Facts(
        hidden_size=int(config.hidden_size),
        vocabulary=int(config.vocab_size),
        table_rows=len(model.get_input_embeddings().weight),
        kv_width=shared * width,
        layer_types=types,
        declares_types=bool(getattr(config, "layer_types", None)),
        window=None if window is None else int(window),
        max_context=_max_context(config),
        end_ids=end_ids_of(model),
        blocks_name=next(n for n, m in model.named_modules() if m is decoder.layers),
        linears={
            name: (int(module.in_features), int(module.out_features))
            for name, module in decoder.layers.named_modules()
            if isinstance(module, nn.Linear)
        },
        turned_by=_turned_by(config, decoder, types),
    )


def _check(name: str, config: Any, decoder: Any, types: tuple[str, ...]) -> None:
    if config.is_encoder_decoder:
        raise UnsupportedModelError(f"{name} is an encoder-decoder; expected a decoder only")
    if not getattr(config, "rope_parameters", None) or not hasattr(decoder, "rotary_emb"):
        raise UnsupportedModelError(
            f"{name} has no rotary positions; expected a decoder such as Llama, Mistral, Qwen, "
            "Gemma or Phi-3"
        )
    odd = set(types) - SUPPORTED_LAYERS
    if odd or getattr(config, "attention_chunk_size", None):
        raise UnsupportedModelError(
            f"{name} has layers of type {sorted(odd) or 'chunked attention'}, which keep no "
            "standard KV cache; expected full or sliding-window attention in every layer"
        )
    if getattr(config, "num_kv_shared_layers", 0):
        raise UnsupportedModelError(f"{name} shares KV between layers; expected one KV a layer")
    if config._attn_implementation not in ("sdpa", "eager"):
        raise UnsupportedModelError(
            f"{name} was loaded with attention {config._attn_implementation!r}, which takes no "
            "4D mask; load it with attn_implementation='sdpa' or 'eager'"
        )


def _layer_types(config: Any, layers: int) -> tuple[str, ...]:
    declared = getattr(config, "layer_types", None)
    if declared:
        return tuple(declared)
    window = getattr(config, "sliding_window", None)
    return ("sliding_attention" if window else "full_attention",) * layers


def _max_context(config: Any) -> int:
    limit = int(config.max_position_embeddings)
    for parameters in _ropes(config):
        if parameters.get("rope_type") in SHIFTING_ROPE:
            original = parameters.get("original_max_position_embeddings") or getattr(
                config, "original_max_position_embeddings", limit
            )
            limit = min(limit, int(original))
    return limit


def end_ids_of(model: Any) -> tuple[int, ...]:
    """As the model's generation config declares them."""
    declared = model.generation_config.eos_token_id
    return (declared,) if isinstance(declared, int) else tuple(declared or ())


def _by_type(config: Any) -> bool:
    """Whether each layer type has frequencies of its own."""
    return all(isinstance(value, dict) for value in config.rope_parameters.values())


def _ropes(config: Any) -> list[Any]:
    """What is said of each kind's positions."""
    rope = config.rope_parameters
    return list(rope.values()) if _by_type(config) else [rope]


def _turned_by(config: Any, decoder: Any, types: tuple[str, ...]) -> dict[str, float]:
    kinds = sorted(set(types)) if _by_type(config) else [""]
    return {
        kind: float(getattr(decoder.rotary_emb, _of_kind(kind, "attention_scaling"), 1.0))
        for kind in kinds
    }


def fixed_rotary(model: PreTrainedModel, facts: Facts) -> Rotary | None:
    """A model's rotary positions by themselves; None where they change with the text's length."""
    module: Any = decoder_of(model).rotary_emb
    if SHIFTING_ROPE & {rope.get("rope_type") for rope in _ropes(model.config.get_text_config())}:
        return None
    frequencies = {
        kind: getattr(module, _of_kind(kind, "inv_freq"), None) for kind in facts.turned_by
    }
    known = {kind: f.detach().float() for kind, f in frequencies.items() if f is not None}
    return Rotary(known, facts.turned_by) if known.keys() == frequencies.keys() else None


def _of_kind(kind: str, name: str) -> str:
    """What transformers calls one kind's in a module that holds several."""
    return f"{kind}_{name}" if kind else name
