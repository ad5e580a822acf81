"""Pass 1: one batch of texts to readings, each text after the shared preamble."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import torch
from torch import Tensor

from gem_rag.compute.adapter import Acting
from gem_rag.compute.attention import Role, Tokens, positions_of, together
from gem_rag.compute.batches import padded
from gem_rag.compute.kv import Cache, KeyValues, empty_cache, layers_of, seeded_cache
from gem_rag.compute.packed import pack_as
from gem_rag.compute.parts import Parts
from gem_rag.compute.reading import EmbedsReadings, Reading
from gem_rag.errors import ContextLengthError, ReadingError
from gem_rag.text.codec import Tokenized
from gem_rag.text.prompts import BETWEEN


class Reader:
    """Reads with a model's parts, as the model would to generate.

    Args:
        parts: The weights, their tokenizer and config.
        owner: Gives the model that readings are attached to.
    """

    def __init__(self, parts: Parts, owner: Callable[[], EmbedsReadings | None]) -> None:
        self.parts = parts
        self._owner = owner
        self._preambles: dict[tuple[bool, int], tuple[Tokens, Cache]] = {}
        self._separator: tuple[Tokenized, KeyValues] | None = None

    def room(self, reserve: int = 0) -> int:
        """Tokens of context that the preamble and `reserve` more leave."""
        return self.parts.base.max_context - len(self.parts.config.preamble_ids) - reserve

    def readings(
        self,
        texts: Sequence[str],
        tokenized: Sequence[Tokenized],
        kept_as: torch.dtype | None = None,
    ) -> list[Reading]:
        """One batch of texts, read.

        Args:
            texts: What is read.
            tokenized: Its tokens.
            kept_as: What the readings are packed in; None leaves them as they were computed.
        """
        with torch.inference_mode():
            _, cache = self.read([own.ids for own in tokenized], self.parts.embeds_adapted)
            return self.taken(texts, tokenized, cache, kept_as)

    def taken(
        self,
        texts: Sequence[str],
        tokenized: Sequence[Tokenized],
        cache: Cache,
        kept_as: torch.dtype | None,
    ) -> list[Reading]:
        """What `read` left of each text, as a reading in memory of its own: see `readings`."""
        layers, head = layers_of(cache), len(self.parts.config.preamble_ids)
        out = []
        for row, (text, own) in enumerate(zip(texts, tokenized, strict=True)):
            end = head + len(own.ids)
            held = [(keys[row, :, :end], values[row, :, :end]) for keys, values in layers]
            key_values: KeyValues = (
                tuple((keys.clone(), values.clone()) for keys, values in held)
                if kept_as is None
                else pack_as(held, kept_as, self.head())
            )
            out.append(self.restore(text, own, key_values))
        return out

    def restore(self, text: str, tokenized: Tokenized, key_values: KeyValues) -> Reading:
        """A `Reading` from its text, the text's tokens and kept keys and values."""
        return Reading(
            text=text,
            ids=torch.tensor([*self.parts.config.preamble_ids, *tokenized.ids]),
            offsets=tuple(tokenized.offsets),
            key_values=key_values,
            fingerprint=self.parts.reading_fingerprint,
            cut_tokens=tokenized.cut,
            model=self._model(),
        )

    def _model(self) -> EmbedsReadings:
        model = self._owner()
        if model is None:
            raise ReadingError("the model of this reader is gone; keep the GemModel while you read")
        return model

    def read(
        self,
        ids: Sequence[Sequence[int]],
        adapted: bool,
        *,
        layers: int | None = None,
        room: int = 0,
        side: str = "right",
    ) -> tuple[Tokens, Cache]:
        """Run texts after the shared preamble; ``([B, N] tokens, cache)``.

        Args:
            ids: Token ids of the texts.
            adapted: Whether the adapter is on.
            layers: How many of the first layers are run; None is all.
            room: How many tokens will be appended, if known.
            side: Where padding goes.
        """
        return self.outputs(ids, adapted, layers=layers, room=room, side=side)[:2]

    def outputs(
        self,
        ids: Sequence[Sequence[int]],
        adapted: bool,
        *,
        layers: int | None = None,
        room: int = 0,
        side: str = "right",
        acting: Sequence[Acting] = (),
    ) -> tuple[Tokens, Cache, Tensor]:
        """As `read`, and the last layer's outputs of the texts' own tokens, ``[B, n, hidden]``.

        `acting` are adapters that act on them, beside the one that `adapted` switches.
        """
        base = self.parts.base
        inputs, valid = (part.to(base.device) for part in padded(ids, side))
        batch, columns = inputs.shape
        head, cache = self.after_preamble(batch, adapted, layers, columns + room)
        start = head.positions.shape[1]
        text = Tokens(positions_of(valid, start), torch.where(valid, Role.PREFIX, Role.PADDING))
        keys = together(head.expand(batch), text)
        if not inputs.shape[1]:
            nothing = self.parts.special_vectors.new_zeros(batch, 0, base.hidden_size)
            return keys, cache, nothing
        # Padding on the right is seen by nothing that counts: it takes no mask but the causal one.
        plain = side == "right" and self.parts.runs_fast
        mask = None if plain else base.masks(text, keys)
        acts = [*self.parts.everywhere(adapted), *acting]
        return keys, cache, self.parts.run(inputs, text.positions, mask, cache, acts)

    def after_preamble(
        self, batch: int, adapted: bool, layers: int | None, room: int
    ) -> tuple[Tokens, Cache]:
        """The preamble's tokens ``[1, n]`` and a cache for so many rows that goes on from it."""
        head, kept = self.preamble(adapted, layers)
        shape = (batch, -1, -1, -1)
        seeds = [(k.expand(shape), v.expand(shape)) for k, v in layers_of(kept)]
        return head, seeded_cache(seeds, room)

    def preamble(self, adapted: bool, layers: int | None = None) -> tuple[Tokens, Cache]:
        """The preamble's reading, made once and shared by all texts."""
        base = self.parts.base
        training = torch.is_grad_enabled() and adapted
        key = adapted, layers or base.num_layers
        if not training and key in self._preambles:
            return self._preambles[key]
        ids = torch.tensor([self.parts.config.preamble_ids], device=base.device)
        index = torch.arange(ids.shape[1], device=base.device)[None]
        cache = empty_cache(key[1])
        # no_grad and not inference_mode: training's backward pass reads these tensors too.
        with torch.inference_mode(False), torch.set_grad_enabled(training):
            self.parts.run(ids, index, None, cache, self.parts.everywhere(adapted))
        result = Tokens(index, torch.full_like(index, Role.PREFIX)), cache
        if not training:
            self._preambles[key] = result
        return result

    @property
    def has_head(self) -> bool:
        """Whether `head` is there, and nothing would be computed for it."""
        return (self.parts.embeds_adapted, self.parts.base.num_layers) in self._preambles

    def head(self) -> KeyValues:
        """The preamble's keys and values, which every reading begins with."""
        with torch.inference_mode():
            _, cache = self.preamble(self.parts.embeds_adapted)
        return tuple((keys[0], values[0]) for keys, values in layers_of(cache))

    def forget_preambles(self) -> None:
        """Drop cached preambles: for a trainer that changes an adapter acting on them."""
        self._preambles.clear()
        self._separator = None

    def continue_from(
        self, tokens: Tokens, cache: Cache, ids: Tensor, acting: Sequence[Acting] = ()
    ) -> Tensor:
        """Run unpadded ids ``[B, T]`` after what was read, as the generator: ``[B, T, hidden]``.

        Args:
            tokens: What was read.
            cache: Its keys and values, which the ids' are appended to.
            ids: The same number for all rows.
            acting: Adapters that act on them, beside the one that always does, if any.
        """
        base = self.parts.base
        ids = ids.to(base.device)
        starts = tokens.lengths[:, None]
        positions = starts + torch.arange(ids.shape[1], device=ids.device)
        queries = Tokens(positions, torch.full_like(positions, Role.PREFIX))
        mask = base.masks(queries, together(tokens, queries))
        adapted = self.parts.everywhere(self.parts.generates_adapted)
        return self.parts.run(ids, positions, mask, cache, [*adapted, *acting])

    def join(self, readings: Sequence[Reading]) -> Reading:
        """Several readings as one: the preamble once, then each text's keys moved to their place.

        Texts are parted as those that are read together, by a `BETWEEN` read once by itself.

        Experimental: an approximation, because the texts have not seen each other.

        Raises:
            ReadingError: The base's keys cannot be moved, or the readings are of different models.
            ContextLengthError: Together they do not fit.
        """
        self.require_joinable(readings)
        between = [self.separator()] * (len(readings) - 1)
        parts = [part for pair in zip(readings, between, strict=False) for part in pair]
        parts.append(readings[-1])
        head = len(self.parts.config.preamble_ids)
        starts = [0]
        for part in parts:
            starts.append(starts[-1] + len(part) - head)
        return Reading(
            text="".join(part.text for part in parts),
            ids=torch.cat([parts[0].ids[:head], *(part.ids[head:] for part in parts)]),
            offsets=_shifted_offsets(parts),
            key_values=tuple(
                self._joined_layer(parts, starts, layer)
                for layer in range(len(parts[0].key_values))
            ),
            fingerprint=parts[0].fingerprint,
            cut_tokens=sum(part.cut_tokens for part in parts),
            model=self._model(),
        )

    def separator(self) -> Reading:
        """What stands between joined texts, read after the preamble alone; run once."""
        if self._separator is None:
            # Before a word it may be other tokens than by itself.
            whole = self.parts.codec.encode_texts([BETWEEN + "A"], None)[0]
            count = sum(end <= len(BETWEEN) for _, end in whole.offsets)
            own = Tokenized(whole.ids[:count], whole.offsets[:count], 0)
            self._separator = own, self.readings([BETWEEN], [own])[0].key_values
        return self.restore(BETWEEN, *self._separator)

    def _joined_layer(
        self, readings: Sequence[Reading], starts: Sequence[int], layer: int
    ) -> tuple[Tensor, Tensor]:
        head, rotate = len(self.parts.config.preamble_ids), self.parts.base.rotate
        first_keys, first_values = readings[0].key_values[layer]
        keys, values = [first_keys[:, :head]], [first_values[:, :head]]
        for reading, start in zip(readings, starts, strict=False):
            k, v = reading.key_values[layer]
            keys.append(rotate(k[:, head:], start, layer) if start else k[:, head:])
            values.append(v[:, head:])
        return torch.cat(keys, 1), torch.cat(values, 1)

    # Guards

    def require_own(self, readings: Iterable[Reading]) -> None:
        """Raise `ReadingError` if a reading is another model's."""
        for reading in readings:
            if reading.fingerprint != self.parts.reading_fingerprint:
                raise ReadingError(
                    f"reading was made by model {reading.fingerprint[:12]}, this is "
                    f"{self.parts.reading_fingerprint[:12]}; read the text with this model"
                )

    def require_shareable(self, readings: Sequence[Reading]) -> None:
        """Raise `ReadingError` if what was read to embed is not the generator's."""
        if readings and not self.parts.shares_readings:
            raise ReadingError(
                "with adapter_scope 'embedding' a reading is made with the adapter on and is not "
                "the generator's; give the text instead"
            )

    def require_joinable(self, readings: Sequence[Reading]) -> None:
        """Raise `ReadingError` unless these readings can be put together by `join`."""
        self.require_own(readings)
        base = self.parts.base
        if not self.parts.can_join:
            raise ReadingError(
                "this base's keys cannot be moved to other positions (its rotary positions are not "
                "plain rotations), so readings cannot be joined; read the texts together instead"
            )
        head = len(self.parts.config.preamble_ids)
        between = len(self.separator()) - head
        total = head + sum(len(reading) - head + between for reading in readings) - between
        if total >= base.max_context:
            raise ContextLengthError(
                f"{len(readings)} readings have {total} tokens, the context window "
                f"{base.max_context}; join fewer"
            )


def _shifted_offsets(readings: Sequence[Reading]) -> tuple[tuple[int, int], ...]:
    out: list[tuple[int, int]] = []
    before = 0
    for reading in readings:
        out += [(s + before, e + before) for s, e in reading.offsets]
        before += len(reading.text)
    return tuple(out)
