"""Plain tensors in a file that is mapped into memory: safetensors' layout, and a checksum."""

from __future__ import annotations

import json
import zlib
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

_KINDS = {  # safetensors' names
    torch.float32: "F32",
    torch.bfloat16: "BF16",
    torch.float16: "F16",
    torch.int8: "I8",
}


def pieces_of(tensors: Mapping[str, Tensor], facts: Mapping[str, str]) -> list[memoryview]:
    """A file's pieces, one after the other; tensors on the CPU are not copied.

    Args:
        tensors: By name; the widest numbers first.
        facts: What else the file says of itself.
    """
    header: dict[str, object] = {"__metadata__": dict(facts)}
    pieces, at = [], 0
    for name, tensor in tensors.items():
        data = tensor.cpu().contiguous().view(-1).view(torch.uint8).numpy()
        place = {"shape": list(tensor.shape), "data_offsets": [at, at := at + data.nbytes]}
        header[name] = {"dtype": _KINDS[tensor.dtype], **place}
        pieces.append(data.data)
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    pieces.insert(0, memoryview(len(text).to_bytes(8, "little") + text))
    checksum = 0
    for piece in pieces:
        checksum = zlib.crc32(piece, checksum)
    return [*pieces, memoryview(checksum.to_bytes(4, "little"))]


def mapped(path: Path) -> dict[str, Tensor]:
    """A file's tensors, in memory that is the file.

    Raises:
        OSError, RuntimeError, KeyError, TypeError, ValueError: It is not there, or damaged.
    """
    file = torch.from_file(str(path), size=path.stat().st_size, dtype=torch.uint8)
    data = file.numpy().data
    if zlib.crc32(data[:-4]).to_bytes(4, "little") != data[-4:]:
        raise ValueError("checksum")
    start = 8 + int.from_bytes(data[:8], "little")
    header = json.loads(bytes(data[8:start]))
    kinds = {name: dtype for dtype, name in _KINDS.items()}
    tensors = {}
    for name, place in header.items():
        if name != "__metadata__":
            first, end = (start + offset for offset in place["data_offsets"])
            tensors[name] = file[first:end].view(kinds[place["dtype"]]).view(place["shape"])
    return tensors
