"""Readings of training texts, computed once: with scope ``tokens`` pass 1 never changes."""

from __future__ import annotations

import hashlib
import json
import math
import os
import shutil
import weakref
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from gem_rag.compute.attention import Role, Tokens, positions_of, together
from gem_rag.compute.batches import by_budget, tokens_per_batch
from gem_rag.compute.kv import layers_of, pack, row_of, seeded_cache, unpack
from gem_rag.compute.reading import Reading
from gem_rag.config import Task
from gem_rag.errors import GemError
from gem_rag.files import atomic_write, locked
from gem_rag.model import GemModel
from gem_rag.progress import progress
from gem_rag.text.codec import Tokenized
from gem_rag_train.recipes.precision import Precision, autocast, resolved

Ids = tuple[int, ...]


class Block(NamedTuple):
    """A text's own keys and values, and where in which open file they are (bytes)."""

    data: NDArray[np.float16]
    file: int
    offset: int


class KeptReadings:
    """Keys and values of fixed texts in memory-mapped files, fp16, ``[tokens, L, 2, H, D]``.

    A text is one contiguous block, a query's instruction read with it. The preamble is the same
    for all and is not in the files.

    Args:
        model: Reads the texts; scope ``tokens``.
        folder: Where the files are; those made of the same texts by the same base are used again.
        most_bytes: Bound of all files.
        precision: "no", "bf16" to read in bfloat16, which is faster and rounds more, or "auto".
        show_progress: A bar while reading.

    Raises:
        GemError: The scope is another.
    """

    def __init__(
        self,
        model: GemModel,
        folder: Path,
        *,
        most_bytes: int,
        precision: Precision = "no",
        show_progress: bool | None = None,
    ) -> None:
        if model.config.adapter_scope != "tokens":
            raise GemError(
                f"readings can be kept with adapter_scope 'tokens' only, this recipe's is "
                f"{model.config.adapter_scope!r}: its readings change with every step"
            )
        self._model = model
        self._folder = folder
        self._most_bytes = most_bytes
        self._precision = resolved(precision, model.base.device)
        self._show = show_progress
        self._blocks: dict[Ids, Block] = {}
        self._head, self._head_cache = model.reader.preamble(False)
        layers = layers_of(self._head_cache)
        self._shape = (len(layers), 2, layers[0][0].shape[1], layers[0][0].shape[3])
        self._head_block = pack(tuple(layers))  # (L, 2, 1, H, n, D)
        self._token_bytes = int(np.prod(self._shape)) * np.float16().nbytes
        self.tokens = 0

    def require_room(self, texts: Iterable[tuple[Sequence[int], Task]]) -> None:
        """Before anything is read: do the texts' readings fit their bound, and the disk?

        Args:
            texts: All that will be added.

        Raises:
            GemError: They do not. What the folder holds already counts as room.
        """
        whole = {self._model.embedder.with_instruction(ids, task) for ids, task in texts}
        size = sum(map(len, whole)) * self._token_bytes
        self._require_bound(size, len(whole))
        self._folder.mkdir(parents=True, exist_ok=True)
        free = shutil.disk_usage(self._folder).free
        there = [*self._folder.glob("pairs-*.f16"), *self._folder.glob("*.unfinished")]
        room = free + sum(file.stat().st_size for file in there)
        if size > room:
            raise GemError(
                f"the readings of {len(whole)} texts take {size / 1e9:.1f} GB, the disk of "
                f"{self._folder} has {free / 1e9:.1f} GB free; lower examples or max_length, or "
                "set readings to a folder on a larger disk"
            )

    def _require_bound(self, size: int, texts: int) -> None:
        if size > self._most_bytes:
            raise GemError(
                f"the readings of {texts} texts take {size / 1e9:.1f} GB, "
                f"the bound is {self._most_bytes / 1e9:.1f} GB; raise kept_gigabytes to "
                f"{math.ceil(size / 1e9)}, or lower examples ({self._most_bytes / size:.0%} of the "
                "texts fit) or max_length"
            )

    def add(self, name: str, texts: Iterable[tuple[Sequence[int], Task]]) -> None:
        """Read texts that are not kept yet, into a file of this name, or open that file.

        Args:
            name: Of the file, without suffix.
            texts: Token ids of each text with how it will be embedded.

        Raises:
            GemError: The files would be larger than their bound.
        """
        whole = dict.fromkeys(
            self._model.embedder.with_instruction(ids, task) for ids, task in texts
        )
        fresh = [ids for ids in whole if ids not in self._blocks]
        starts = np.concatenate([[0], np.cumsum([len(ids) for ids in fresh])]).astype(int)
        size = (self.tokens + int(starts[-1])) * self._token_bytes
        self._require_bound(size, len(self._blocks) + len(fresh))
        if not fresh:
            return
        path, facts = self._folder / f"{name}.f16", self._folder / f"{name}.json"
        made_of = {
            "texts": hashlib.sha256(json.dumps(fresh).encode()).hexdigest(),
            "model": self._model.parts.reading_fingerprint,
            "precision": self._precision,
        }
        shape = (int(starts[-1]), *self._shape)
        with locked(path, seconds=-1):  # another run may share the folder
            if not (path.exists() and _read_json(facts) == made_of):
                unfinished = path.with_suffix(".unfinished")
                _reserve(unfinished, int(starts[-1]) * self._token_bytes)
                try:
                    self._make(np.memmap(unfinished, np.float16, "r+", shape=shape), fresh, starts)
                except GemError:
                    unfinished.unlink()
                    raise
                facts.unlink(missing_ok=True)  # written last: it speaks for the file
                unfinished.replace(path)  # a run that still reads the old file keeps it
                atomic_write(facts, json.dumps(made_of))
            data = np.memmap(path, np.float16, "r", shape=shape)
            file = os.open(path, os.O_RDONLY)
        weakref.finalize(self, os.close, file)
        self._blocks |= {
            ids: Block(data[start:end], file, int(start) * data.strides[0])
            for ids, start, end in zip(fresh, starts[:-1], starts[1:], strict=True)
        }
        self.tokens += int(starts[-1])

    def _make(self, data: np.memmap, texts: list[Ids], starts: NDArray[np.int_]) -> None:
        head = self._head.positions.shape[1]
        order = sorted(range(len(texts)), key=lambda i: -len(texts[i]))
        with progress("reading", len(order), self._show) as advance:
            lengths = [max(1, len(ids)) for ids in texts]
            for rows in by_budget(order, lengths, tokens_per_batch(self._model.base.device)):
                with torch.no_grad(), autocast(self._model.base.device, self._precision):
                    tokens, cache = self._model.reader.read([texts[i] for i in rows], False)
                for row, i in enumerate(rows):
                    block = pack(row_of(tokens, cache, row))  # (L, 2, H, n, D)
                    block = block[:, :, :, head:].permute(3, 0, 1, 2, 4).half()
                    if not block.isfinite().all():
                        raise GemError(
                            "this base's keys or values are beyond what float16 holds, so readings "
                            "cannot be kept; set examples, neighbourhood and eval_every to 0"
                        )
                    data[starts[i] : starts[i + 1]] = block.cpu().numpy()
                advance(len(rows))
        data.flush()

    def reading(self, text: str, tokenized: Tokenized) -> Reading:
        """A kept document's reading, as `GemModel.read` would give it but for fp16's rounding."""
        block = self._block(self._model.embedder.with_instruction(tokenized.ids, "document"))
        own = block.permute(1, 2, 3, 0, 4).to(self._model.base.device, self._model.base.dtype)
        whole = torch.cat([self._head_block[:, :, 0], own], 3)  # (L, 2, H, n, D)
        return self._model.reader.restore(text, tokenized, unpack(whole))

    def readings(self, texts: Sequence[str], max_length: int) -> list[Reading]:
        """`reading` of several texts, cut as they were when they were kept."""
        tokenized = self._model.codec.encode_texts(texts, max_length)
        return [self.reading(*pair) for pair in zip(texts, tokenized, strict=True)]

    def forward_texts(self, ids: Sequence[Sequence[int]], task: Task) -> Tensor:
        """As `Embedder.forward_texts`, from what was kept: only the special tokens are run."""
        kept = [self._block(self._model.embedder.with_instruction(i, task)) for i in ids]
        lengths = torch.tensor([len(block) for block in kept])
        width, start = int(lengths.max()), self._head.positions.shape[1]
        layers, pair, heads, size = self._shape
        # Uninitialised, and every place written once: fresh and zeroed pages are dear.
        block = torch.empty(layers, pair, len(kept), heads, start + width, size)
        block[..., :start, :] = self._head_block
        for row, own in enumerate(kept):  # (L, 2, B, H, n, D)
            end = start + len(own)
            block[:, :, row, :, start:end] = own.permute(1, 2, 3, 0, 4)
            block[:, :, row, :, end:] = 0
        block = block.to(self._model.base.device, self._model.base.dtype)
        valid = (torch.arange(width) < lengths[:, None]).to(self._model.base.device)
        text = Tokens(positions_of(valid, start), torch.where(valid, Role.PREFIX, Role.PADDING))
        seeds = unpack(block)
        tokens = together(self._head.expand(len(kept)), text)
        return self._model.embedder.forward_specials(
            tokens, seeded_cache(seeds), task, instructed=True
        )

    def fetch(self, texts: Iterable[tuple[Sequence[int], Task]]) -> None:
        """Ask the system to bring texts' readings from disk in the background, where it can.

        Readings are often larger than memory; without this every step waits for the disk.

        Args:
            texts: Token ids of each text with how it will be embedded.
        """
        if not hasattr(os, "posix_fadvise"):
            return
        for text in texts:
            block = self._blocks[self._model.embedder.with_instruction(*text)]
            os.posix_fadvise(block.file, block.offset, block.data.nbytes, os.POSIX_FADV_WILLNEED)

    def _block(self, ids: Ids) -> Tensor:
        return torch.from_numpy(np.array(self._blocks[ids].data))


def _reserve(path: Path, size: int) -> None:
    """A file whose every place is on the disk: a full one kills whoever writes to a mapped file."""
    try:
        with path.open("wb") as file:
            if hasattr(os, "posix_fallocate"):
                os.posix_fallocate(file.fileno(), 0, size)
            else:
                file.truncate(size)
    except OSError as error:
        path.unlink(missing_ok=True)
        raise GemError(
            f"no room for {size / 1e9:.1f} GB of readings in {path.parent}: {error}; free some, or "
            "set readings to a folder on a larger disk"
        ) from error


def _read_json(path: Path) -> object:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
