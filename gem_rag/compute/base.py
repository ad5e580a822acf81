"""The base model: what it must be able to do, and one forward pass under GEM's attention rule."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from gem_rag.compute.adapter import Acting, applied
from gem_rag.compute.attention import Role, Rule, Tokens, additive, visible
from gem_rag.compute.kv import empty_cache, layers_of
from gem_rag.compute.quantised import Codes
from gem_rag.errors import UnsupportedModelError

if TYPE_CHECKING:
    from transformers import PreTrainedModel
    from transformers.cache_utils import Cache

SUPPORTED_LAYERS = {"full_attention", "sliding_attention"}
# These rewrite their frequencies once a text outgrows the original window, and old keys with them.
SHIFTING_ROPE = {"dynamic", "longrope"}

MOVED = 0.02  # of the first layer's keys, on average: what moving may change, rounding included


class Base:
    """A causal decoder from ``AutoModelForCausalLM``, its weights untouched.

    Args:
        model: The loaded model.
        number_format: Of its weights, where it is not the dtype that is computed in.
        rounded: Whether that changed them so much that vectors are others.
        codes: What stands for the weights of its linear layers, by module: for our own forward,
            which takes them over.

    Raises:
        UnsupportedModelError: The architecture cannot be read and embedded; the message says why.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        number_format: str | None = None,
        *,
        rounded: bool = False,
        codes: Mapping[str, Codes] | None = None,
    ) -> None:
        self.model = model.eval().requires_grad_(False)
        self.config = model.config.get_text_config()
        self.decoder = _decoder(model)
        self.blocks: nn.ModuleList = self.decoder.layers
        # Renamed within transformers 5; the old name warns at every call.
        accepted = inspect.signature(self.decoder.forward).parameters
        self.cache_argument = "cache" if "cache" in accepted else "past_key_values"
        self._shallow: dict[int, Any] = {}
        self.rounded = rounded
        self._number_format = number_format
        self._codes = codes or {}
        self._check()

    def _check(self) -> None:
        name, config = type(self.model).__name__, self.config
        if config.is_encoder_decoder:
            raise UnsupportedModelError(f"{name} is an encoder-decoder; expected a decoder only")
        rope = getattr(config, "rope_parameters", None)
        if not rope or not hasattr(self.decoder, "rotary_emb"):
            raise UnsupportedModelError(
                f"{name} has no rotary positions; expected a decoder such as Llama, Mistral, Qwen, "
                "Gemma or Phi-3"
            )
        odd = set(self.layer_types) - SUPPORTED_LAYERS
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

    @property
    def layer_types(self) -> list[str]:
        """Kind of attention of each layer."""
        declared = getattr(self.config, "layer_types", None)
        if declared:
            return list(declared)
        window = getattr(self.config, "sliding_window", None)
        return ["sliding_attention" if window else "full_attention"] * len(self.blocks)

    @property
    def num_layers(self) -> int:
        """Number of decoder blocks."""
        return len(self.blocks)

    @property
    def hidden_size(self) -> int:
        """Width of the hidden states."""
        return int(self.config.hidden_size)

    @property
    def vocabulary(self) -> int:
        """Number of logits."""
        return int(self.config.vocab_size)

    @property
    def kv_bytes_per_token(self) -> int:
        """Bytes of one token's keys and values in all layers."""
        heads = int(self.config.num_attention_heads)
        width = int(getattr(self.config, "head_dim", None) or self.hidden_size // heads)
        shared = int(getattr(self.config, "num_key_value_heads", None) or heads)
        return self.num_layers * 2 * shared * width * self.dtype.itemsize

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        device: torch.device = self.model.device
        return device

    @property
    def number_format(self) -> str:
        """Of the weights: a dtype's name, ``int8``, ``int4`` or ``bfloat16+int4``."""
        return self._number_format or str(self.dtype).removeprefix("torch.")

    def codes_of(self, modules: Sequence[str]) -> list[Codes]:
        """What stands for the weights of some modules; nothing unless it is there for each."""
        found = [self._codes[name] for name in modules if name in self._codes]
        return found if len(found) == len(modules) else []

    def drop_codes(self, *, used: bool) -> None:
        """Let go of them: they have been laid out (`used`), or the floats serve alone."""
        if self._codes and not used:
            self._number_format = None
        self._codes = {}

    @property
    def dtype(self) -> torch.dtype:
        """What is computed in: the dtype of activations, and of weights that are not quantised."""
        dtype: torch.dtype = self.model.dtype
        return dtype

    @property
    def blocks_name(self) -> str:
        """Where the decoder blocks are inside the model, as PEFT names them."""
        names = (name for name, module in self.model.named_modules() if module is self.blocks)
        return str(next(names))

    @property
    def end_ids(self) -> list[int]:
        """Ids that end an answer, as the model's generation config declares them."""
        declared = self.model.generation_config.eos_token_id
        return [declared] if isinstance(declared, int) else list(declared or [])

    @property
    def max_context(self) -> int:
        """How many tokens fit, preamble included, such that cached keys stay valid."""
        limit = int(self.config.max_position_embeddings)
        rope = self.config.rope_parameters
        per_layer = rope.values() if self._rope_by_type else [rope]
        for parameters in per_layer:
            if parameters.get("rope_type") in SHIFTING_ROPE:
                original = parameters.get("original_max_position_embeddings") or getattr(
                    self.config, "original_max_position_embeddings", limit
                )
                limit = min(limit, int(original))
        return limit

    def masks(self, queries: Tokens, keys: Tokens, rule: Rule = Rule.GEM) -> Any:
        """The additive mask ``[B, 1, Q, N]``, or a dict of one per layer type where layers differ.

        Follows transformers' own rule: a config that declares ``layer_types`` takes a dict.
        """
        by_type = {
            kind: additive(mask, self.dtype)
            for kind, mask in self.bool_masks(queries, keys, rule).items()
        }
        return self.mask_argument(by_type)

    def mask_argument(self, by_type: dict[str, Tensor]) -> Any:
        """What the decoder takes: the dict itself, or its only mask."""
        if getattr(self.config, "layer_types", None):
            return by_type
        (mask,) = by_type.values()
        return mask

    def _window(self, kind: str) -> int | None:
        return int(self.config.sliding_window) if kind == "sliding_attention" else None

    def bool_masks(self, queries: Tokens, keys: Tokens, rule: Rule = Rule.GEM) -> dict[str, Tensor]:
        """The bool masks per layer type, for callers that rearrange them first."""
        return {
            kind: visible(queries, keys, window=self._window(kind), rule=rule)
            for kind in set(self.layer_types)
        }

    def embed_tokens(self, ids: Tensor) -> Tensor:
        """Token vectors ``[..., hidden]`` as the first block gets them."""
        embedding = self.model.get_input_embeddings()
        out: Tensor = embedding(ids)
        return out

    def run(
        self,
        inputs: Tensor,
        positions: Tensor,
        mask: Any,
        cache: Cache,
        acting: Sequence[Acting] = (),
    ) -> Tensor:
        """Run the decoder blocks; keys and values are appended to `cache`.

        Args:
            inputs: int64 ids ``[B, Q]`` or vectors ``[B, Q, hidden]``.
            positions: int64 ``[B, Q]``.
            mask: What `masks` gives; None for a plain causal pass of one unpadded row.
            cache: What the queries see besides themselves. As many blocks are run as it has layers.
            acting: Adapters, and at which of the queries each acts.

        Returns:
            The last of these blocks' output, through the decoder's final norm, ``[B, Q, hidden]``.
        """
        named = "inputs_embeds" if inputs.is_floating_point() else "input_ids"
        with applied(acting):
            out: Tensor = self._first(len(cache.layers))(
                **{named: inputs, self.cache_argument: cache},
                position_ids=positions,
                attention_mask=mask,
                use_cache=True,
            ).last_hidden_state
        return out

    def _first(self, layers: int) -> Any:
        """The decoder with its first blocks only: the same modules, so the same weights."""
        if layers == self.num_layers:
            return self.decoder
        if layers not in self._shallow:
            decoder = copy.copy(self.decoder)
            decoder._modules = {**self.decoder._modules, "layers": self.blocks[:layers]}
            self._shallow[layers] = decoder
        return self._shallow[layers]

    def rotate(self, keys: Tensor, distance: int, layer: int) -> Tensor:
        """Keys ``[..., n, D]`` read at positions p, as if read at p + distance."""
        at = torch.tensor([[distance]], device=keys.device)
        kind = [self.layer_types[layer]] if self._rope_by_type else []
        cos, sin = self.decoder.rotary_emb(keys, at, *kind)  # (1, 1, R), R <= D: partial rotary
        scaling = self._rope_scaling(kind)
        cos, sin = cos[0, 0].float() / scaling, sin[0, 0].float() / scaling
        width = cos.shape[-1]
        turned, rest = keys[..., :width].float(), keys[..., width:]
        half = torch.cat([-turned[..., width // 2 :], turned[..., : width // 2]], dim=-1)
        return torch.cat([(turned * cos + half * sin).to(keys.dtype), rest], dim=-1)

    @property
    def _rope_by_type(self) -> bool:
        """Whether each layer type has frequencies of its own."""
        return all(isinstance(v, dict) for v in self.config.rope_parameters.values())

    @property
    def rotary_kinds(self) -> list[str]:
        """Layer types with frequencies of their own; one empty name where all share theirs."""
        return sorted(set(self.layer_types)) if self._rope_by_type else [""]

    def _rope_scaling(self, kind: list[str]) -> float:
        name = f"{kind[0]}_attention_scaling" if kind else "attention_scaling"
        return float(getattr(self.decoder.rotary_emb, name, 1.0))

    @cached_property
    def can_join(self) -> bool:
        """Whether keys can be moved: read at p + d they must be those read at p, rotated by d.

        In 16 bits the keys of upper layers differ by a third, rounded (SmolLM2's from the twelfth
        on): there the rotated ones have to be nearer than those left as they are.
        """
        ids = torch.arange(2, 10, device=self.device)[None]
        index = torch.arange(8, device=self.device)[None]
        distance = min(37, self.max_context - 8)
        with torch.inference_mode():
            here, there = empty_cache(self.num_layers), empty_cache(self.num_layers)
            self.run(ids, index, None, here)
            tokens = Tokens(index + distance, torch.full_like(index, Role.PREFIX))
            self.run(ids, index + distance, self.masks(tokens, tokens), there)
            for i, ((a, _), (b, _)) in enumerate(
                zip(layers_of(here), layers_of(there), strict=True)
            ):
                size = b.float().abs().mean()
                left = (a.float() - b.float()).abs().mean() / size
                turned = (self.rotate(a, distance, i).float() - b.float()).abs().mean() / size
                if not turned <= (left if i else MOVED):
                    return False
        return True

    def logits(self, hidden: Tensor) -> Tensor:
        """``[..., hidden] -> [..., vocab]``, with the model's own output head and soft capping."""
        out: Tensor = self.model.get_output_embeddings()(hidden)
        cap = getattr(self.config, "final_logit_softcapping", None)
        if cap:
            out = torch.tanh(out / cap) * cap
        return out


def _decoder(model: PreTrainedModel) -> Any:
    decoder = model.get_decoder()
    if not isinstance(getattr(decoder, "layers", None), nn.ModuleList):
        raise UnsupportedModelError(
            f"{type(model).__name__} keeps its decoder blocks in no `layers` list; expected a "
            "decoder such as Llama, Mistral, Qwen, Gemma or Phi-3"
        )
    return decoder
