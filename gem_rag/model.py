"""GemModel: one set of weights that reads once, and embeds, ranks and answers."""

from __future__ import annotations

import threading
import warnings
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from transformers.cache_utils import Cache

from gem_rag.adapter import EVERYWHERE, Adapter, Positions
from gem_rag.asynchronous import AsyncTwins
from gem_rag.attention import Role, Tokens, additive, positions_of, span_mask
from gem_rag.base import Base
from gem_rag.config import GemConfig, Task
from gem_rag.errors import ContextLengthError, ReadingError, TruncationWarning
from gem_rag.generation import GenerationMixin
from gem_rag.progress import progress
from gem_rag.reading import GrowingLayer, KeyValues, Reading, collate, empty_cache, row_of
from gem_rag.text import TextCodec, Tokenized

TOKENS_PER_BATCH = 4096
FULL_BATCH = 768
PADDING_SHARE = 0.1
RANK_INSTRUCTION = "\nPlease write a question based on this passage.\nQuestion:"


@dataclass(frozen=True)
class Ranked:
    """One passage's place in a ranking.

    Attributes:
        index: Which of the given passages this is.
        score: How much the passage raises the mean log-likelihood of the query's tokens over that
            given an empty passage (nats per token): comparable across queries.
        log_likelihood: Mean log-likelihood of the query's tokens given the passage.
    """

    index: int
    score: float
    log_likelihood: float


