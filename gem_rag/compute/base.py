"""The base model: what it must be able to do, and one forward pass under GEM's attention rule."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from gem_rag.compute.adapter import Acting, Adapter, applied
from gem_rag.compute.attention import Rule, Tokens, additive, visible
from gem_rag.compute.facts import Facts, Rotary, decoder_of, end_ids_of, facts_of
from gem_rag.compute.kv import Cache
from gem_rag.compute.quantised import Codes
from gem_rag.config import AdapterConfig

if TYPE_CHECKING:
    from transformers import PreTrainedModel


@dataclass(frozen=True)
class Unloaded:
    """A model whose modules nobody has asked for yet: a forward of our own runs in its place.

    Attributes:
        facts: The model's.
        rotary: Its positions.
        dtype: It computes in.
        device: It will be on.
        load: Makes it, with its weights.
        guard: One thread at a time may.
    """

    facts: Facts
    rotary: Rotary
    dtype: torch.dtype
    device: torch.device
    load: Callable[[], PreTrainedModel]
    guard: AbstractContextManager[Any]


class Base:
    """A causal decoder from ``AutoModelForCausalLM``, its weights untouched.

    Args:
        model: The loaded model, or what stands for it until it is asked for.
        number_format: Of its weights, where it is not the dtype that is computed in.
        rounded: Whether that changed them so much that vectors are others.
        codes: What stands for the weights of its linear layers, by module: for our own forward,
            which takes them over.

    Raises:
        UnsupportedModelError: The architecture cannot be read and embedded; the message says why.

    Attributes:
        facts: All that is asked of it outside its forward.
    """

    def __init__(
        self,
        model: PreTrainedModel | Unloaded,
        number_format: str | None = None,
        *,
        rounded: bool = False,
        codes: Mapping[str, Codes] | None = None,
    ) -> None:
        self._held = model
        if isinstance(model, Unloaded):
            self.facts = model.facts
        else:
            self.facts = facts_of(model.eval().requires_grad_(False))
        self._shallow: dict[int, Any] = {}
        self._waiting: list[Callable[[Any], object]] = []
        self.rounded = rounded
        self._number_format = number_format
        self._codes = codes or {}

    @property
    def model(self) -> Any:
        """The ``PreTrainedModel`` itself; where it was not loaded yet, it is now."""
        held = self._held
        if isinstance(held, Unloaded):
            with held.guard, torch.inference_mode(False), torch.no_grad():
                if self._held is held:
                    self._load(held)
        return self._held

    def _load(self, held: Unloaded) -> None:
        model = held.load().eval().requires_grad_(False)
        for do in self._waiting:
            do(model)
        self._waiting.clear()
        self._held = model

    def once_loaded(self, do: Callable[[Any], object]) -> None:
        """Do something with the model as soon as it is there."""
        held = self._held
        if isinstance(held, Unloaded):
            with held.guard:
                if self._held is held:
                    self._waiting.append(do)
                    return
        do(self._held)

    @property
    def config(self) -> Any:
        """The model's text config."""
        return self.model.config.get_text_config()

    @property
    def decoder(self) -> Any:
        """The model without its head."""
        return decoder_of(self.model)

    @property
    def blocks(self) -> nn.ModuleList:
        """The decoder's blocks."""
        blocks: nn.ModuleList = self.decoder.layers
        return blocks

    @cached_property
    def cache_argument(self) -> str:
        """What the decoder calls its cache: renamed within transformers 5, the old name warns."""
        accepted = inspect.signature(self.decoder.forward).parameters
        return "cache" if "cache" in accepted else "past_key_values"

    def new_adapter(self, config: AdapterConfig, layers: int | None = None) -> Adapter:
        """An adapter of the first so many blocks (None: all) that changes nothing yet."""
        linears = {
            name: shape
            for name, shape in self.facts.linears.items()
            if layers is None or int(name.split(".", 1)[0]) < layers
        }
        adapter = Adapter(linears, config, self.facts.blocks_name, self.device)
        self.once_loaded(adapter.hang_on)
        return adapter

    @property
    def layer_types(self) -> tuple[str, ...]:
        """Kind of attention of each layer."""
        return self.facts.layer_types

    @property
    def num_layers(self) -> int:
        """Number of decoder blocks."""
        return len(self.facts.layer_types)

    @property
    def hidden_size(self) -> int:
        """Width of the hidden states."""
        return self.facts.hidden_size

    @property
    def vocabulary(self) -> int:
        """Number of logits."""
        return self.facts.vocabulary

    @property
    def kv_bytes_per_token(self) -> int:
        """Bytes of one token's keys and values in all layers."""
        return self.num_layers * 2 * self.facts.kv_width * self.dtype.itemsize

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self._held.device

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
        return self._held.dtype

    @property
    def end_ids(self) -> tuple[int, ...]:
        """Ids that end an answer, as the model's generation config declares them."""
        held = self._held  # who has the model may have set others
        return self.facts.end_ids if isinstance(held, Unloaded) else end_ids_of(held)

    @property
    def max_context(self) -> int:
        """How many tokens fit, preamble included, such that cached keys stay valid."""
        return self.facts.max_context

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
        if self.facts.declares_types:
            return by_type
        (mask,) = by_type.values()
        return mask

    def _window(self, kind: str) -> int | None:
        return self.facts.window if kind == "sliding_attention" else None

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
        from gem_rag.compute.theirs import as_theirs

        named = "inputs_embeds" if inputs.is_floating_point() else "input_ids"
        with applied(acting):
            out: Tensor = self._first(len(cache.layers))(
                **{named: inputs, self.cache_argument: as_theirs(cache)},
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

    @property
    def rotary(self) -> Callable[..., tuple[Tensor, Tensor]]:
        """Cosines and sines ``[B, Q, R]`` for vectors, their positions and a kind of layer.

        transformers' own module where it is loaded, so that every way of stretching positions is
        right.
        """
        if isinstance(self._held, Unloaded):
            return self._held.rotary
        rotary: Callable[..., tuple[Tensor, Tensor]] = self.decoder.rotary_emb
        return rotary

    def rotate(self, keys: Tensor, distance: int, layer: int) -> Tensor:
        """Keys ``[..., n, D]`` read at positions p, as if read at p + distance."""
        at = torch.tensor([[distance]], device=keys.device)
        kind = self.layer_types[layer] if "" not in self.facts.turned_by else ""
        cos, sin = self.rotary(keys, at, *filter(None, [kind]))  # (1, 1, R), R <= D: partial
        scaling = self.facts.turned_by[kind]
        cos, sin = cos[0, 0].float() / scaling, sin[0, 0].float() / scaling
        width = cos.shape[-1]
        turned, rest = keys[..., :width].float(), keys[..., width:]
        half = torch.cat([-turned[..., width // 2 :], turned[..., : width // 2]], dim=-1)
        return torch.cat([(turned * cos + half * sin).to(keys.dtype), rest], dim=-1)

    def logits(self, hidden: Tensor) -> Tensor:
        """``[..., hidden] -> [..., vocab]``, with the model's own output head and soft capping."""
        out: Tensor = self.model.get_output_embeddings()(hidden)
        cap = getattr(self.config, "final_logit_softcapping", None)
        if cap:
            out = torch.tanh(out / cap) * cap
        return out
