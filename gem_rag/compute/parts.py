"""What a checkpoint loads and training changes: the weights, their tokenizer and their config."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn

from gem_rag.compute.adapter import EVERYWHERE, Acting, Adapter
from gem_rag.compute.attention import Role, Tokens
from gem_rag.compute.base import Base
from gem_rag.compute.decoder import Decoder, Unrecognised
from gem_rag.compute.kv import Cache, empty_cache, layers_of
from gem_rag.compute.skill import Skill
from gem_rag.config import GemConfig
from gem_rag.errors import CheckpointError, GemError
from gem_rag.text.codec import TextCodec

log = logging.getLogger(__name__)
MOVED = 0.02  # of the first layer's keys, on average: what moving may change, rounding included
Forward = Literal["auto", "transformers"]


@dataclass(eq=False)
class Parts:
    """A model's parts. What is made of them (reader, embedder, ...) sees each change of theirs.

    Attributes:
        base: The base model, untouched.
        codec: Its tokenizer and chat template.
        config: The checkpoint's config.
        adapter: Acts at the special tokens; a new one changes nothing.
        special_vectors: float32 ``[K, hidden]``, the special tokens as the first block gets them.
        whitening: float32 ``[d, r]``: what is weakened in queries, see `Embedder`; r is 0 without.
        skills: What it has learned to do after a text, by name.
        decoder: Our own forward; None where transformers' runs.
        forward_note: Which one runs, and why.
        fingerprint: Of all that decides an embedding.
        reading_fingerprint: Of all that decides a reading.
        path: The folder it was loaded from; None for a new one.
        recomputes: Whether the base's blocks make their activations again for a backward pass.
        embeds: Whether its special tokens are a checkpoint's or being trained; not those of a base
            that was loaded without one.
        replays: Whether steps of decoding are recorded and replayed: on CUDA.
    """

    base: Base
    codec: TextCodec
    config: GemConfig
    adapter: Adapter = field(init=False)
    special_vectors: nn.Parameter = field(init=False)
    whitening: Tensor = field(init=False)
    skills: dict[str, Skill] = field(init=False, default_factory=dict)
    decoder: Decoder | None = field(init=False, default=None)
    forward_note: str = field(init=False, default="transformers'")
    fingerprint: str = ""
    reading_fingerprint: str = ""
    path: Path | None = None
    embeds: bool = True
    recomputes: bool = False
    replays: bool = field(init=False)

    def __post_init__(self) -> None:
        base, config = self.base, self.config
        if self.embed_layers > base.num_layers:
            raise CheckpointError(
                f"embed_layers is {self.embed_layers}, but {config.base.name} has "
                f"{base.num_layers} layers; expected at most as many"
            )
        self.adapter = base.new_adapter(config.adapter, self.embed_layers)
        self.special_vectors = nn.Parameter(
            torch.zeros(config.num_special_tokens, base.hidden_size, device=base.device)
        )
        self.whitening = torch.zeros(self.dim, 0, device=base.device)
        self.replays = base.device.type == "cuda"

    def require_embeds(self) -> None:
        """Raise `CheckpointError` for a base without a checkpoint."""
        if not self.embeds:
            raise CheckpointError(
                f"{self.config.base.name} is a plain model that has not learned to embed: train "
                "a checkpoint for it (`gem-rag train default --set base=... --set output=...`) and "
                "load that; as it is, it finds by words, ranks and answers"
            )

    def skill(self, name: str) -> Skill:
        """A skill by its name.

        Raises:
            GemError: There is none of this name; those there are are named.
        """
        if name not in self.skills:
            there = ", ".join(sorted(self.skills)) or "none"
            raise GemError(
                f"{self.config.base.name} has no skill {name!r}; it has: {there}. None asks the "
                "plain base; `gem-rag train-skill` makes new ones"
            )
        return self.skills[name]

    @property
    def dim(self) -> int:
        """Length d of an embedding."""
        k = self.config.num_special_tokens if self.config.pooling == "concat" else 1
        return k * self.base.hidden_size

    @property
    def embed_layers(self) -> int:
        """How many of the base's layers are run to embed."""
        return self.config.embed_layers or self.base.num_layers

    @property
    def shares_readings(self) -> bool:
        """Whether what was read to embed can be ranked and continued (not for one scope)."""
        return self.config.adapter_scope != "embedding"

    @property
    def end_ids(self) -> frozenset[int]:
        """Ids that end an answer."""
        return frozenset([*self.base.end_ids, *self.codec.end_ids])

    @property
    def embeds_adapted(self) -> bool:
        """Whether the adapter is on while a text is read to embed it (not with ``tokens``)."""
        return self.config.adapter_scope != "tokens"

    @property
    def generates_adapted(self) -> bool:
        """Whether the adapter is on while generating: with the scope ``always`` alone."""
        return self.config.adapter_scope == "always"

    def everywhere(self, adapted: bool) -> list[Acting]:
        """The adapter acting at every position, or nowhere."""
        return self.adapter.at(EVERYWHERE if adapted else None)

    def choose_forward(self, forward: Forward, *, keep_weights: bool) -> None:
        """Take our own forward where the base is known to it, else transformers'.

        Args:
            forward: ``auto``, or ``transformers`` for its results bit for bit.
            keep_weights: Leave the base's modules their own weights beside the packed ones: for a
                base that gradients flow through.

        Raises:
            ValueError: `forward` is neither.
        """
        if forward not in get_args(Forward):
            raise ValueError(f"forward is {forward!r}; expected one of {get_args(Forward)}")
        if forward == "transformers":
            self.forward_note = "transformers', as asked for"
            self.base.drop_codes(used=False)
            return
        try:
            self.take(Decoder.of(self.base, keep_weights=keep_weights))
        except Unrecognised as error:
            self.forward_note = f"transformers': {error}"
            log.info("%s runs on transformers' forward: %s", self.config.base.name, error)
        self.base.drop_codes(used=self.decoder is not None)

    def take(self, decoder: Decoder) -> None:
        """Run on this forward."""
        self.decoder, self.forward_note = decoder, "our own"

    @property
    def runs_fast(self) -> bool:
        """Whether our own forward serves here, and no gradients are asked for."""
        return self._fast is not None and not torch.is_grad_enabled()

    @property
    def _fast(self) -> Decoder | None:
        """Our own forward, except under autocast, and where activations are made twice."""
        autocast = torch.is_autocast_enabled(self.base.device.type)
        if autocast or (self.recomputes and torch.is_grad_enabled()):
            return None
        return self.decoder

    def run(
        self,
        inputs: Tensor,
        positions: Tensor,
        mask: Any,
        cache: Cache,
        acting: Sequence[Acting] = (),
    ) -> Tensor:
        """Run decoder blocks, on our own forward where it serves: see `Base.run`."""
        return (self._fast or self.base).run(inputs, positions, mask, cache, acting)

    def logits(self, hidden: Tensor) -> Tensor:
        """``[..., hidden] -> [..., vocab]``."""
        return (self._fast or self.base).logits(hidden)

    def embed_tokens(self, ids: Tensor) -> Tensor:
        """Token vectors ``[..., hidden]`` as the first block gets them."""
        ours = self._fast if self.runs_fast else None  # no gradient reaches its table
        return (ours or self.base).embed_tokens(ids)

    @cached_property
    def can_join(self) -> bool:
        """Whether keys can be moved: read at p + d they must be those read at p, rotated by d.

        In 16 bits the keys of upper layers differ by a third, rounded (SmolLM2's from the twelfth
        on): there the rotated ones have to be nearer than those left as they are.
        """
        base = self.base
        ids = torch.arange(2, 10, device=base.device)[None]
        index = torch.arange(8, device=base.device)[None]
        distance = min(37, base.max_context - 8)
        with torch.inference_mode():
            here, there = empty_cache(base.num_layers), empty_cache(base.num_layers)
            self.run(ids, index, None, here)
            tokens = Tokens(index + distance, torch.full_like(index, Role.PREFIX))
            self.run(ids, index + distance, base.masks(tokens, tokens), there)
            for i, ((a, _), (b, _)) in enumerate(
                zip(layers_of(here), layers_of(there), strict=True)
            ):
                size = b.float().abs().mean()
                left = (a.float() - b.float()).abs().mean() / size
                turned = (base.rotate(a, distance, i).float() - b.float()).abs().mean() / size
                if not turned <= (left if i else MOVED):
                    return False
        return True

    @property
    def weights_bytes(self) -> int:
        """Bytes of the base's weights, packed ones among them."""
        if self.decoder is not None:
            return self.decoder.nbytes
        held: int = sum(p.nbytes for p in self.base.model.parameters())
        return held

    def parameters(self) -> Iterator[nn.Parameter]:
        """What training changes: the adapter's weights and the token vectors."""
        yield from self.adapter.parameters()
        yield self.special_vectors
