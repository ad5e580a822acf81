"""The readings beside an index: whether, how many, and in how many bits."""

from __future__ import annotations

import shutil
from collections.abc import Sequence

from gem_rag.compute.packed import stored_dtype
from gem_rag.errors import GemError
from gem_rag.index.facts import READINGS_FOLDER
from gem_rag.index.protocol import Index
from gem_rag.model import GemModel
from gem_rag.store import DISK_BYTES, ReadingStore, forget

_BOUND, _FORMAT = "readings_bytes", "readings_format"  # what the index calls them


def readings_beside(
    model: GemModel,
    index: Index,
    keep: bool | None = None,
    most: int | None = None,
    kept_as: str | None = None,
) -> ReadingStore:
    """The store of an index's readings; where it may not write there, or is not to, in memory.

    Args:
        model: Whose readings.
        index: Remembers what it is told; an index in memory has readings in memory.
        keep: Whether to keep them on disk; False deletes those that are there. None is what the
            index was told last, or True.
        most: Bytes on disk; None likewise, or `DISK_BYTES`.
        kept_as: A `ReadingFormat`; None likewise, or "auto".

    Raises:
        GemError: The bound is negative, or there is one although none are kept; there is no such
            format.
    """
    if most is not None and (most < 0 or (keep is False and most > 0)):
        raise GemError(
            f"readings_bytes is {most}, keep_readings {keep}; expected a bound of those "
            "that are kept, at least 0"
        )
    kept_as = _remembered(model, index, kept_as)
    if index.path is None:
        return ReadingStore(model, format=kept_as)
    told = _told(keep, most)
    folder = index.path / READINGS_FOLDER
    if told is not None and not index.read_only:
        if told != index.get_meta(_BOUND, DISK_BYTES):
            index.set_meta(_BOUND, told)
        if told == 0:
            shutil.rmtree(folder, ignore_errors=True)
    bound = index.get_meta(_BOUND, DISK_BYTES) if told is None else told
    if bound == 0 or (index.read_only and not folder.is_dir()):
        return ReadingStore(model, format=kept_as)
    return ReadingStore(model, folder, disk_bytes=bound, format=kept_as)


def _remembered(model: GemModel, index: Index, kept_as: str | None) -> str:
    """The format that is asked for, or was last; the index is told."""
    known = str(index.get_meta(_FORMAT, "auto"))
    if kept_as is None or kept_as == known:
        return known
    stored_dtype(kept_as, model.base.dtype)  # one that there is not is not remembered
    if not index.read_only:
        index.set_meta(_FORMAT, kept_as)
    return kept_as


def forget_beside(index: Index, texts: Sequence[str]) -> None:
    """Delete what is kept beside an index of texts that are gone; no model is needed."""
    if index.path is not None:
        forget(index.path / READINGS_FOLDER, texts)


def _told(keep: bool | None, most: int | None) -> int | None:
    """The bound that is asked for; None where nothing is."""
    if keep is False:
        return 0
    return DISK_BYTES if most is None and keep else most
