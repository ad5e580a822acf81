"""The FAISS file beside the database: a snapshot that makes large indexes open faster.

Never trusted on its own: it is used only if it is complete, belongs to the same history of
commits and has the expected shape. In any other case the vectors are read from SQLite again.
"""

import json
import os
import struct
import zlib
from pathlib import Path
from typing import IO

import numpy as np

from gem_rag.index.ann import KINDS, VectorIndex, faiss
from gem_rag.index.database import Version

_MAGIC = b"GEMFAISS1\n"
_HEADER = struct.Struct("<10sQI")  # magic, bytes that follow, their CRC-32


def save_snapshot(index: VectorIndex, path: Path) -> None:
    """Write atomically: a reader finds the old file or the new one, never a part.

    Only one process at a time may do so; hold the database's write lock.
    """
    temporary = path.with_name(path.name + ".tmp")
    with temporary.open("wb") as file:
        file.write(b"\0" * _HEADER.size)
        body = _Summed(file)
        description = {
            "kind": index.kind,
            "dim": index.dim,
            "version": index.version,
            "last_row": index.last_row,
            "built_with": index.built_with,
            "positions": len(index.rows),
        }
        body.write(json.dumps(description).encode() + b"\n")
        body.write(index.rows.astype("<i8").tobytes())
        body.write(np.packbits(index.alive).tobytes())
        faiss().write_index(index.faiss_index, faiss().PyCallbackIOWriter(body.write))
        file.seek(0)
        file.write(_HEADER.pack(_MAGIC, body.size, body.crc))
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)


def load_snapshot(path: Path) -> VectorIndex | None:
    """The index in a snapshot, or None if there is no file or it is not whole."""
    try:
        with path.open("rb") as file:
            return _read(file) if _is_whole(file) else None
    except (OSError, ValueError, KeyError, TypeError, RuntimeError, struct.error):
        return None


def _is_whole(file: IO[bytes]) -> bool:
    """Checked before FAISS sees a byte: damaged lengths could make it do anything."""
    magic, size, crc = _HEADER.unpack(file.read(_HEADER.size))
    found_size = found_crc = 0
    while block := file.read(1 << 20):
        found_size += len(block)
        found_crc = zlib.crc32(block, found_crc)
    return bool((magic, size, crc) == (_MAGIC, found_size, found_crc))


def _read(file: IO[bytes]) -> VectorIndex | None:
    file.seek(_HEADER.size)
    description = json.loads(file.readline())
    count, kind, dim = (description[key] for key in ("positions", "kind", "dim"))
    rows = np.frombuffer(file.read(8 * count), dtype="<i8").astype(np.int64)
    alive = np.unpackbits(np.frombuffer(file.read((count + 7) // 8), np.uint8), count=count)
    faiss_index = faiss().read_index(faiss().PyCallbackIOReader(file.read))
    if kind not in KINDS or (faiss_index.ntotal, faiss_index.d) != (count, dim):
        return None
    index = VectorIndex(kind, dim, Version(*description["version"]), faiss_index)
    index.rows, index.alive = rows, alive.astype(bool)
    index.last_row, index.built_with = description["last_row"], description["built_with"]
    return index


class _Summed:
    """A file that counts and sums what is written to it."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self.size = 0
        self.crc = 0

    def write(self, data: bytes) -> int:
        self.size += len(data)
        self.crc = zlib.crc32(data, self.crc)
        return self._file.write(data)
