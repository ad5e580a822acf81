"""A bounded store of readings: memory first, then disk, least recently used go first."""

from __future__ import annotations

import hashlib
import os
import shutil
import threading
from collections import OrderedDict
from collections.abc import Callable, Collection, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch

from gem_rag.compute.kv import KeyValues
from gem_rag.compute.packed import Packed, ReadingFormat, pack_as, stored_dtype, unpack_from
from gem_rag.compute.ranker import Ranked
from gem_rag.compute.reading import Reading
from gem_rag.errors import ReadingError
from gem_rag.files import atomic_write
from gem_rag.forks import in_child
from gem_rag.model import GemModel
from gem_rag.tensors import mapped, pieces_of
from gem_rag.text.codec import Tokenized

_NAME = 32  # hex digits of each half of a reading's name
SUFFIX = ".safetensors"
DISK_BYTES = 2 << 30  # of a store's disk part, where nobody says otherwise
LEAST_FREE = 256 << 20  # bytes of a disk that readings leave to others, the index first
READ_AT_ONCE = 8  # texts: bounds the memory that readings take while they are made
EMBEDDED_AT_ONCE = 32  # texts that are put in batches together, each of which is kept and let go


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
        format: What readings are kept in, in memory as on disk: "int8", "bfloat16", "float16" or
            "float32"; never in more bits than the model computes in. "auto" is bfloat16, and in
            memory alone what the model computes in. docs/readings.md says what each costs. What one
            format wrote, another does not read, but for the model's own, which is taken over.
        dtype: The same as a torch dtype; goes before `format`.

    Raises:
        GemError: There is no such format.
    """

    def __init__(
        self,
        model: GemModel,
        folder: str | Path | None = None,
        *,
        memory_bytes: int = 256 << 20,
        disk_bytes: int = DISK_BYTES,
        format: ReadingFormat | str = "auto",  # noqa: A002
        dtype: torch.dtype | None = None,
    ) -> None:
        self.model = model
        self.folder = None if folder is None else Path(folder)
        self.memory_bytes = memory_bytes
        self.disk_bytes = disk_bytes
        self.format = format if dtype is None else str(dtype).removeprefix("torch.")
        # In memory alone they are few, and gone tomorrow: they stay as they were computed.
        exact = self.format == "auto" and folder is None
        self.dtype = model.base.dtype if exact else stored_dtype(self.format, model.base.dtype)
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
            format=self.format,
        )
        return make, (self.model, None if self.folder is None else self.folder.resolve())

    def read(self, texts: Sequence[str], *, evict: bool = True) -> list[Reading]:
        """Readings of these texts: kept ones, and the others read now and kept.

        A fresh one is given as it is kept, so that it is the same the first time and ever after.

        Args:
            texts: What to read.
            evict: Make room for new ones. False, for bulk work, keeps new ones only while there is
                room, so that a large ingest does not churn through the disk.
        """
        tokenized = self._tokenized(texts)
        found = self._found(texts, tokenized)
        missing = [i for i in range(len(texts)) if i not in found]
        missing.sort(key=lambda i: len(tokenized[i].ids))
        for start in range(0, len(missing), READ_AT_ONCE):
            rows = missing[start : start + READ_AT_ONCE]
            batch = [texts[i] for i in rows]
            fresh = self.model.engine.read(batch, show_progress=False, kept_as=self.dtype).result()
            for i, reading in zip(rows, fresh, strict=True):
                found[i] = self._put(reading, tokenized[i], evict)
        return [found[i] for i in range(len(texts))]

    def _tokenized(self, texts: Sequence[str]) -> list[Tokenized]:
        return self.model.codec.encode_texts(texts, self.model.config.max_text_tokens)

    def _found(self, texts: Sequence[str], tokenized: Sequence[Tokenized]) -> dict[int, Reading]:
        """Those readings that are kept."""
        reader = self.model.reader
        # In the engine's thread: what computes elsewhere slows all that is computed there.
        head = reader.head() if reader.has_head else self.model.engine.call(reader.head)
        pairs = zip(texts, tokenized, strict=True)
        found = {i: self._get(text, own, head) for i, (text, own) in enumerate(pairs)}
        return {i: reading for i, reading in found.items() if reading is not None}

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
        for start in range(0, len(order), EMBEDDED_AT_ONCE):
            rows = order[start : start + EMBEDDED_AT_ONCE]
            batch = [texts[i] for i in rows]
            if self.has_room:
                out[rows] = self._embedded(batch, advance)
            else:
                out[rows] = self.model.embed_documents(batch, show_progress=False)
                advance(len(batch))
        return out

    def _embedded(self, texts: Sequence[str], advance: Callable[[int], object]) -> np.ndarray:
        """`embed`, of a few texts: the others' readings are written while these are computed."""
        out = np.empty((len(texts), self.model.dim), dtype=np.float32)
        tokenized = self._tokenized(texts)
        # A vector is of what was read, not of what was rounded to be kept.
        is_exact = self.dtype == self.model.base.dtype
        found = self._found(texts, tokenized) if is_exact else {}
        if found:
            out[[*found]] = self.model.embed_readings([*found.values()])
            advance(len(found))
        missing = [i for i in range(len(texts)) if i not in found]
        fresh = self.model.engine.read_and_embed([texts[i] for i in missing], self.dtype)
        for batch in fresh:
            rows = [missing[i] for i in batch.rows]
            out[rows] = batch.vectors
            for i, reading in zip(rows, batch.readings, strict=True):
                self._put(reading, tokenized[i], evict=False)
            advance(len(rows))
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

    def _key(self, text: str, tokenized: Tokenized, dtype: torch.dtype) -> str:
        # What one precision wrote is not what another would read.
        made = f"{self.model.parts.reading_fingerprint}:{self.model.base.dtype}:{dtype}"
        ids = ",".join(map(str, tokenized.ids))
        made_of = hashlib.sha256(f"{made}:{ids}".encode()).hexdigest()[:_NAME]
        return f"{_text_name(text)}-{made_of}"

    def _get(self, text: str, tokenized: Tokenized, head: KeyValues) -> Reading | None:
        key = self._key(text, tokenized, self.dtype)
        with self._lock:
            reading = self._memory.get(key)
            if reading is not None:
                self._memory.move_to_end(key)
                return reading
            packed = self._load(key, self.dtype, tokenized, head)
            if packed is not None:
                reading = self.model.reader.restore(text, tokenized, packed)
                self._remember(key, reading, evict=True)
                return reading
        return self._taken_over(text, tokenized, head)

    def _taken_over(self, text: str, tokenized: Tokenized, head: KeyValues) -> Reading | None:
        """What is kept in the model's own precision is kept in this store's from now on."""
        own = self.model.base.dtype
        key = self._key(text, tokenized, own)
        with self._lock:
            exact = None if self.dtype == own else self._load(key, own, tokenized, head)
        if exact is None:
            return None
        packed = self.model.engine.call(partial(pack_as, exact, self.dtype, head))
        with self._lock:
            self._drop(key)
        return self._put(self.model.reader.restore(text, tokenized, packed), tokenized, evict=True)

    def _put(self, reading: Reading, tokenized: Tokenized, evict: bool) -> Reading:
        """A reading in this store's format, kept if there is room."""
        key = self._key(reading.text, tokenized, self.dtype)
        with self._lock:
            in_memory = self._remember(key, reading, evict)
            self._is_full = not self._write(key, reading, evict) and not in_memory
        return reading

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
        used, size = sum(self._disk_sizes.values()), reading.nbytes
        if size > self.disk_bytes or (not evict and used + size > self.disk_bytes):
            return False  # before they leave a device: most of a large ingest comes here
        if _free(self.folder) < LEAST_FREE + size:
            return False
        assert isinstance(reading.key_values, Packed)
        pieces = pieces_of(reading.key_values.tensors(), {"reading": reading.fingerprint})
        size = sum(piece.nbytes for piece in pieces)
        if size > self.disk_bytes or (not evict and used + size > self.disk_bytes):
            return False
        self._make_room(size)
        try:
            atomic_write(self._path(key), pieces)
        except OSError:  # a full disk costs speed, not the answer
            return False
        self._disk_sizes[key] = size
        return True

    def _load(
        self, key: str, dtype: torch.dtype, tokenized: Tokenized, head: KeyValues
    ) -> Packed | None:
        """From disk; an entry that is damaged or not of this model's shape is dropped."""
        if self.folder is None or key not in self._disk_sizes:
            return None
        path, device = self._path(key), self.model.base.device
        tokens = len(self.model.config.preamble_ids) + len(tokenized.ids)
        try:
            tensors = {name: part.to(device) for name, part in mapped(path).items()}
            packed = unpack_from(tensors, dtype, head, tokens)
        except (OSError, RuntimeError, KeyError, TypeError, ValueError):
            self._drop(key)
            return None
        with suppress(OSError):  # of files that are another user's
            os.utime(path)
        self._disk_sizes.move_to_end(key)
        return packed

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