class GemModel(GenerationMixin, AsyncTwins):
    """A decoder with special tokens: read a text once, then embed it, rank it, answer from it.

    Use `from_pretrained`. Safe to use from several threads at once.

    Args:
        base: The base model, untouched.
        codec: Its tokenizer and chat template.
        config: The checkpoint's config.
    """

    def __init__(self, base: Base, codec: TextCodec, config: GemConfig) -> None:
        self.base = base
        self.codec = codec
        self.config = config
        self.adapter = Adapter(base.blocks, config.adapter, prefix=_name_of(base))
        self.special_vectors = nn.Parameter(
            torch.zeros(config.num_special_tokens, base.hidden_size, device=base.device)
        )
        self.fingerprint = ""
        self.reading_fingerprint = ""
        self.path: Path | None = None
        self._preambles: dict[bool, tuple[Tokens, Cache]] = {}
        self._lock = threading.Lock()

    @classmethod
    def from_pretrained(
        cls,
        name_or_path: str | Path | None = None,
        *,
        device: str = "auto",
        dtype: str = "auto",
        revision: str | None = None,
    ) -> GemModel:
        """Load a GEM checkpoint; the same checkpoint asked for twice is the same object.

        Args:
            name_or_path: Bundled name, local folder or hub id; None is the embedded default,
                fetched and converted on first use.
            device: ``auto`` (CUDA, then MPS, then CPU) or a torch device.
            dtype: ``auto`` (float32 on CPU, the base's own elsewhere) or a torch dtype's name.
            revision: Hub revision.

        Raises:
            CheckpointError: Nothing there, or the base does not match the checkpoint's record.
            UnsupportedModelError: The base's architecture cannot be used.
        """
        from gem_rag.checkpoint import load_shared

        return load_shared(name_or_path, device=device, dtype=dtype, revision=revision)

    def save_pretrained(self, folder: str | Path, *, card: str | None = None) -> Path:
        """Write config, adapter (PEFT's format), token vectors and card to a folder, atomically."""
        from gem_rag.checkpoint import save

        return save(self, Path(folder), card=card)

    # Facts

    @property
    def dim(self) -> int:
        """Length d of an embedding."""
        k = self.config.num_special_tokens if self.config.pooling == "concat" else 1
        return k * self.base.hidden_size

    @property
    def max_context(self) -> int:
        """Context window in tokens."""
        return self.base.max_context

    def parameters(self) -> Iterator[nn.Parameter]:
        """What training changes: the adapter's weights and the token vectors."""
        yield from self.adapter.parameters()
        yield self.special_vectors

    # Reading

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
        tokenized = self._tokenize(texts, max_length)
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
            model=self,
        )

    def _read(
        self, ids: Sequence[Sequence[int]], adapted: bool, *, room: int = 0, side: str = "right"
    ) -> tuple[Tokens, Cache]:
        """Pass 1: run texts after the shared preamble; ``([B, N] tokens, cache)``."""
        head, head_cache = self._preamble(adapted)
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
        seeds = [(la.keys, la.values) for la in head_cache.layers]
        cache = Cache(
            layers=[
                GrowingLayer(k.expand(batch, -1, -1, -1), v.expand(batch, -1, -1, -1), width + room)
                for k, v in seeds
            ]
        )
        keys = _join(_expand(head, batch), text_tokens)
        if width:
            with self.adapter.at(EVERYWHERE if adapted else None):
                mask = self.base.masks(text_tokens, keys)
                self.base.run(padded, text_tokens.positions, mask, cache)
        return keys, cache

    def _preamble(self, adapted: bool) -> tuple[Tokens, Cache]:
        """The preamble's reading, made once and shared by all texts."""
        training = torch.is_grad_enabled() and adapted
        if not training and adapted in self._preambles:
            return self._preambles[adapted]
        ids = torch.tensor([self.config.preamble_ids], device=self.base.device)
        index = torch.arange(ids.shape[1], device=self.base.device)[None]
        cache = empty_cache(self.base.num_layers)
        # no_grad and not inference_mode: training's backward pass reads these tensors too.
        with torch.inference_mode(False), torch.set_grad_enabled(training):
            with self.adapter.at(EVERYWHERE if adapted else None):
                self.base.run(ids, index, None, cache)
        result = Tokens(index, torch.full_like(index, Role.PREFIX)), cache
        if not training:
            self._preambles[adapted] = result
        return result

    def forget_preambles(self) -> None:
        """Drop cached preambles: for a trainer that changes an adapter acting on them."""
        self._preambles.clear()

    def _tokenize(
        self, texts: Sequence[str], max_length: int | None, reserve: int = 0
    ) -> list[Tokenized]:
        """Tokenize to at most `max_length`, leave `reserve` tokens of context, report cuts."""
        if isinstance(texts, str):
            raise TypeError("expected a list of texts, found one string; wrap it in a list")
        fits = self.max_context - len(self.config.preamble_ids) - reserve
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
        batches = list(by_budget(order, [max(1, len(t.ids)) for t in tokenized]))
        with progress(what, total=len(tokenized), show=show_progress) as advance:
            for rows in batches:
                yield rows
                advance(len(rows))

    # Embedding

    def embed_documents(
        self,
        texts: Sequence[str],
        *,
        max_length: int | None = None,
        show_progress: bool | None = None,
    ) -> np.ndarray:
        """Embed passages.

        Args:
            texts: What to embed, unchanged.
            max_length: As for `read`.
            show_progress: As for `read`.

        Returns:
            float32 ``[n, d]``, rows L2-normalised.
        """
        return self._embed(texts, "document", max_length, show_progress)

    def embed_queries(
        self,
        texts: Sequence[str],
        *,
        max_length: int | None = None,
        show_progress: bool | None = None,
    ) -> np.ndarray:
        """Embed questions to find passages with; arguments and result as `embed_documents`."""
        return self._embed(texts, "query", max_length, show_progress)

    def embed_query(self, text: str, *, max_length: int | None = None) -> np.ndarray:
        """Embed one question: float32 ``[d]``, L2-normalised."""
        out: np.ndarray = self.embed_queries([text], max_length=max_length, show_progress=False)[0]
        return out

    def embed_readings(self, readings: Sequence[Reading], task: Task = "document") -> np.ndarray:
        """Embed texts already read: float32 ``[n, d]``; only the special tokens are run."""
        self._own(readings)
        out = np.empty((len(readings), self.dim), dtype=np.float32)
        room = len(self._instruction(task)) + self.config.num_special_tokens
        order = sorted(range(len(readings)), key=lambda i: -len(readings[i]))
        for rows in by_budget(order, [len(r) for r in readings]):
            with torch.inference_mode():
                tokens, cache = collate([readings[i] for i in rows], room)
                out[rows] = self.forward_specials(tokens, cache, task).float().cpu().numpy()
        return out

    def embed_spans(self, reading: Reading, spans: Sequence[tuple[int, int]]) -> np.ndarray:
        """Embed parts of one reading in one pass: see `Reading.embed`."""
        self._own([reading])
        if not spans:
            return np.empty((0, self.dim), dtype=np.float32)
        head = len(self.config.preamble_ids)
        roles = torch.full((len(spans), len(reading)), Role.PADDING.value)
        ends = []
        for row, (start, end) in enumerate(spans):
            inside = [i for i, (s, e) in enumerate(reading.offsets) if s < end and e > start]
            if not inside:
                raise ReadingError(
                    f"span {start}:{end} holds no token that was read; the text has "
                    f"{len(reading.text)} characters, {reading.cut_tokens} tokens were cut"
                )
            roles[row, :head] = Role.PREFIX
            roles[row, head + inside[0] : head + inside[-1] + 1] = Role.PREFIX
            ends.append(head + inside[-1] + 1)
        with torch.inference_mode():
            vectors = self._span_pass(reading, roles.to(self.base.device), ends)
        return vectors.float().cpu().numpy()

    def _span_pass(self, reading: Reading, roles: Tensor, ends: Sequence[int]) -> Tensor:
        """All spans' specials as one row of queries, so that the reading is not copied per span."""
        spans, width = roles.shape
        index = torch.arange(width, device=roles.device).expand(spans, width)
        queries, inputs = self._special_queries(torch.tensor(ends, device=roles.device), "document")
        keys = _join(Tokens(index, roles), queries)
        masks = {
            kind: additive(span_mask(mask, width), self.base.dtype)
            for kind, mask in self.base.bool_masks(queries, keys).items()
        }
        _, cache = collate([reading], room=queries.positions.numel())
        instruction = queries.positions.shape[1] - self.config.num_special_tokens
        special = (queries.roles == Role.SPECIAL).flatten().nonzero().squeeze(1)
        with self.adapter.at(self._special_scope(special if instruction else EVERYWHERE)):
            hidden = self.base.run(
                inputs.flatten(0, 1)[None],
                queries.positions.flatten()[None],
                self.base.mask_argument(masks),
                cache,
            )
        return self._pool(hidden.view(spans, -1, self.base.hidden_size)[:, instruction:])

    def forward_specials(self, tokens: Tokens, cache: Cache, task: Task) -> Tensor:
        """Pass 2: the special tokens read a cache; differentiable in adapter and token vectors.

        Embedding and training both end here; embedding only wraps it in inference mode.

        Args:
            tokens: ``[B, N]`` what was read.
            cache: Its keys and values; appended to.
            task: Which instruction the specials follow.

        Returns:
            ``[B, d]`` float32, L2-normalised.
        """
        lengths = (tokens.roles != Role.PADDING).sum(1)
        queries, inputs = self._special_queries(lengths, task)
        instruction = queries.positions.shape[1] - self.config.num_special_tokens
        mask = self.base.masks(queries, _join(tokens, queries))
        with self.adapter.at(self._special_scope(slice(instruction, None))):
            hidden = self.base.run(inputs, queries.positions, mask, cache)
        return self._pool(hidden[:, instruction:])

    def _special_scope(self, special: Positions) -> Positions:
        return special if self.config.adapter_scope == "tokens" else EVERYWHERE

    def _special_queries(self, starts: Tensor, task: Task) -> tuple[Tokens, Tensor]:
        """Instruction and specials as queries: ``[B, I + K]`` tokens, ``[B, I + K, hidden]``."""
        batch, k = starts.shape[0], self.config.num_special_tokens
        instruction = self._instruction(task)
        roles = torch.tensor([Role.PREFIX] * len(instruction) + [Role.SPECIAL] * k)
        roles = roles.to(starts.device).expand(batch, -1)
        positions = starts[:, None] + torch.arange(roles.shape[1], device=starts.device)
        vectors = self.special_vectors.to(self.base.dtype)
        if len(instruction):
            words = self.base.embed_tokens(instruction.to(self.base.device))
            vectors = torch.cat([words, vectors])
        return Tokens(positions, roles), vectors.expand(batch, -1, -1)

    def _instruction(self, task: Task) -> Tensor:
        return self._instructions[task]

    @cached_property
    def _instructions(self) -> dict[Task, Tensor]:
        tasks: tuple[Task, Task] = ("query", "document")
        return {
            t: torch.tensor(self.codec.encode(self.config.instruction(t)), dtype=torch.long)
            for t in tasks
        }

    def _pool(self, hidden: Tensor) -> Tensor:
        """``[B, K, hidden] -> [B, d]``, unit length, float32 (paper: mean or concatenation)."""
        hidden = hidden.float()
        pooled = hidden.mean(1) if self.config.pooling == "mean" else hidden.flatten(1)
        return nn.functional.normalize(pooled, dim=-1)

    def _embed(
        self, texts: Sequence[str], task: Task, max_length: int | None, show: bool | None
    ) -> np.ndarray:
        room = len(self._instruction(task)) + self.config.num_special_tokens
        tokenized = self._tokenize(texts, max_length, reserve=room)
        out = np.empty((len(texts), self.dim), dtype=np.float32)
        for rows in self._batches(tokenized, show, "embedding"):
            with torch.inference_mode():
                vectors = self.forward_texts([tokenized[i].ids for i in rows], task)
                out[rows] = vectors.float().cpu().numpy()
        return out

    def forward_texts(self, ids: Sequence[Sequence[int]], task: Task) -> Tensor:
        """Both passes over token ids of texts: ``[B, d]``, differentiable as `forward_specials`.

        With scope ``tokens`` pass 1 runs without gradients and stores no activations.
        """
        adapted = self.config.adapter_scope != "tokens"
        room = len(self._instruction(task)) + self.config.num_special_tokens
        with torch.set_grad_enabled(adapted and torch.is_grad_enabled()):
            tokens, cache = self._read(ids, adapted, room=room)
        return self.forward_specials(tokens, cache, task)

    # Ranking

    def rank(
        self,
        query: str,
        texts_or_readings: Sequence[str | Reading],
        *,
        max_length: int | None = None,
    ) -> list[Ranked]:
        """Rank passages by how likely each makes the query (query likelihood, zero-shot).

        Args:
            query: The question.
            texts_or_readings: Passages; what was read already is not run again.
            max_length: Tokens of each text to read at most, as for `read`.

        Returns:
            One `Ranked` per passage, best first.

        Raises:
            ReadingError: A reading is another model's, or was read with the adapter on.
            ContextLengthError: A passage and the query do not fit the context window.
        """
        readings = [p for p in texts_or_readings if isinstance(p, Reading)]
        self._own(readings)
        self._shareable(readings)
        if not query.strip():
            raise ValueError("the query is empty; expected a question")
        words = self.codec.encode_texts([" " + query.strip()], None)[0].ids
        prompt = [*self._rank_instruction, *words]
        texts = [p for p in texts_or_readings if isinstance(p, str)]
        tokenized = self._tokenize(texts, max_length, reserve=len(prompt))
        ids = iter(tokenized)
        passages = [p if isinstance(p, Reading) else next(ids) for p in texts_or_readings]
        floor = self._likelihoods([Tokenized([], [], 0)], prompt, len(words))[0]
        scores = self._likelihoods(passages, prompt, len(words))
        ranked = [Ranked(i, float(s - floor), float(s)) for i, s in enumerate(scores)]
        return sorted(ranked, key=lambda r: -r.score)

    @cached_property
    def _rank_instruction(self) -> list[int]:
        return self.codec.encode(RANK_INSTRUCTION)

    def _likelihoods(
        self, passages: Sequence[Reading | Tokenized], prompt: Sequence[int], scored: int
    ) -> np.ndarray:
        """Mean log-likelihood of the last `scored` ids of `prompt` after each passage, ``[n]``."""
        out = np.empty(len(passages), dtype=np.float64)
        head = len(self.config.preamble_ids)
        lengths = [len(p) if isinstance(p, Reading) else head + len(p.ids) for p in passages]
        if max(lengths, default=0) + len(prompt) > self.max_context:
            raise ContextLengthError(
                f"a passage of {max(lengths)} tokens and a query of {len(prompt)} do not fit the "
                f"context window of {self.max_context}; read less of it (max_length)"
            )
        kinds = [isinstance(p, Reading) for p in passages]
        order = sorted(range(len(passages)), key=lambda i: (kinds[i], -lengths[i]))
        for kind in (True, False):
            rows_of_kind = [i for i in order if kinds[i] is kind]
            for rows in by_budget(rows_of_kind, [n + len(prompt) for n in lengths]):
                with torch.inference_mode():
                    out[rows] = self._likelihood_batch([passages[i] for i in rows], prompt, scored)
        return out

    def _likelihood_batch(
        self, passages: Sequence[Any], prompt: Sequence[int], scored: int
    ) -> np.ndarray:
        if isinstance(passages[0], Reading):
            tokens, cache = collate(passages, room=len(prompt))
        else:
            adapted = self.config.adapter_scope == "always"
            tokens, cache = self._read([p.ids for p in passages], adapted, room=len(prompt))
        hidden = self.continue_from(tokens, cache, torch.tensor([prompt] * len(passages)))
        logits = self.base.logits(hidden[:, -scored - 1 : -1]).float()  # (B, scored, vocab)
        target = torch.tensor(prompt[-scored:], device=logits.device)
        target = target.expand(len(passages), scored)[..., None]
        chosen = logits.gather(2, target).squeeze(2) - logits.logsumexp(2)
        return chosen.mean(1).cpu().double().numpy()

    def continue_from(self, tokens: Tokens, cache: Cache, ids: Tensor) -> Tensor:
        """Run unpadded ids ``[B, T]`` after what was read, as the generator: ``[B, T, hidden]``."""
        ids = ids.to(self.base.device)
        starts = (tokens.roles != Role.PADDING).sum(1, keepdim=True)
        positions = starts + torch.arange(ids.shape[1], device=ids.device)
        queries = Tokens(positions, torch.full_like(positions, Role.PREFIX))
        with self.adapter.at(self.generation_scope):
            mask = self.base.masks(queries, _join(tokens, queries))
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
        if readings and self.config.adapter_scope == "embedding":
            raise ReadingError(
                "with adapter_scope 'embedding' a reading is made with the adapter on and is not "
                "the generator's; give the text instead"
            )


def by_budget(
    order: Sequence[int], lengths: Sequence[int], budget: int = TOKENS_PER_BATCH
) -> Iterator[list[int]]:
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


def _expand(tokens: Tokens, batch: int) -> Tokens:
    return Tokens(tokens.positions.expand(batch, -1), tokens.roles.expand(batch, -1))


def _join(first: Tokens, second: Tokens) -> Tokens:
    return Tokens(
        torch.cat([first.positions, second.positions], 1), torch.cat([first.roles, second.roles], 1)
    )


def _name_of(base: Base) -> str:
    """Where the decoder blocks are inside the base model, as PEFT names them."""
    return next(name for name, module in base.model.named_modules() if module is base.blocks)
