"""Which files are gone, and which are only out of sight: unreadable, or on what is not mounted.

A file is gone where the system says that it is not there, and every mount that held it when it was
indexed is mounted still. What cannot be looked at may well be there.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Iterable
from pathlib import Path

from gem_rag.documents.find import is_gone
from gem_rag.index.protocol import Index

_MOUNTS = "mounts"  # what the index calls them


class Sight:
    """What can be seen of the files that an index knows.

    Args:
        index: Remembers the mounts that its files came from.
    """

    def __init__(self, index: Index) -> None:
        self._index = index
        self._mounts: list[str] = index.get_meta(_MOUNTS, [])

    def remember(self, files: Iterable[Path]) -> None:
        """Take note of the mounts that files lie on; the one at the root is always there."""
        folders = {file.parent for file in files}
        seen = {_mount_of(folder) for folder in folders}
        known = {mount for mount in map(Path, self._mounts) if not _is_past(mount, folders)}
        mounts = sorted(str(mount) for mount in known | seen if mount.parent != mount)
        if mounts != self._mounts:
            self._index.set_meta(_MOUNTS, mounts or None)
            self._mounts = mounts

    def is_gone(self, file: Path) -> bool:
        """Whether a file is no longer there."""
        return is_gone(file) and self.is_mounted(file)

    def is_mounted(self, path: Path) -> bool:
        """Whether what held a file or folder is mounted."""
        held = (Path(mount) for mount in self._mounts)
        return all(os.path.ismount(mount) for mount in held if path.is_relative_to(mount))


def missing_below(
    index: Index, sight: Sight, root: Path, found: Collection[str]
) -> tuple[list[str], str | None]:
    """What was indexed below a path and is gone.

    Args:
        index: Knows what was indexed.
        sight: Of its files.
        root: A file or folder, there or not.
        found: Sources that are there.

    Returns:
        Names of sources; and, where none can be told to be gone although some are not to be seen,
        why.
    """
    known = [document.source for document in index.documents.all()]
    unseen = [name for name in known if name not in found and Path(name).is_relative_to(root)]
    if unseen and is_empty(root):
        return [], "is empty; is it mounted?"
    if unseen and not sight.is_mounted(root):
        return [], "is not mounted"
    return [name for name in unseen if sight.is_gone(Path(name))], None


def is_empty(folder: Path) -> bool:
    """Whether a folder is there and holds nothing, as one has on which nothing is mounted."""
    try:
        with os.scandir(folder) as entries:
            return next(entries, None) is None
    except OSError:
        return False


def _is_past(mount: Path, folders: Iterable[Path]) -> bool:
    """Whether what was mounted is a plain folder now, with files."""
    return not os.path.ismount(mount) and any(f.is_relative_to(mount) for f in folders)


def _mount_of(folder: Path) -> Path:
    return next((f for f in (folder, *folder.parents) if os.path.ismount(f)), Path(folder.anchor))
