"""GemModel: one set of weights that reads once, and embeds, ranks and answers."""

from __future__ import annotations

from pathlib import Path

from gem_rag.asynchronous import AsyncTwins
from gem_rag.embedding import Embeds
from gem_rag.generation import Generates
from gem_rag.ranking import Ranked
from gem_rag.reading import Reading

__all__ = ["GemModel", "Ranked", "Reading"]


class GemModel(Embeds, Generates, AsyncTwins):
    """A decoder with special tokens: read a text once, then embed it, rank it, answer from it.

    Use `from_pretrained`. Safe to use from several threads at once.
    """

    @classmethod
    def from_pretrained(
        cls,
        name_or_path: str | Path | None = None,
        *,
        device: str = "auto",
        dtype: str = "auto",
        revision: str | None = None,
    ) -> GemModel:
        """Load a GEM checkpoint; the same checkpoint asked for twice is the same object.

        Args:
            name_or_path: Bundled name, local folder or hub id; None is the embedded default,
                fetched and converted on first use.
            device: ``auto`` (CUDA, then MPS, then CPU) or a torch device.
            dtype: ``auto`` (float32 on CPU, the base's own elsewhere) or a torch dtype's name.
            revision: Hub revision.

        Raises:
            CheckpointError: Nothing there, or the base does not match the checkpoint's record.
            UnsupportedModelError: The base's architecture cannot be used.
        """
        from gem_rag.checkpoint import load_shared

        return load_shared(name_or_path, device=device, dtype=dtype, revision=revision)

    def save_pretrained(
        self, folder: str | Path, *, card: str | None = None, with_base: bool = False
    ) -> Path:
        """Write config, adapter (PEFT's format), token vectors and card to a folder, atomically.

        Args:
            folder: Where: a new or empty folder, or a checkpoint's, which is replaced.
            card: Markdown of the model card; None writes a short one.
            with_base: Write the base's weights too: for a base that was trained.
        """
        from gem_rag.checkpoint import save

        return save(self, Path(folder), card=card, with_base=with_base)
