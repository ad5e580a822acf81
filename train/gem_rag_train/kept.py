"""Readings of training texts, computed once: with scope ``tokens`` pass 1 never changes."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from gem_rag.attention import Role, Tokens, positions_of, together
from gem_rag.config import Task
from gem_rag.errors import GemError
from gem_rag.model import GemModel
from gem_rag.progress import progress
from gem_rag.reader import by_budget
from gem_rag.reading import layers_of, row_of, seeded_cache

READINGS, FACTS = "readings.f16", "readings.json"


class KeptReadings:
    """Keys and values of fixed texts in one memory-mapped file, fp16, ``[tokens, L, 2, H, D]``.

    A text is one contiguous block. The preamble is the same for all and is not in the file.

    Args:
        model: Reads the texts; scope ``tokens``.
        ids: Token ids of the texts.
        folder: Where the file is; one made of the same texts by the same base is used again.
        most_bytes: Bound of the file.
        show_progress: A bar while reading.

    Raises:
        GemError: The scope is another, or the file would be larger than `most_bytes`.
    """

    def __init__(
        self,
        model: GemModel,
        ids: Sequence[Sequence[int]],
        folder: Path,
        *,
        most_bytes: int,
        show_progress: bool | None = None,
    ) -> None:
        if model.config.adapter_scope != "tokens":
            raise GemError(
                f"readings can be kept with adapter_scope 'tokens' only, this recipe's is "
                f"{model.config.adapter_scope!r}: its readings change with every step"
            )
        self._model = model
        self._ids = [list(i) for i in ids]
        self._starts = np.concatenate([[0], np.cumsum([len(i) for i in ids])])
        head = layers_of(model._preamble(False)[1])
        self._shape = (len(head), 2, head[0][0].shape[1], head[0][0].shape[3])
        size = int(self._starts[-1]) * int(np.prod(self._shape)) * 2
        if size > most_bytes:
            raise GemError(
                f"the readings of {len(ids)} texts take {size / 1e9:.1f} GB, the bound is "
                f"{most_bytes / 1e9:.1f} GB; lower examples or max_length, or raise kept_gigabytes"
            )
        folder.mkdir(parents=True, exist_ok=True)
        if not self._is_made(folder):
            self._make(folder, show_progress)
        self._data = np.memmap(folder / READINGS, np.float16, "r", shape=self._whole)

    @property
    def _whole(self) -> tuple[int, ...]:
        return (int(self._starts[-1]), *self._shape)

    def _facts(self) -> dict[str, str]:
        digest = hashlib.sha256(json.dumps(self._ids).encode()).hexdigest()
        return {"texts": digest, "model": self._model.reading_fingerprint}

    def _is_made(self, folder: Path) -> bool:
        try:
            facts = json.loads((folder / FACTS).read_text(encoding="utf-8"))
        except (OSError, json.JSONDecodeError):
            return False
        return bool(facts == self._facts() and (folder / READINGS).exists())

    def _make(self, folder: Path, show: bool | None) -> None:
        (folder / FACTS).unlink(missing_ok=True)  # written last: the file is whole then
        data = np.memmap(folder / READINGS, np.float16, "w+", shape=self._whole)
        head = len(self._model.config.preamble_ids)
        order = sorted(range(len(self._ids)), key=lambda i: -len(self._ids[i]))
        with progress("reading", len(order), show) as advance:
            lengths = [max(1, len(i)) for i in self._ids]
            for rows in by_budget(order, lengths, self._model.tokens_per_batch):
                with torch.no_grad():
                    tokens, cache = self._model._read([self._ids[i] for i in rows], False)
                for row, i in enumerate(rows):
                    layers = row_of(tokens, cache, row)
                    block = torch.stack([torch.stack(pair) for pair in layers])  # (L, 2, H, n, D)
                    block = block[:, :, :, head:].permute(3, 0, 1, 2, 4)
                    data[self._starts[i] : self._starts[i + 1]] = block.half().cpu().numpy()
                advance(len(rows))
        data.flush()
        (folder / FACTS).write_text(json.dumps(self._facts()), encoding="utf-8")

    def forward(self, rows: Sequence[int], task: Task) -> Tensor:
        """Pass 2 over these texts' readings: ``[B, d]`` with gradients."""
        head, head_cache = self._model._preamble(False)
        lengths = torch.tensor([len(self._ids[i]) for i in rows])
        width, start = int(lengths.max()), head.positions.shape[1]
        block = torch.zeros(len(rows), width, *self._shape)  # (B, n, L, 2, H, D)
        for row, i in enumerate(rows):
            kept = torch.from_numpy(np.array(self._data[self._starts[i] : self._starts[i + 1]]))
            block[row, : len(kept)] = kept
        block = block.permute(2, 3, 0, 4, 1, 5).to(self._model.base.device, self._model.base.dtype)
        valid = (torch.arange(width) < lengths[:, None]).to(self._model.base.device)
        text = Tokens(positions_of(valid, start), torch.where(valid, Role.PREFIX, Role.PADDING))
        shape = (len(rows), -1, -1, -1)
        seeds = [
            (torch.cat([k.expand(shape), own[0]], 2), torch.cat([v.expand(shape), own[1]], 2))
            for (k, v), own in zip(layers_of(head_cache), block, strict=True)
        ]
        tokens = together(head.expand(len(rows)), text)
        return self._model.forward_specials(tokens, seeded_cache(seeds), task)
