"""From a transformers model to the outline of what our forward runs: known shapes only."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from gem_rag.compute.base import Base
from gem_rag.compute.block import ACTIVATIONS
from gem_rag.compute.both import chosen
from gem_rag.compute.linear import Linear, choose, joined
from gem_rag.compute.outline import BlockOutline, Gain, Outline
from gem_rag.compute.quantised import Codes, Quantised
from gem_rag.compute.replaced import Part, is_tied, replace_head, replace_in

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


def activation_of(base: Base) -> str:
    """What bends the gate of the MLP."""
    config = base.config
    name = getattr(config, "hidden_act", None) or getattr(config, "hidden_activation", None)
    if name not in ACTIVATIONS:
        raise Unrecognised(f"its activation is {name!r}")
    return str(name)


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


def gain_of(name: str, norm: Any, eps: float) -> Gain:
    """The gain with which `functional.rms_norm` does what the module of that name does.

    Raises:
        Unrecognised: None does: a mean is taken off, say, or epsilon is another.
    """
    weight: Tensor = norm.weight.detach()
    x = torch.linspace(-1.0, 2.0, weight.numel(), dtype=weight.dtype, device=weight.device)
    expected = norm(x[None])[0]
    close = 1e-4 if weight.dtype == torch.float32 else 3e-2
    for plus_one in (False, True):
        gain = weight + 1 if plus_one else weight
        found = functional.rms_norm(x, weight.shape, gain, eps)
        if eps == eps_of(norm) and torch.allclose(found, expected, rtol=close, atol=close):
            return Gain(f"{name}.weight", plus_one)
    raise Unrecognised(f"its norm, {type(norm).__name__}, is no RMS norm of epsilon {eps}")


def outline_of(base: Base) -> Outline:
    """What our forward has to compute.

    Raises:
        Unrecognised: Something in the model is not known to it.
    """
    require_known(base)
    config, facts, model = base.config, base.facts, base.model
    eps = eps_of(base.decoder.norm)
    embedding, head = model.get_input_embeddings(), model.get_output_embeddings()
    names = {id(module): name for name, module in model.named_modules()}
    scale = getattr(embedding, "embed_scale", None)
    return Outline(
        heads=int(config.num_attention_heads),
        kv_heads=int(config.num_key_value_heads),
        head_dim=head_dim_of(base),
        window=facts.window or 0,
        scale=float(getattr(base.blocks[0].self_attn, "scaling", head_dim_of(base) ** -0.5)),
        eps=eps,
        activation=activation_of(base),
        table=f"{names[id(embedding)]}.weight",
        table_scale=None if scale is None else float(scale),
        norm=gain_of(names[id(base.decoder.norm)], base.decoder.norm, eps),
        head=names[id(head)],
        tied=is_tied(model),
        rotary_kinds=tuple(facts.turned_by),
        blocks_name=facts.blocks_name,
        blocks=tuple(
            _block(f"{facts.blocks_name}.{i}", block, kind, eps)
            for i, (block, kind) in enumerate(zip(base.blocks, facts.layer_types, strict=True))
        ),
    )


def _block(prefix: str, block: nn.Module, kind: str, eps: float) -> BlockOutline:
    modules: dict[str, Any] = dict(block.named_modules())

    def gain(name: str) -> Gain:
        return gain_of(f"{prefix}.{name}", modules[name], eps)

    norms = [gain(name) if name else None for name in _norms(modules)]
    return BlockOutline(
        kind=kind,
        rotary=bool(getattr(modules["self_attn"], "use_rope", True)),
        norms=(norms[0], norms[1], norms[2], norms[3]),
        head_norms=(
            (gain(HEAD_NORMS[0]), gain(HEAD_NORMS[1])) if HEAD_NORMS[0] in modules else None
        ),
        parts={
            fused: [(name, int(modules[name].out_features)) for name in names]
            for fused, names in _sources(modules).items()
        },
    )


class Modules:
    """A model's own modules as the `Source` of its outline.

    Args:
        base: The model.
        replace: Replace its linear layers, block by block, by parts of the fused ones.
    """

    def __init__(self, base: Base, *, replace: bool) -> None:
        self._base, self._replace = base, replace

    def tensor(self, name: str) -> Tensor:
        """A parameter."""
        tensor: Tensor = self._base.model.get_parameter(name).detach()
        return tensor

    def linear(self, names: Sequence[str]) -> Linear:
        """Some of its linear layers as one."""
        modules = [self._base.model.get_submodule(name) for name in names]
        return fuse(modules, self._base.codes_of(names))

    def head(self, outline: Outline) -> Linear:
        """The model's own is replaced, unless the embedding holds its weight."""
        head: Any = self._base.model.get_output_embeddings()
        if (own := quantised_in(head)) is not None:
            return own
        bias = None if head.bias is None else head.bias.detach()
        # Packed, though a tied table stays dense for look-ups and its weights stand twice (113 MB
        # of 653 in float32 for the default model): a row of 49,152 x 576 took 7.2 ms plain and 3.0
        # packed, in bfloat16 3.3 and 1.5, a seventh of a decoding step. Floats for few rows too:
        # its int8 would be most of what the default format loses, and gain a thirtieth of a step.
        whole = choose(head.weight.detach(), bias)
        if self._replace:
            replace_head(self._base.model, whole, tied=outline.tied)
        return whole

    def used(self, index: int, outline: BlockOutline, linears: Mapping[str, Linear]) -> None:
        """Replace the modules of a block, before the next is made."""
        if self._replace:
            for fused, parts in outline.parts.items():
                replace_in(self._base.blocks[index], linears[fused], parts)


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
