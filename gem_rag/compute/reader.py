"""Pass 1: texts to readings, each after the shared preamble, in batches of bounded size."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, cast

import torch
from torch import Tensor, nn
from transformers.cache_utils import Cache

from gem_rag.adapter import EVERYWHERE, Adapter, Positions
from gem_rag.attention import Role, Tokens, positions_of, together
from gem_rag.base import Base
from gem_rag.config import GemConfig
from gem_rag.errors import (
    CheckpointError,
    ContextLengthError,
    ReadingError,
    TruncationWarning,
)
from gem_rag.progress import progress
from gem_rag.reading import KeyValues, Reading, empty_cache, layers_of, row_of, seeded_cache
from gem_rag.text import TextCodec, Tokenized

if TYPE_CHECKING:
    from gem_rag.model import GemModel

# Past some 768 tokens two CPU cores gain nothing, and each token's KV cache takes memory.
TOKENS_PER_BATCH_CPU, TOKENS_PER_BATCH = 1024, 8192
FULL_BATCH = 768
PADDING_SHARE = 0.1


class Reader:
    """What embedding, ranking and generation share: the weights, and reading with them.

    Args:
        base: The base model, untouched.
        codec: Its tokenizer and chat template.
        config: The checkpoint's config.
    """

    def __init__(self, base: Base, codec: TextCodec, config: GemConfig) -> None:
        self.base = base
        self.codec = codec
        self.config = config
        if self.embed_layers > base.num_layers:
            raise CheckpointError(
                f"embed_layers is {self.embed_layers}, but {config.base.name} has "
                f"{base.num_layers} layers; expected at most as many"
            )
        blocks = base.blocks[: self.embed_layers]
        self.adapter = Adapter(blocks, config.adapter, prefix=_name_of(base))
        self.special_vectors = nn.Parameter(
            torch.zeros(config.num_special_tokens, base.hidden_size, device=base.device)
        )
        #: float32 ``[d, r]``: what is weakened in queries, see `Embeds`; r is 0 without.
        self.whitening = torch.zeros(self.dim, 0, device=base.device)
        self.fingerprint = ""
        self.reading_fingerprint = ""
        self.path: Path | None = None
        self._preambles: dict[tuple[bool, int], tuple[Tokens, Cache]] = {}

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
    def max_context(self) -> int:
        """Context window in tokens."""
        return self.base.max_context

    @property
    def shares_readings(self) -> bool:
        """Whether what was read to embed can be ranked and continued (not for one scope)."""
        return self.config.adapter_scope != "embedding"

    @property
    def tokens_per_batch(self) -> int:
        """Bound of a batch, padding included."""
        return TOKENS_PER_BATCH_CPU if self.base.device.type == "cpu" else TOKENS_PER_BATCH

    def parameters(self) -> Iterator[nn.Parameter]:
        """What training changes: the adapter's weights and the token vectors."""
        yield from self.adapter.parameters()
        yield self.special_vectors

    def read(
        self,
        texts: Sequence[str],
        *,
        max_length: int | None = None,
        show_progress: bool | None = None,
    ) -> list[Reading]:
        """Read texts, each after the preamble, as the model would to generate.

        Args:
            texts: What to read.
            max_length: Tokens of each text to read at most; None is the config's. What is cut is
                warned about (`TruncationWarning`) and recorded in `Reading.cut_tokens`.
            show_progress: A progress bar; None shows one on a terminal when there is much to do.

        Returns:
            One `Reading` per text, in the order given.
        """
        adapted = self.config.adapter_scope != "tokens"
        tokenized = self._tokenize(texts, max_length, self._room())
        out: dict[int, Reading] = {}
        for rows in self._batches(tokenized, show_progress, "reading"):
            with torch.inference_mode():
                tokens, cache = self._read([tokenized[i].ids for i in rows], adapted)
                for row, i in enumerate(rows):
                    out[i] = self.restore_reading(
                        texts[i], tokenized[i], row_of(tokens, cache, row)
                    )
        return [out[i] for i in range(len(texts))]

    def restore_reading(self, text: str, tokenized: Tokenized, key_values: KeyValues) -> Reading:
        """A `Reading` from its text, the text's tokens and kept keys and values."""
        return Reading(
            text=text,
            ids=torch.tensor([*self.config.preamble_ids, *tokenized.ids]),
            offsets=tuple(tokenized.offsets),
            key_values=key_values,
            fingerprint=self.reading_fingerprint,
            cut_tokens=tokenized.cut,
            model=cast("GemModel", self),
        )

    def _read(
        self,
        ids: Sequence[Sequence[int]],
        adapted: bool,
        *,
        layers: int | None = None,
        room: int = 0,
        side: str = "right",
    ) -> tuple[Tokens, Cache]:
        """Pass 1: run texts after the shared preamble; ``([B, N] tokens, cache)``.

        Args:
            ids: Token ids of the texts.
            adapted: Whether the adapter is on.
            layers: How many of the first layers are run; None is all.
            room: How many tokens will be appended, if known.
            side: Where padding goes.
        """
        return self._read_outputs(ids, adapted, layers=layers, room=room, side=side)[:2]

    def _read_outputs(
        self,
        ids: Sequence[Sequence[int]],
        adapted: bool,
        *,
        layers: int | None = None,
        room: int = 0,
        side: str = "right",
    ) -> tuple[Tokens, Cache, Tensor]:
        """As `_read`, and the last layer's outputs of the texts' own tokens, ``[B, n, hidden]``."""
        head, head_cache = self._preamble(adapted, layers)
        batch, width, start = len(ids), max(map(len, ids), default=0), head.positions.shape[1]
        valid = torch.zeros(batch, width, dtype=torch.bool)
        padded = torch.zeros(batch, width, dtype=torch.long)
        for row, text in enumerate(ids):
            at = slice(0, len(text)) if side == "right" else slice(width - len(text), width)
            padded[row, at] = torch.as_tensor(text)
            valid[row, at] = True
        padded, valid = padded.to(self.base.device), valid.to(self.base.device)
        text_tokens = Tokens(
            positions_of(valid, start), torch.where(valid, Role.PREFIX, Role.PADDING)
        )
        shape = (batch, -1, -1, -1)
        seeds = [(k.expand(shape), v.expand(shape)) for k, v in layers_of(head_cache)]
        cache = seeded_cache(seeds, width + room)
        keys = together(head.expand(batch), text_tokens)
        if not width:
            return keys, cache, self.special_vectors.new_zeros(batch, 0, self.base.hidden_size)
        with self.adapter.at(EVERYWHERE if adapted else None):
            mask = self.base.masks(text_tokens, keys)
            hidden = self.base.run(padded, text_tokens.positions, mask, cache)
        return keys, cache, hidden

    def _preamble(self, adapted: bool, layers: int | None = None) -> tuple[Tokens, Cache]:
        """The preamble's reading, made once and shared by all texts."""
        training = torch.is_grad_enabled() and adapted
        key = adapted, layers or self.base.num_layers
        if not training and key in self._preambles:
            return self._preambles[key]
        ids = torch.tensor([self.config.preamble_ids], device=self.base.device)
        index = torch.arange(ids.shape[1], device=self.base.device)[None]
        cache = empty_cache(key[1])
        # no_grad and not inference_mode: training's backward pass reads these tensors too.
        scope = EVERYWHERE if adapted else None
        with torch.inference_mode(False), torch.set_grad_enabled(training), self.adapter.at(scope):
            self.base.run(ids, index, None, cache)
        result = Tokens(index, torch.full_like(index, Role.PREFIX)), cache
        if not training:
            self._preambles[key] = result
        return result

    def forget_preambles(self) -> None:
        """Drop cached preambles: for a trainer that changes an adapter acting on them."""
        self._preambles.clear()

    def _room(self, reserve: int = 0) -> int:
        """Tokens of context that the preamble and `reserve` more leave."""
        return self.max_context - len(self.config.preamble_ids) - reserve

    def _tokenize(self, texts: Sequence[str], max_length: int | None, fits: int) -> list[Tokenized]:
        """Tokenize to at most `max_length` and what fits the context; report cuts."""
        if isinstance(texts, str):
            raise TypeError("expected a list of texts, found one string; wrap it in a list")
        limit = self.config.max_text_tokens if max_length is None else max_length
        if limit < 1 or fits < 1:
            raise ContextLengthError(f"max_length is {limit} with {fits} tokens of room; need >= 1")
        tokenized = self.codec.encode_texts(texts, min(limit, fits))
        cut = [t.cut for t in tokenized if t.cut]
        if cut:
            warnings.warn(
                f"{len(cut)} of {len(texts)} texts were cut to {min(limit, fits)} tokens "
                f"({sum(cut)} tokens were not read); raise max_length (up to {fits}) or split them",
                TruncationWarning,
                stacklevel=3,
            )
        return tokenized

    def _batches(
        self, tokenized: Sequence[Tokenized], show_progress: bool | None, what: str
    ) -> Iterator[list[int]]:
        """Indices in batches of similar length and bounded tokens, longest first."""
        order = sorted(range(len(tokenized)), key=lambda i: -len(tokenized[i].ids))
        lengths = [max(1, len(t.ids)) for t in tokenized]
        batches = list(by_budget(order, lengths, self.tokens_per_batch))
        with progress(what, total=len(tokenized), show=show_progress) as advance:
            for rows in batches:
                yield rows
                advance(len(rows))

    def continue_from(self, tokens: Tokens, cache: Cache, ids: Tensor) -> Tensor:
        """Run unpadded ids ``[B, T]`` after what was read, as the generator: ``[B, T, hidden]``."""
        ids = ids.to(self.base.device)
        starts = tokens.lengths[:, None]
        positions = starts + torch.arange(ids.shape[1], device=ids.device)
        queries = Tokens(positions, torch.full_like(positions, Role.PREFIX))
        with self.adapter.at(self.generation_scope):
            mask = self.base.masks(queries, together(tokens, queries))
            return self.base.run(ids, positions, mask, cache)

    @property
    def generation_scope(self) -> Positions | None:
        """Where the adapter acts while generating: nowhere, unless the scope is ``always``."""
        return EVERYWHERE if self.config.adapter_scope == "always" else None

    # Guards

    def _own(self, readings: Iterable[Reading]) -> None:
        for reading in readings:
            if reading.fingerprint != self.reading_fingerprint:
                raise ReadingError(
                    f"reading was made by model {reading.fingerprint[:12]}, this is "
                    f"{self.reading_fingerprint[:12]}; read the text with this model"
                )

    def require_joinable(self, readings: Sequence[Reading]) -> None:
        """Raise `ReadingError` unless these readings can be put together by `reading.join`."""
        self._own(readings)
        if not self.base.can_join:
            raise ReadingError(
                "this base's keys cannot be moved to other positions (its rotary positions are not "
                "plain rotations), so readings cannot be joined; read the texts together instead"
            )
        total = sum(map(len, readings))
        if total >= self.max_context:
            raise ContextLengthError(
                f"{len(readings)} readings have {total} tokens, the context window "
                f"{self.max_context}; join fewer"
            )

    def _shareable(self, readings: Sequence[Reading]) -> None:
        if readings and not self.shares_readings:
            raise ReadingError(
                "with adapter_scope 'embedding' a reading is made with the adapter on and is not "
                "the generator's; give the text instead"
            )


def by_budget(order: Sequence[int], lengths: Sequence[int], budget: int) -> Iterator[list[int]]:
    """Cut indices, longest first, into batches of bounded padded tokens and little padding.

    Past `FULL_BATCH` tokens a larger batch gains nothing, so a row that would be more than
    `PADDING_SHARE` padding starts the next one.
    """
    batch: list[int] = []
    for i in order:
        longest = max(1, lengths[batch[0]]) if batch else 1
        padded = longest * len(batch)
        wasteful = padded >= FULL_BATCH and lengths[i] < (1 - PADDING_SHARE) * longest
        if batch and (padded + longest > budget or wasteful):
            yield batch
            batch = []
        batch.append(i)
    if batch:
        yield batch


def _name_of(base: Base) -> str:
    """Where the decoder blocks are inside the base model, as PEFT names them."""
    names = (name for name, module in base.model.named_modules() if module is base.blocks)
    return str(next(names))
