"""Readings of a skill's passages: what is read more than once is kept."""

from __future__ import annotations

import warnings
from collections.abc import Collection, Iterable, Sequence
from pathlib import Path

from gem_rag.compute.reading import Reading
from gem_rag.model import GemModel
from gem_rag.store import ReadingStore
from gem_rag.text.codec import TextCodec

MEMORY_BYTES = 1 << 30


class Passages:
    """Reads passages, and keeps the readings of some in memory and on disk.

    Args:
        model: Reads.
        again: Passages that will be read more than once.
        folder: Of the kept ones.
        disk_bytes: Bound of what is kept there; what is beyond is read each time.
    """

    def __init__(
        self, model: GemModel, again: Collection[str], folder: Path, disk_bytes: int
    ) -> None:
        self._model = model
        self._again = again
        memory = min(MEMORY_BYTES, max(disk_bytes, 1))
        self._store = ReadingStore(
            model, folder, memory_bytes=memory, disk_bytes=disk_bytes, format="float32"
        )

    def read(self, texts: Sequence[str]) -> list[Reading]:
        """Each text's reading."""
        unique = list(dict.fromkeys(texts))
        again = [text for text in unique if text in self._again]
        once = [text for text in unique if text not in self._again]
        found = dict(zip(again, self._store.read(again, evict=False), strict=True))
        if once:
            found |= zip(once, self._model.read(once, show_progress=False), strict=True)
        return [found[text] for text in texts]

    def forget(self) -> None:
        """Delete what was kept."""
        self._store.clear()


def cut(codec: TextCodec, texts: Iterable[str], max_tokens: int) -> dict[str, str]:
    """Each text, and what of it is read: so many tokens at most. Warns where something is cut."""
    unique = list(dict.fromkeys(texts))
    tokenized = codec.encode_texts(unique, max_tokens)
    over = sum(own.cut > 0 for own in tokenized)
    if over:
        warnings.warn(
            f"{over:,} of {len(unique):,} passages have more than {max_tokens} tokens, and their "
            "ends are not read; set max_length, or cut them where it suits",
            stacklevel=2,
        )
    return {
        text: text[: own.offsets[-1][1]] if own.cut else text
        for text, own in zip(unique, tokenized, strict=True)
    }
