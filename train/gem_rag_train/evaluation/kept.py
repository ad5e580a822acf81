"""Work that is done stays done: vectors and answers in the output folder, appended as they come."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from gem_rag.config import Task
from gem_rag.progress import progress
from gem_rag_train.kept.lines import append_line, read_lines

if TYPE_CHECKING:
    from gem_rag_train.evaluation.systems import Embedder

CHUNK_CHARACTERS = 16_000  # embedded between two writes: some seconds' work
HASH_BYTES = 32


class KeptVectors:
    """An embedder that embeds each text once, whichever sets and metrics ask for it.

    Two files a kind of text: float32 rows, and the sha256 of the text of each row.

    Args:
        embedder: Makes the vectors.
        folder: Where they are kept, in a subfolder named by the embedder's key.
        show_progress: As for `GemModel.read`.
    """

    def __init__(
        self, embedder: Embedder, folder: Path, *, show_progress: bool | None = None
    ) -> None:
        self.embedder = embedder
        self.name = embedder.name
        self._folder = folder / embedder.key
        self._show = show_progress
        self._rows: dict[Task, dict[bytes, int]] = {}

    def embed(self, texts: Sequence[str], kind: Task = "document") -> np.ndarray:
        """Unit vectors ``[n, d]``, float32."""
        rows = self._known(kind)
        keys = [hashlib.sha256(t.encode("utf-8", "surrogatepass")).digest() for t in texts]
        missing = {key: text for key, text in zip(keys, texts, strict=True) if key not in rows}
        longest_first = sorted(missing.items(), key=lambda item: -len(item[1]))
        with progress(f"{self.name}: embedding", len(missing), self._show) as advance:
            for chunk in _chunks(longest_first):
                vectors = self.embedder.embed([text for _, text in chunk], kind)
                self._append(kind, [key for key, _ in chunk], vectors)
                advance(len(chunk))
        return self._vectors(kind)[[rows[key] for key in keys]]

    def _files(self, kind: Task) -> tuple[Path, Path]:
        return self._folder / f"{kind}.f32", self._folder / f"{kind}.sha256"

    def _known(self, kind: Task) -> dict[bytes, int]:
        """Row of each text kept; what an interruption left half written is cut off."""
        if kind in self._rows:
            return self._rows[kind]
        vectors, names = self._files(kind)
        self._folder.mkdir(parents=True, exist_ok=True)
        vectors.touch()
        names.touch()
        data = names.read_bytes()
        width = 4 * self.embedder.dim
        count = min(len(data) // HASH_BYTES, vectors.stat().st_size // width)
        for file, size in ((vectors, count * width), (names, count * HASH_BYTES)):
            with file.open("r+b") as opened:
                opened.truncate(size)
        hashes = [data[i * HASH_BYTES : (i + 1) * HASH_BYTES] for i in range(count)]
        self._rows[kind] = {key: row for row, key in enumerate(hashes)}
        return self._rows[kind]

    def _append(self, kind: Task, keys: Sequence[bytes], vectors: np.ndarray) -> None:
        rows = self._rows[kind]
        for file, data in zip(
            self._files(kind),
            (np.ascontiguousarray(vectors, dtype="<f4").tobytes(), b"".join(keys)),
            strict=True,
        ):
            with file.open("ab") as opened:
                opened.write(data)
        rows |= {key: len(rows) + i for i, key in enumerate(keys)}

    def _vectors(self, kind: Task) -> np.ndarray:
        flat = np.fromfile(self._files(kind)[0], dtype="<f4")
        return flat.reshape(-1, self.embedder.dim)


def _chunks(items: Sequence[tuple[bytes, str]]) -> Iterator[list[tuple[bytes, str]]]:
    """Texts in their order, so many at a time that little is lost when one chunk is."""
    chunk: list[tuple[bytes, str]] = []
    size = 0
    for key, text in items:
        chunk.append((key, text))
        size += len(text)
        if size >= CHUNK_CHARACTERS:
            yield chunk
            chunk, size = [], 0
    if chunk:
        yield chunk


class KeptAnswers:
    """What was found for each question, a line of JSON each, written as soon as it is known.

    Args:
        file: The file; a line that an interruption left half written is cut off.
    """

    def __init__(self, file: Path) -> None:
        self._file = file
        self._answers: dict[str, Any] = dict(read_lines(file))

    def __contains__(self, key: str) -> bool:
        return key in self._answers

    def __getitem__(self, key: str) -> Any:
        return self._answers[key]

    def __setitem__(self, key: str, answer: Any) -> None:
        self._answers[key] = answer
        append_line(self._file, [key, answer])


def digest(*parts: object) -> str:
    """A short name for what these parts say."""
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:16]
