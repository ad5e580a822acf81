"""A bounded store of readings: memory first, then disk, least recently used go first."""

from __future__ import annotations

import hashlib
import os
import shutil
import threading
import zlib
from collections import OrderedDict
from collections.abc import Callable, Collection, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch

from gem_rag.compute.kv import KeyValues, pack, unpack
from gem_rag.compute.ranker import Ranked
from gem_rag.compute.reading import Reading
from gem_rag.errors import ReadingError
from gem_rag.files import atomic_write
from gem_rag.forks import in_child
from gem_rag.model import GemModel
from gem_rag.text.codec import Tokenized

_NAME = 32  # hex digits of each half of a reading's name
SUFFIX, PACKED = ".safetensors", "key_values"
DISK_BYTES = 2 << 30  # of a store's disk part, where nobody says otherwise
LEAST_FREE = 256 << 20  # bytes of a disk that readings leave to others, the index first
READ_AT_ONCE = 8  # texts: bounds the memory that readings take while they are made


@dataclass(frozen=True)
class StoreInfo:
    """What a store holds now: counts, and bytes of keys and values."""

    in_memory: int
    memory_bytes: int
    on_disk: int
    disk_bytes: int


class ReadingStore:
    """Readings of one model by their token ids. Safe to use from several threads.

    Args:
        model: Whose readings these are.
        folder: Where the disk part is; None keeps to memory. It is made when something is kept;
            one that may not be written is read.
        memory_bytes: Bound of the memory part.
        disk_bytes: Bound of the disk part; it ends earlier where the disk is nearly full.
        dtype: Stored dtype; None is the model's own and exact. ``torch.float16`` halves a float32
            model's readings at a small error (about 1e-3 in a logit).
    """

    def __init__(
        self,
        model: GemModel,
        folder: str | Path | None = None,
        *,
        memory_bytes: int = 256 << 20,
        disk_bytes: int = DISK_BYTES,
        dtype: torch.dtype | None = None,
    ) -> None:
        self.model = model
        self.folder = None if folder is None else Path(folder)
        self.memory_bytes = memory_bytes
        self.disk_bytes = disk_bytes
        self.dtype = dtype
        self._start_anew()
        in_child(self._start_anew)
        self._is_full = False
        self._memory: OrderedDict[str, Reading] = OrderedDict()
        self._held = 0
        self._disk_sizes: OrderedDict[str, int] = OrderedDict()  # oldest use first
        self._may_write = self.folder is not None and _is_writable(self.folder)
        if self.folder is not None:
            self._scan(self.folder)

    def _start_anew(self) -> None:
        self._lock = threading.RLock()

    def __copy__(self, memo: object = None) -> Self:
        """A copy of a store is the store."""
        return self

    __deepcopy__ = __copy__

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickled are its settings: readings are looked up in its folder, or made again."""
        make = partial(
            ReadingStore,
            memory_bytes=self.memory_bytes,
            disk_bytes=self.disk_bytes,
            dtype=self.dtype,
        )
        return make, (self.model, None if self.folder is None else self.folder.resolve())

    def read(self, texts: Sequence[str], *, evict: bool = True) -> list[Reading]:
        """Readings of these texts: kept ones as they are, the others read now and kept.

        Args:
            texts: What to read.
            evict: Make room for new ones. False, for bulk work, keeps new ones only while there is
                room, so that a large ingest does not churn through the disk.
        """
        tokenized = self.model.codec.encode_texts(texts, self.model.config.max_text_tokens)
        keys = [self._key(text, t) for text, t in zip(texts, tokenized, strict=True)]
        found = {i: self._get(keys[i], text, tokenized[i]) for i, text in enumerate(texts)}
        missing = [i for i, reading in found.items() if reading is None]
        missing.sort(key=lambda i: len(tokenized[i].ids))
        for start in range(0, len(missing), READ_AT_ONCE):
            rows = missing[start : start + READ_AT_ONCE]
            fresh = self.model.read([texts[i] for i in rows], show_progress=False)
            for i, reading in zip(rows, fresh, strict=True):
                found[i] = reading
                self._put(keys[i], reading, evict)
        return [reading for reading in found.values() if reading is not None]

    def embed(
        self, texts: Sequence[str], advance: Callable[[int], object] = lambda _: None
    ) -> np.ndarray:
        """Document vectors, float32 ``[n, d]``; the readings made for them are kept while there is
        room, so that ranking need not read again.

        Args:
            texts: What to embed.
            advance: Called with how many more are done.
        """
        out = np.empty((len(texts), self.model.dim), dtype=np.float32)
        order = sorted(range(len(texts)), key=lambda i: -len(texts[i]))
        for start in range(0, len(order), READ_AT_ONCE):
            rows = order[start : start + READ_AT_ONCE]
            batch = [texts[i] for i in rows]
            if self.has_room:
                out[rows] = self.model.embed_readings(self.read(batch, evict=False))
            else:
                out[rows] = self.model.embed_documents(batch, show_progress=False)
            advance(len(batch))
        return out

    def rank(self, query: str, texts: Sequence[str], *, floor: float | None = None) -> list[Ranked]:
        """`GemModel.rank` from kept readings where the model's scope allows their reuse."""
        passages = self.read(texts) if self.model.shares_readings else texts
        return self.model.rank(query, passages, floor=floor)

    def require_embeds_as(self, model: GemModel) -> None:
        """Raise `ReadingError` unless vectors made from these readings are this model's."""
        if self.model.fingerprint != model.fingerprint:
            raise ReadingError(
                f"the readings' model is {self.model.fingerprint[:12]}, this is "
                f"{model.fingerprint[:12]}: give a ReadingStore of this model"
            )

    @property
    def has_room(self) -> bool:
        """Whether a bulk ingest should still hand its readings over: until one was not kept."""
        return not self._is_full

    def info(self) -> StoreInfo:
        """Counts and bytes."""
        with self._lock:
            sizes = self._disk_sizes.values()
            return StoreInfo(len(self._memory), self._held, len(sizes), sum(sizes))

    def forget(self, texts: Sequence[str]) -> None:
        """Drop what was read of these texts, by models of whatever precision."""
        if not texts:
            return
        names = {_text_name(text) for text in texts}
        with self._lock:
            for key in [key for key in self._memory if _is_of(key, names)]:
                self._held -= self._memory.pop(key).nbytes
            for key in [key for key in self._disk_sizes if _is_of(key, names)]:
                self._drop(key)
            if self.folder is not None:
                forget(self.folder, texts)  # other processes keep readings there too
            self._is_full = False

    def clear(self) -> None:
        """Drop everything, in memory and on disk."""
        with self._lock:
            self._memory.clear()
            self._held = 0
            self._is_full = False
            for key in list(self._disk_sizes):
                self._drop(key)

    def _key(self, text: str, tokenized: Tokenized) -> str:
        # What one precision wrote is not what another would read.
        computed = self.model.base.dtype
        made = f"{self.model.parts.reading_fingerprint}:{computed}:{self.dtype or computed}"
        ids = ",".join(map(str, tokenized.ids))
        made_of = hashlib.sha256(f"{made}:{ids}".encode()).hexdigest()[:_NAME]
        return f"{_text_name(text)}-{made_of}"

    def _get(self, key: str, text: str, tokenized: Tokenized) -> Reading | None:
        with self._lock:
            reading = self._memory.get(key)
            if reading is not None:
                self._memory.move_to_end(key)
                return reading
            key_values = self._load(key, len(self.model.config.preamble_ids) + len(tokenized.ids))
            if key_values is None:
                return None
            reading = self.model.reader.restore(text, tokenized, key_values)
            self._remember(key, reading, evict=True)
            return reading

    def _put(self, key: str, reading: Reading, evict: bool) -> None:
        with self._lock:
            in_memory = self._remember(key, reading, evict)
            self._is_full = not self._write(key, reading, evict) and not in_memory

    def _remember(self, key: str, reading: Reading, evict: bool) -> bool:
        """Keep a reading in memory; whether it is there now."""
        size = reading.nbytes
        if size > self.memory_bytes or (not evict and self._held + size > self.memory_bytes):
            return False
        if key in self._memory:
            return True
        self._memory[key] = reading
        self._held += size
        while self._held > self.memory_bytes:
            _, oldest = self._memory.popitem(last=False)
            self._held -= oldest.nbytes
        return True

    def _path(self, key: str) -> Path:
        assert self.folder is not None
        return self.folder / f"{key}{SUFFIX}"

    def _scan(self, folder: Path) -> None:
        files = []
        for file in folder.glob(f"*{SUFFIX}"):
            with suppress(OSError):  # another process may have dropped it
                stat = file.stat()
                files.append((stat.st_mtime_ns, file.name.removesuffix(SUFFIX), stat.st_size))
        for _, key, size in sorted(files):
            self._disk_sizes[key] = size
            if "-" not in key:  # by older rules: nobody finds it again
                self._drop(key)
        if self._may_write:
            self._make_room(0)

    def _make_room(self, size: int) -> None:
        """Drop what was not used for longest until so many bytes more are within the bound."""
        while self._disk_sizes and sum(self._disk_sizes.values()) + size > self.disk_bytes:
            self._drop(next(iter(self._disk_sizes)))

    def _write(self, key: str, reading: Reading, evict: bool) -> bool:
        """Keep a reading on disk; whether it is there now."""
        if self.folder is None or not self._may_write:
            return False
        if key in self._disk_sizes:
            return True
        used = sum(self._disk_sizes.values())
        stored = self.dtype or self.model.base.dtype
        size = reading.nbytes * stored.itemsize // self.model.base.dtype.itemsize
        if size > self.disk_bytes or (not evict and used + size > self.disk_bytes):
            return False  # before its bytes are made: most of a large ingest comes here
        if _free(self.folder) < LEAST_FREE + size:
            return False
        from safetensors.torch import save

        packed = pack(reading.key_values, self.dtype).cpu()
        data = save({PACKED: packed}, metadata={"reading": reading.fingerprint})
        data += zlib.crc32(data).to_bytes(4, "little")
        if len(data) > self.disk_bytes or (not evict and used + len(data) > self.disk_bytes):
            return False
        self._make_room(len(data))
        try:
            atomic_write(self._path(key), data)
        except OSError:  # a full disk costs speed, not the answer
            return False
        self._disk_sizes[key] = len(data)
        return True

    def _load(self, key: str, tokens: int) -> KeyValues | None:
        """From disk; an entry that is damaged or not of this model's shape is dropped."""
        if self.folder is None or key not in self._disk_sizes:
            return None
        from safetensors import SafetensorError
        from safetensors.torch import load

        path = self._path(key)
        try:
            data = path.read_bytes()
            if zlib.crc32(data[:-4]).to_bytes(4, "little") != data[-4:]:
                raise ValueError("checksum")
            packed = load(data[:-4])[PACKED]
            if packed.dim() != 5 or packed.shape[0] != self.model.base.num_layers:
                raise ValueError("layers")
            if packed.shape[3] != tokens:
                raise ValueError("tokens")
            with suppress(OSError):  # of files that are another user's
                os.utime(path)
        except (OSError, KeyError, ValueError, SafetensorError):
            self._drop(key)
            return None
        self._disk_sizes.move_to_end(key)
        return unpack(packed.to(self.model.base.device, self.model.base.dtype))

    def _drop(self, key: str) -> None:
        self._disk_sizes.pop(key, None)
        with suppress(OSError):  # it may only be readable
            self._path(key).unlink(missing_ok=True)


def forget(folder: Path, texts: Sequence[str]) -> None:
    """Delete from a store's folder what was read of these texts, by whichever model."""
    names = {_text_name(text) for text in texts}
    for file in folder.glob(f"*{SUFFIX}"):
        if _is_of(file.name, names):
            file.unlink(missing_ok=True)


def _text_name(text: str) -> str:
    """What the names of a text's readings begin with."""
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:_NAME]


def _is_of(key: str, names: Collection[str]) -> bool:
    return key.partition("-")[0] in names


def _there(folder: Path) -> Path:
    """The folder, or what there is of the way to it."""
    return next((f for f in (folder, *folder.absolute().parents) if f.exists()), Path())


def _is_writable(folder: Path) -> bool:
    return os.access(_there(folder), os.W_OK | os.X_OK)


def _free(folder: Path) -> int:
    """Bytes that are free on a folder's disk; 0 where that does not say."""
    try:
        return shutil.disk_usage(_there(folder)).free
    except OSError:
        return 0
