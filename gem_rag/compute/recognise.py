"""From a transformers model to what our forward runs: known shapes only, weights fused."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from gem_rag.compute.base import Base
from gem_rag.compute.both import chosen
from gem_rag.compute.linear import Linear, Plain, joined
from gem_rag.compute.norm import RmsNorm
from gem_rag.compute.quantised import Codes, Quantised
from gem_rag.compute.replaced import Part, replace_in

# A tied output head is packed although the embedding table stays dense for look-ups, so these
# weights stand twice (113 MB of 653 in float32 for the default model). One row of 49,152 x 576 took
# 7.2 ms plain and 3.0 packed (8 rows: 22.2 and 4.6), in bfloat16 3.3 and 1.5 (4.0 and 2.2): a
# seventh of a decoding step.
PACK_TIED_HEAD = True

ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "silu": functional.silu,
    "swish": functional.silu,
    "gelu": functional.gelu,
    "gelu_new": partial(functional.gelu, approximate="tanh"),
    "gelu_pytorch_tanh": partial(functional.gelu, approximate="tanh"),
}
# Each fused layer, and the modules it is made of: split (Llama) or already fused (Phi-3).
SOURCES = {
    "qkv": (
        ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
        ("self_attn.qkv_proj",),
    ),
    "out": (("self_attn.o_proj",),),
    "gate_up": (("mlp.gate_proj", "mlp.up_proj"), ("mlp.gate_up_proj",)),
    "down": (("mlp.down_proj",),),
}
# Norms before and after attention, before and after the MLP: Llama's names, and Gemma 3's.
NORMS = ("input_layernorm", None, "post_attention_layernorm", None)
NORMS_AROUND = (
    "input_layernorm",
    "post_attention_layernorm",
    "pre_feedforward_layernorm",
    "post_feedforward_layernorm",
)
HEAD_NORMS = ("self_attn.q_norm", "self_attn.k_norm")
# What multiplies or bends values somewhere along the way, and what each must be to do nothing.
NEUTRAL = {
    "embedding_multiplier": 1.0,
    "residual_multiplier": 1.0,
    "logits_scaling": 1.0,
    "logit_scale": 1.0,
    "attn_logit_softcapping": None,
    "final_logit_softcapping": None,
    "use_bidirectional_attention": None,
}


class Unrecognised(Exception):  # noqa: N818
    """The model has something that our forward does not know; the message says what."""


@dataclass(frozen=True)
class Block:
    """One decoder block.

    Attributes:
        kind: ``full_attention`` or ``sliding_attention``: which mask it takes.
        rotary: Whether its queries and keys are turned by position.
        norms: Before and after attention, before and after the MLP.
        head_norm: Gain ``[H + KV, D]`` of the norm over each query's and key's head, or None.
        parts: For each fused layer, the names of its modules in the block and their widths.
        qkv: ``[n, hidden] -> [n, (H + 2 KV) D]``; likewise the other three.
    """

    kind: str
    rotary: bool
    norms: tuple[RmsNorm, RmsNorm | None, RmsNorm, RmsNorm | None]
    head_norm: Tensor | None
    parts: dict[str, list[tuple[str, int]]]
    qkv: Linear
    out: Linear
    gate_up: Linear
    down: Linear

    @property
    def nbytes(self) -> int:
        """Bytes of its weights."""
        norms = [n for n in (*self.norms, self.head_norm) if n is not None]
        layers = (self.qkv, self.out, self.gate_up, self.down)
        return sum(n.nbytes for n in norms) + sum(layer.nbytes for layer in layers)


def require_known(base: Base) -> None:
    """Raise `Unrecognised` unless everything in the model is something our forward computes."""
    config, decoder = base.config, base.decoder
    for name, neutral in NEUTRAL.items():
        value = getattr(config, name, neutral)
        if value and value != neutral:
            raise Unrecognised(f"its config has {name} = {value}")
    activation_of(base)
    if odd := {c for c, _ in decoder.named_children()} ^ {
        "embed_tokens",
        "layers",
        "norm",
        "rotary_emb",
    }:
        raise Unrecognised(f"its decoder differs in {sorted(odd)}")
    if odd := {str(p.dtype) for p in base.model.parameters()} - {str(base.dtype)}:
        raise Unrecognised(f"it has weights of {sorted(odd)} beside {base.dtype}")
    for i, block in enumerate(base.blocks):
        if odd := _unknown(block, int(config.num_attention_heads), head_dim_of(base)):
            raise Unrecognised(f"block {i} differs in {sorted(odd)}")


def activation_of(base: Base) -> Callable[[Tensor], Tensor]:
    """What bends the gate of the MLP."""
    config = base.config
    name = getattr(config, "hidden_act", None) or getattr(config, "hidden_activation", None)
    if name not in ACTIVATIONS:
        raise Unrecognised(f"its activation is {name!r}")
    return ACTIVATIONS[name]


def _unknown(block: nn.Module, heads: int, head_dim: int) -> set[str]:
    """Names of parameters and modules that are needed and not there, or there and not known."""
    modules = dict(block.named_modules())
    parameters = {name for name, _ in block.named_parameters()}
    linears = {n for names in _sources(modules).values() for n in names}
    odd = {n for n in linears if not isinstance(modules.get(n), nn.Linear)}
    odd |= {n for n in linears & modules.keys() if _is_subclass(modules[n])}
    norms = {n for n in _norms(modules) if n}
    if HEAD_NORMS[0] in modules:
        norms |= set(HEAD_NORMS)
    for name in HEAD_NORMS:  # over each head: over all heads at once is another shape (OLMo 2)
        if name in modules and getattr(modules[name], "weight", torch.empty(0)).numel() != head_dim:
            odd.add(name)
    needed = {f"{n}.weight" for n in norms}
    own = {f"{n}.{p}" for n in linears for p in ("weight", "bias")}
    odd |= (needed - parameters) | (parameters - needed - own)
    if any(_half_biased(modules, names) for names in _sources(modules).values()):
        odd.add("biases")
    holders = {"", "self_attn", "mlp"} | linears | norms
    for name in modules.keys() - holders:
        activation = name.startswith("mlp.act")
        if not activation and not isinstance(modules[name], nn.Dropout):
            odd.add(name)
    queries = modules.get("self_attn.o_proj")
    if isinstance(queries, nn.Linear) and queries.in_features != heads * head_dim:
        odd.add("self_attn.o_proj")
    return odd


def _is_subclass(module: nn.Module) -> bool:
    """Quantised and otherwise special linear layers compute something else."""
    return type(module) not in (nn.Linear, Part)


def _half_biased(modules: dict[str, nn.Module], names: tuple[str, ...]) -> bool:
    return len({getattr(modules.get(n), "bias", None) is None for n in names}) > 1


def _sources(modules: dict[str, nn.Module]) -> dict[str, tuple[str, ...]]:
    """Names of the modules that each fused layer is made of."""
    return {
        fused: next((names for names in choices if names[0] in modules), choices[0])
        for fused, choices in SOURCES.items()
    }


def _norms(modules: dict[str, nn.Module]) -> tuple[str | None, ...]:
    return NORMS_AROUND if NORMS_AROUND[2] in modules else NORMS


def head_dim_of(base: Base) -> int:
    """Width of a head."""
    config = base.config
    given = getattr(config, "head_dim", None)
    return int(given or config.hidden_size // config.num_attention_heads)


def eps_of(norm: Any) -> float:
    """What an RMS norm adds to the mean square."""
    return float(getattr(norm, "variance_epsilon", None) or getattr(norm, "eps", None) or 0.0)


def gain_of(norm: Any, eps: float) -> Tensor:
    """The gain with which `functional.rms_norm` does what the module does.

    Raises:
        Unrecognised: None does: a mean is taken off, say, or epsilon is another.
    """
    weight: Tensor = norm.weight.detach()
    x = torch.linspace(-1.0, 2.0, weight.numel(), dtype=weight.dtype, device=weight.device)
    expected = norm(x[None])[0]
    close = 1e-4 if weight.dtype == torch.float32 else 3e-2
    for gain in (weight, 1 + weight):  # Gemma stores what is added to one
        found = functional.rms_norm(x, weight.shape, gain, eps)
        if eps == eps_of(norm) and torch.allclose(found, expected, rtol=close, atol=close):
            return gain
    raise Unrecognised(f"its norm, {type(norm).__name__}, is no RMS norm of epsilon {eps}")


def blocks_of(base: Base, *, replace: bool) -> Iterator[Block]:
    """The blocks one by one; the modules of each are replaced before the next is made."""
    eps = eps_of(base.decoder.norm)
    layers = zip(base.blocks, base.layer_types, strict=True)
    for i, (block, kind) in enumerate(layers):
        modules = dict(block.named_modules())
        norms = [n and RmsNorm(gain_of(modules[n], eps), eps) for n in _norms(modules)]
        head_norm = _head_norm(modules, base, eps)
        sources = _sources(modules)
        place = f"{base.blocks_name}.{i}"
        linears = {
            f: fuse([modules[n] for n in names], base.codes_of([f"{place}.{n}" for n in names]))
            for f, names in sources.items()
        }
        widths = {f: [(n, _out(modules[n])) for n in names] for f, names in sources.items()}
        if replace:
            for fused, parts in widths.items():
                replace_in(block, linears[fused], parts)
        yield Block(
            kind=kind,
            rotary=bool(getattr(modules["self_attn"], "use_rope", True)),
            norms=(norms[0], norms[1], norms[2], norms[3]),  # type: ignore[arg-type]
            head_norm=head_norm,
            parts=widths,
            **linears,
        )


def _out(linear: Any) -> int:
    return int(linear.out_features)


def _head_norm(modules: dict[str, nn.Module], base: Base, eps: float) -> Tensor | None:
    """Both gains as one ``[H + KV, D]``: queries and keys are normed in one go."""
    if HEAD_NORMS[0] not in modules:
        return None
    heads = int(base.config.num_attention_heads), int(base.config.num_key_value_heads)
    gains = [
        gain_of(modules[n], eps).expand(count, -1)
        for n, count in zip(HEAD_NORMS, heads, strict=True)
    ]
    return torch.cat(gains)


def quantised_in(module: Any) -> Quantised | None:
    """The quantised layer that a module stands for, if it does."""
    whole = module.whole if isinstance(module, Part) else None
    return whole if isinstance(whole, Quantised) else None


def fuse(modules: list[Any], codes: Sequence[Codes] = ()) -> Linear:
    """Linear layers of one input as one layer; quantised ones stay what they are.

    Args:
        modules: The layers.
        codes: What stands for the weight of each, where the base has that too.
    """
    quantised = [layer for layer in map(quantised_in, modules) if layer is not None]
    if quantised:
        kind = type(quantised[0])
        if len(quantised) < len(modules) or {type(layer) for layer in quantised} != {kind}:
            raise Unrecognised("layers of one input are in several number formats")
        return kind.fused(quantised)
    weights = [m.weight.detach() for m in modules]
    biases = [m.bias.detach() for m in modules if m.bias is not None]
    return chosen(joined(weights), torch.cat(biases) if biases else None, codes)


def head_of(base: Base, *, replace: bool) -> Linear:
    """The output head; the model's own is replaced, unless the embedding holds its weight."""
    head: Any = base.model.get_output_embeddings()
    if (own := quantised_in(head)) is not None:
        return own
    table = base.model.get_input_embeddings().weight
    tied = head.weight is table
    bias = None if head.bias is None else head.bias.detach()
    if tied and not PACK_TIED_HEAD:
        return Plain(head.weight.detach(), bias)
    name = next(n for n, module in base.model.named_modules() if module is head)
    whole = chosen(head.weight.detach(), bias, base.codes_of([name]))
    if replace:
        shared = table if tied else None
        base.model.set_output_embeddings(Part(whole, slice(None), head, shared))
    return whole
