"""Who is who: hashes of a base's weights and of all that decides an embedding."""

from __future__ import annotations

import hashlib
import json
import os
from contextlib import suppress
from pathlib import Path

import torch

from gem_rag.compute.parts import Parts
from gem_rag.errors import CheckpointError
from gem_rag.files import atomic_write, cache_dir

RULES_VERSION = 1  # raised when reading, masking or pooling change what vectors mean


def seal(parts: Parts) -> Parts:
    """Compute the fingerprints; call again after the weights changed."""
    c = parts.config
    reading = [
        f"rules {RULES_VERSION}",
        c.base.weights,
        _digest(parts.codec.serialized().encode()),
        str(c.preamble_ids),
        # float32, bfloat16 and float16 go together: vectors have a cosine of 0.999 and more.
        *([parts.base.number_format] if parts.base.rounded else []),
    ]
    own = hashlib.sha256()
    for _, tensor in sorted(parts.adapter.to_peft().items()):
        own.update(tensor.numpy().tobytes())
    for tensor in token_tensors(parts).values():
        own.update(tensor.numpy().tobytes())
    adapted = own.hexdigest() if c.adapter_scope != "tokens" else ""
    adapter = (c.adapter.rank, c.adapter.alpha, *filter(None, [c.adapter.targets]))
    rules: tuple[object, ...] = (c.num_special_tokens, c.pooling, c.adapter_scope, adapter)
    if c.embed_layers is not None:  # older checkpoints keep their fingerprints
        rules = (*rules, f"first {c.embed_layers} layers")
    words: tuple[str, ...] = (c.query_instruction, c.document_instruction)
    if c.query_prefix:  # likewise
        words = (c.query_prefix, *words)
    parts.reading_fingerprint = _digest("\n".join([*reading, adapted]).encode())
    parts.fingerprint = _digest(
        "\n".join([*reading, own.hexdigest(), repr((rules, words))]).encode()
    )
    return parts


def token_tensors(parts: Parts) -> dict[str, torch.Tensor]:
    """What `TOKEN_VECTORS` holds, float16: ``[K, hidden]``, and ``[d, r]`` where r is not 0."""
    tensors = {"special_tokens": parts.special_vectors.detach()}
    if parts.whitening.shape[1]:
        tensors["whitening"] = parts.whitening
    return {name: tensor.half().cpu().contiguous() for name, tensor in tensors.items()}


def weights_hash(folder: Path) -> str:
    """sha256 over the tensors of a folder's safetensors, however they are split into files.

    Hashed once and remembered by size and modification time.

    Raises:
        CheckpointError: The folder has no safetensors.
    """
    files = sorted(folder.glob("*.safetensors"))
    if not files:
        raise CheckpointError(
            f"{folder} has no .safetensors weights; convert it (pickled weights are not read)"
        )
    stats = [(str(f.resolve()), f.stat().st_size, f.stat().st_mtime_ns) for f in files]
    key = _digest(json.dumps(stats).encode())
    memory = cache_dir() / "weights-hashes" / key
    try:
        remembered = memory.read_text(encoding="ascii").strip()
        if len(remembered) == 64:
            return remembered
    except OSError:
        pass
    digest = _hash_tensors(files)
    with suppress(OSError):  # a cache that may only be read costs time, not the model
        atomic_write(memory, digest)
    return digest


def _hash_tensors(files: list[Path]) -> str:
    entries = []
    for file in files:
        with file.open("rb") as f:
            size = int.from_bytes(f.read(8), "little")
            header = json.loads(f.read(size))
        for name, info in header.items():
            if name != "__metadata__":
                entries.append((name, info, file, 8 + size))
    digest = hashlib.sha256()
    for name, info, file, offset in sorted(entries, key=lambda e: e[0]):
        start, end = info["data_offsets"]
        digest.update(f"{name} {info['dtype']} {info['shape']}\n".encode())
        with file.open("rb") as f:
            f.seek(offset + start, os.SEEK_SET)
            left = end - start
            while left:
                chunk = f.read(min(left, 1 << 22))
                if not chunk:
                    raise CheckpointError(f"{file} is cut short; fetch it again")
                digest.update(chunk)
                left -= len(chunk)
    return digest.hexdigest()


def _digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
