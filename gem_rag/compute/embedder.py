"""Pass 2: special tokens read a reading, and their pooled outputs are the embedding."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cached_property

import torch
from torch import Tensor, nn

from gem_rag.compute.adapter import EVERYWHERE, Acting, Positions
from gem_rag.compute.attention import Role, Rule, Tokens, additive, span_mask, together
from gem_rag.compute.kv import Cache, first_layers
from gem_rag.compute.reader import Reader
from gem_rag.compute.reading import Reading, collate
from gem_rag.config import Pooling, Task
from gem_rag.errors import ReadingError
from gem_rag.text.codec import Tokenized

POOLED: dict[Pooling, Callable[[Tensor], Tensor]] = {
    "mean": lambda hidden: hidden.mean(1),
    "concat": lambda hidden: hidden.flatten(1),
    "last": lambda hidden: hidden[:, -1],
}


class Embedder:
    """One batch of texts, readings or parts of a reading to vectors, differentiable.

    Args:
        reader: Reads what is embedded.
    """

    def __init__(self, reader: Reader) -> None:
        self._reader = reader
        self._parts = reader.parts
        self._rule = Rule.CHAIN if reader.parts.config.pooling == "last" else Rule.GEM

    def forward_texts(self, ids: Sequence[Sequence[int]], task: Task) -> Tensor:
        """Both passes over token ids of texts: ``[B, d]``, differentiable as `forward_specials`.

        With scope ``tokens`` pass 1 runs without gradients and stores no activations.
        """
        whole = [self.with_instruction(i, task) for i in ids]
        if self._parts.runs_fast and len(set(map(len, whole))) == 1:
            return self._in_one_pass(whole, task)
        adapted, layers = self._parts.embeds_adapted, self._parts.embed_layers
        room = self._parts.config.num_special_tokens
        with torch.set_grad_enabled(adapted and torch.is_grad_enabled()):
            tokens, cache = self._reader.read(whole, adapted, layers=layers, room=room)
        return self.forward_specials(tokens, cache, task, instructed=True)

    def _in_one_pass(self, ids: Sequence[Sequence[int]], task: Task) -> Tensor:
        """Texts of one length and their specials at once: ``[B, d]``.

        A text does not see what stands after it, so it is read as ever; the weights are gone
        through once instead of twice, which is half the time of a question.
        """
        parts = self._parts
        words = parts.embed_tokens(torch.tensor(ids, dtype=torch.long, device=parts.base.device))
        specials = parts.special_vectors.to(parts.base.dtype).expand(len(ids), -1, -1)
        inputs = torch.cat([words, specials], 1)  # (B, n + K, hidden)
        n, q = words.shape[1], inputs.shape[1]
        adapted = parts.embeds_adapted
        head, cache = self._reader.after_preamble(len(ids), adapted, parts.embed_layers, q)
        index = head.positions.shape[1] + torch.arange(q, device=inputs.device)[None]
        roles = torch.full_like(index, Role.PREFIX)
        roles[:, n:] = Role.SPECIAL
        queries = Tokens(index, roles)
        keys = together(head, queries)
        mask = parts.base.masks(queries, keys, self._rule)  # [1, 1, Q, N]: all rows' own
        acting = self._acting(slice(n, q))
        hidden = parts.run(inputs, index.expand(len(ids), -1), mask, cache, acting)
        vectors = self.pool(hidden[:, n:])
        return self._whitened(vectors) if task == "query" else vectors

    @torch.inference_mode()
    def read(
        self, texts: Sequence[str], tokenized: Sequence[Tokenized], kept_as: torch.dtype
    ) -> tuple[list[Reading], Tensor]:
        """Texts as documents: their readings, packed, and ``[B, d]`` as `forward_readings` has it.

        The special tokens go on from what was just read, before it is rounded or copied.

        Args:
            texts: What is read.
            tokenized: Its tokens.
            kept_as: What the readings are packed in.
        """
        ids, adapted = [own.ids for own in tokenized], self._parts.embeds_adapted
        room = len(self._instructions["document"][0]) + self._parts.config.num_special_tokens
        tokens, cache = self._reader.read(ids, adapted, room=room)
        readings = self._reader.taken(texts, tokenized, cache, kept_as)
        if self._goes_on("document"):
            return readings, self.forward_specials(tokens, cache, "document")
        return readings, self.forward_texts(ids, "document")

    def _goes_on(self, task: Task) -> bool:
        """Whether all that is read to embed a text goes on from its reading."""
        # Otherwise it is read behind other words than the reading's, or twice.
        return not self._before[task] and len(self._instructions[task]) == 1

    def forward_readings(self, readings: Sequence[Reading], task: Task) -> Tensor:
        """Texts already read: ``[B, d]``; only what follows the text is run."""
        if not self._goes_on(task):
            head = len(self._parts.config.preamble_ids)
            return self.forward_texts([r.ids[head:].tolist() for r in readings], task)
        room = len(self.instruction(task)) + self._parts.config.num_special_tokens
        tokens, cache = collate(readings, room, self._parts.embed_layers)
        return self.forward_specials(tokens, cache, task)

    def forward_spans(self, reading: Reading, spans: Sequence[tuple[int, int]]) -> Tensor:
        """Parts of one reading in one pass, ``[S, d]``: see `Reading.embed`.

        Raises:
            ReadingError: A span holds no token that was read.
        """
        head = len(self._parts.config.preamble_ids)
        roles = torch.full((len(spans), len(reading)), Role.PADDING.value)
        ends = []
        for row, span in enumerate(spans):
            first, last = _tokens_of(reading, span)
            roles[row, :head] = Role.PREFIX
            roles[row, head + first : head + last + 1] = Role.PREFIX
            ends.append(head + last + 1)
        return self._span_pass(reading, roles.to(self._parts.base.device), ends)

    def _span_pass(self, reading: Reading, roles: Tensor, ends: Sequence[int]) -> Tensor:
        """All spans' specials as one row of queries, so that the reading is not copied per span."""
        spans, width = roles.shape
        index = torch.arange(width, device=roles.device).expand(spans, width)
        queries, inputs = self.special_queries(torch.tensor(ends, device=roles.device), "document")
        keys = together(Tokens(index, roles), queries)
        masks = {
            kind: additive(span_mask(mask, width), self._parts.base.dtype)
            for kind, mask in self._parts.base.bool_masks(queries, keys, self._rule).items()
        }
        _, cache = collate([reading], queries.positions.numel(), self._parts.embed_layers)
        instruction = queries.positions.shape[1] - self._parts.config.num_special_tokens
        special = (queries.roles == Role.SPECIAL).flatten().nonzero().squeeze(1)
        hidden = self._parts.run(
            inputs.flatten(0, 1)[None],
            queries.positions.flatten()[None],
            self._parts.base.mask_argument(masks),
            cache,
            self._acting(special if instruction else EVERYWHERE),
        )
        return self.pool(hidden.view(spans, -1, self._parts.base.hidden_size)[:, instruction:])

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
        vectors = self.pool(self.run_specials(tokens, cache, None if instructed else task))
        return self._whitened(vectors) if task == "query" else vectors

    def run_specials(
        self,
        tokens: Tokens,
        cache: Cache,
        task: Task | None,
        suffix: Sequence[Sequence[int]] = (),
        rule: Rule | None = None,
    ) -> Tensor:
        """The special tokens, and a suffix that sees them and not what they read.

        Args:
            tokens: ``[B, N]`` what was read: the prefix.
            cache: Its keys and values; appended to.
            task: Which instruction the specials follow; None: it was read with the text.
            suffix: Token ids of each row's suffix, none by default.
            rule: Who sees whom; None is as the checkpoint embeds.

        Returns:
            ``[B, K + S, hidden]``: last-layer outputs at specials and suffix; S is the longest.
        """
        queries, inputs = self.special_queries(tokens.lengths, task)
        end = queries.positions.shape[1]
        first = end - self._parts.config.num_special_tokens
        acting = self._acting(slice(first, end) if first or suffix else EVERYWHERE)
        if suffix:
            queries, inputs = self._with_suffix(queries, inputs, suffix)
            if self._parts.config.adapter_scope == "embedding":  # the suffix is the generator's
                acting = self._parts.adapter.at(slice(0, end))
        mask = self._parts.base.masks(queries, together(tokens, queries), rule or self._rule)
        own = first_layers(cache, self._parts.embed_layers)
        hidden = self._parts.run(inputs, queries.positions, mask, own, acting)
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
        words = self._parts.embed_tokens(padded.to(device))
        return together(queries, Tokens(positions, roles)), torch.cat([inputs, words], 1)

    def _acting(self, special: Positions) -> list[Acting]:
        """The adapter at the special tokens, or at the instruction before them as well."""
        adapted = self._parts.embeds_adapted
        return self._parts.adapter.at(EVERYWHERE if adapted else special)

    def special_queries(self, starts: Tensor, task: Task | None) -> tuple[Tokens, Tensor]:
        """Instruction and specials as queries: ``[B, I + K]`` tokens, ``[B, I + K, hidden]``."""
        batch, k = starts.shape[0], self._parts.config.num_special_tokens
        instruction = self.instruction(task)
        roles = torch.tensor([Role.PREFIX] * len(instruction) + [Role.SPECIAL] * k)
        roles = roles.to(starts.device).expand(batch, -1)
        positions = starts[:, None] + torch.arange(roles.shape[1], device=starts.device)
        vectors = self._parts.special_vectors.to(self._parts.base.dtype)
        if len(instruction):
            words = self._parts.embed_tokens(instruction.to(self._parts.base.device))
            vectors = torch.cat([words, vectors])
        return Tokens(positions, roles), vectors.expand(batch, -1, -1)

    def instruction(self, task: Task | None) -> Tensor:
        """Token ids of an instruction in one part, which is the same after every text."""
        [ids] = self._instructions[task] if task else [[]]
        return torch.tensor(ids, dtype=torch.long)

    @cached_property
    def _instructions(self) -> dict[Task, list[list[int]]]:
        tasks: tuple[Task, Task] = ("query", "document")
        return {
            t: [self._parts.codec.encode(p) for p in self._parts.config.instruction(t)]
            for t in tasks
        }

    @cached_property
    def _before(self) -> dict[Task, list[int]]:
        """Token ids of what stands between the preamble and a text."""
        return {"query": self._parts.codec.encode(self._parts.config.query_prefix), "document": []}

    def with_instruction(self, ids: Sequence[int], task: Task) -> tuple[int, ...]:
        """All that is read to embed a text of these token ids, but for the preamble."""
        first, *rest = self._instructions[task]
        before = self._before[task]
        return (*before, *ids, *first, *(i for part in rest for i in (*ids, *part)))

    def longest_text(self, task: Task) -> int:
        """Most tokens of a text that fit the context window with all that is read to embed it."""
        parts = self._instructions[task]
        return self._reader.room(
            len(self._before[task]) + sum(map(len, parts)) + self._parts.config.num_special_tokens
        ) // len(parts)

    def pool(self, hidden: Tensor) -> Tensor:
        """``[B, K, hidden] -> [B, d]``, unit length, float32 (paper: mean or concatenation)."""
        pooled = POOLED[self._parts.config.pooling](hidden.float())
        return nn.functional.normalize(pooled, dim=-1)

    def _whitened(self, queries: Tensor) -> Tensor:
        """Unit vectors ``[B, d]`` with the directions weakened in which texts differ most.

        Of queries alone, where the checkpoint has a whitening (after Su et al. 2021, arXiv
        2103.15316): what those directions say of a passage drowns the rest. Passages, and texts
        compared with each other, stay as they are.
        """
        if not self._parts.whitening.shape[1]:
            return queries
        drowning = queries @ self._parts.whitening  # (B, r)
        return nn.functional.normalize(queries - drowning @ self._parts.whitening.T, dim=-1)


def _tokens_of(reading: Reading, span: tuple[int, int]) -> tuple[int, int]:
    """The first and the last of the text's tokens that a span of characters touches."""
    start, end = span
    inside = [i for i, (s, e) in enumerate(reading.offsets) if s < end and e > start]
    if not inside:
        raise ReadingError(
            f"span {start}:{end} holds no token that was read; the text has "
            f"{len(reading.text)} characters, {reading.cut_tokens} tokens were cut"
        )
    return inside[0], inside[-1]
