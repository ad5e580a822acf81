"""Pass 2: special tokens read a reading, and their pooled outputs are the embedding."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property

import numpy as np
import torch
from torch import Tensor, nn
from transformers.cache_utils import Cache

from gem_rag.adapter import EVERYWHERE, Positions
from gem_rag.attention import Role, Rule, Tokens, additive, span_mask, together
from gem_rag.config import Task
from gem_rag.errors import ReadingError
from gem_rag.reader import Reader, by_budget
from gem_rag.reading import Reading, collate, first_layers


class Embeds(Reader):
    """The embedding job of `GemModel`."""

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
        order = sorted(range(len(readings)), key=lambda i: -len(readings[i]))
        for rows in by_budget(order, [len(r) for r in readings], self.tokens_per_batch):
            with torch.inference_mode():
                vectors = self._embed_read([readings[i] for i in rows], task)
                out[rows] = vectors.float().cpu().numpy()
        return out

    def _embed_read(self, readings: Sequence[Reading], task: Task) -> Tensor:
        if len(self._instructions[task]) > 1:  # each text follows itself: no one continuation
            head = len(self.config.preamble_ids)
            return self.forward_texts([r.ids[head:].tolist() for r in readings], task)
        room = len(self._instruction(task)) + self.config.num_special_tokens
        tokens, cache = collate(readings, room, self.embed_layers)
        return self.forward_specials(tokens, cache, task)

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
        keys = together(Tokens(index, roles), queries)
        masks = {
            kind: additive(span_mask(mask, width), self.base.dtype)
            for kind, mask in self.base.bool_masks(queries, keys).items()
        }
        _, cache = collate([reading], queries.positions.numel(), self.embed_layers)
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

    def forward_specials(
        self, tokens: Tokens, cache: Cache, task: Task, *, instructed: bool = False
    ) -> Tensor:
        """Pass 2: the special tokens read a cache; differentiable in adapter and token vectors.

        Embedding and training both end here; embedding only wraps it in inference mode.

        Args:
            tokens: ``[B, N]`` what was read.
            cache: Its keys and values, of all layers or of those run to embed; appended to.
            task: What the text is, and so which instruction the specials follow.
            instructed: The instruction was read with the text.

        Returns:
            ``[B, d]`` float32, L2-normalised.
        """
        vectors = self._pool(self.run_specials(tokens, cache, None if instructed else task))
        return self._whitened(vectors) if task == "query" else vectors

    def run_specials(
        self,
        tokens: Tokens,
        cache: Cache,
        task: Task | None,
        suffix: Sequence[Sequence[int]] = (),
        rule: Rule = Rule.GEM,
    ) -> Tensor:
        """The special tokens, and a suffix that sees them and not what they read.

        Args:
            tokens: ``[B, N]`` what was read: the prefix.
            cache: Its keys and values; appended to.
            task: Which instruction the specials follow; None: it was read with the text.
            suffix: Token ids of each row's suffix, none by default.
            rule: GEM's bottleneck, or a control.

        Returns:
            ``[B, K + S, hidden]``: last-layer outputs at specials and suffix; S is the longest.
        """
        queries, inputs = self._special_queries(tokens.lengths, task)
        end = queries.positions.shape[1]
        first = end - self.config.num_special_tokens
        where = self._special_scope(slice(first, end) if first or suffix else EVERYWHERE)
        if suffix:
            queries, inputs = self._with_suffix(queries, inputs, suffix)
            if self.config.adapter_scope == "embedding":  # the suffix is the generator's
                where = slice(0, end)
        mask = self.base.masks(queries, together(tokens, queries), rule)
        with self.adapter.at(where):
            own = first_layers(cache, self.embed_layers)
            hidden = self.base.run(inputs, queries.positions, mask, own)
        return hidden[:, first:]

    def _with_suffix(
        self, queries: Tokens, inputs: Tensor, suffix: Sequence[Sequence[int]]
    ) -> tuple[Tokens, Tensor]:
        """Suffixes after the specials, padded on the right; their positions go on from there."""
        device = queries.positions.device
        lengths = torch.tensor([len(ids) for ids in suffix], device=device)
        padded = torch.zeros(len(suffix), int(lengths.max()), dtype=torch.long)
        for row, ids in enumerate(suffix):
            padded[row, : len(ids)] = torch.as_tensor(ids)
        index = torch.arange(padded.shape[1], device=device).expand(padded.shape)
        roles = torch.where(index < lengths[:, None], Role.SUFFIX, Role.PADDING)
        positions = queries.positions[:, -1:] + 1 + index
        words = self.base.embed_tokens(padded.to(device))
        return together(queries, Tokens(positions, roles)), torch.cat([inputs, words], 1)

    def _special_scope(self, special: Positions) -> Positions:
        return special if self.config.adapter_scope == "tokens" else EVERYWHERE

    def _special_queries(self, starts: Tensor, task: Task | None) -> tuple[Tokens, Tensor]:
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

    def _instruction(self, task: Task | None) -> Tensor:
        """Token ids of an instruction in one part, which is the same after every text."""
        [ids] = self._instructions[task] if task else [[]]
        return torch.tensor(ids, dtype=torch.long)

    @cached_property
    def _instructions(self) -> dict[Task, list[list[int]]]:
        tasks: tuple[Task, Task] = ("query", "document")
        return {t: [self.codec.encode(p) for p in self.config.instruction(t)] for t in tasks}

    def with_instruction(self, ids: Sequence[int], task: Task) -> tuple[int, ...]:
        """All that is read to embed a text of these token ids, but for the preamble."""
        first, *rest = self._instructions[task]
        return (*ids, *first, *(i for part in rest for i in (*ids, *part)))

    def longest_text(self, task: Task) -> int:
        """Most tokens of a text that fit the context window with all that is read to embed it."""
        parts = self._instructions[task]
        return self._room(sum(map(len, parts)) + self.config.num_special_tokens) // len(parts)

    def _pool(self, hidden: Tensor) -> Tensor:
        """``[B, K, hidden] -> [B, d]``, unit length, float32 (paper: mean or concatenation)."""
        hidden = hidden.float()
        pooled = hidden.mean(1) if self.config.pooling == "mean" else hidden.flatten(1)
        return nn.functional.normalize(pooled, dim=-1)

    def _whitened(self, queries: Tensor) -> Tensor:
        """Unit vectors ``[B, d]`` with the directions weakened in which texts differ most.

        Of queries alone, where the checkpoint has a whitening (after Su et al. 2021, arXiv
        2103.15316): what those directions say of a passage drowns the rest. Passages, and texts
        compared with each other, stay as they are.
        """
        if not self.whitening.shape[1]:
            return queries
        drowning = queries @ self.whitening  # (B, r)
        return nn.functional.normalize(queries - drowning @ self.whitening.T, dim=-1)

    def _embed(
        self, texts: Sequence[str], task: Task, max_length: int | None, show: bool | None
    ) -> np.ndarray:
        tokenized = self._tokenize(texts, max_length, self.longest_text(task))
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
        whole, room = [self.with_instruction(i, task) for i in ids], self.config.num_special_tokens
        with torch.set_grad_enabled(adapted and torch.is_grad_enabled()):
            tokens, cache = self._read(whole, adapted, layers=self.embed_layers, room=room)
        return self.forward_specials(tokens, cache, task, instructed=True)
