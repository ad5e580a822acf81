"""What a checkpoint loads and training changes: the weights, their tokenizer and their config."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn
from transformers.cache_utils import Cache

from gem_rag.compute.adapter import EVERYWHERE, Acting, Adapter
from gem_rag.compute.base import Base
from gem_rag.compute.decoder import Decoder, Unrecognised
from gem_rag.compute.skill import Skill
from gem_rag.config import GemConfig
from gem_rag.errors import CheckpointError, GemError
from gem_rag.text.codec import TextCodec

log = logging.getLogger(__name__)
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

    def __post_init__(self) -> None:
        base, config = self.base, self.config
        if self.embed_layers > base.num_layers:
            raise CheckpointError(
                f"embed_layers is {self.embed_layers}, but {config.base.name} has "
                f"{base.num_layers} layers; expected at most as many"
            )
        blocks = base.blocks[: self.embed_layers]
        self.adapter = Adapter(blocks, config.adapter, prefix=base.blocks_name)
        self.special_vectors = nn.Parameter(
            torch.zeros(config.num_special_tokens, base.hidden_size, device=base.device)
        )
        self.whitening = torch.zeros(self.dim, 0, device=base.device)

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
            self.decoder = Decoder.of(self.base, keep_weights=keep_weights)
            self.forward_note = "our own"
        except Unrecognised as error:
            self.forward_note = f"transformers': {error}"
            log.info("%s runs on transformers' forward: %s", self.config.base.name, error)
        self.base.drop_codes(used=self.decoder is not None)

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
