"""Files that are sent: named safely, whole on disk before they are answered."""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path, PurePosixPath
from typing import BinaryIO

from gem_rag.documents.archive import require_modest
from gem_rag.documents.kinds import is_known, kind_of
from gem_rag.errors import DocumentError, GemError

NAME_BYTES, NAME_PARTS = 200, 16  # of one part of a name; parts
_BUFFER = 1 << 20


class Uploads:
    """The folder where uploads lie, under the names they came with.

    Args:
        folder: Where; made when it is needed.
        file_bytes: Most of one file.
    """

    def __init__(self, folder: Path, file_bytes: int) -> None:
        self.folder = folder
        self._file_bytes = file_bytes

    def files(self) -> Iterator[Path]:
        """All that were answered; what a crash left half-written is cleaned away."""
        for path in sorted(self.folder.rglob("*")):
            if path.name.startswith("."):
                path.unlink(missing_ok=True)
            elif path.is_file() and not path.is_symlink():
                yield path

    def holds(self, source: str) -> bool:
        """Whether a source is an upload."""
        return Path(source).is_relative_to(self.folder)

    def put(self, name: str, content: BinaryIO) -> Path:
        """Write a file, so that it is there whatever happens once this returns.

        Args:
            name: May hold folders.
            content: From where it is; read to its end.

        Returns:
            Where it lies; one of the same name is replaced.

        Raises:
            DocumentError: It has no name that is safe, is of no kind that can be read, too large
                or an archive that unpacks to too much.
            OSError: The disk is full, say; nothing is left of it then.
        """
        target = self.folder / safe_name(name)
        if not is_known(target.name):
            kind = kind_of(target.name) or "no suffix"
            raise DocumentError(f"{name}: files of this kind ({kind}) are not read")
        self._make(target.parent, name)
        fresh = target.with_name(f".{secrets.token_hex(8)}{kind_of(target.name)}")
        try:
            with fresh.open("xb") as file:
                self._copy(content, file, name)
                file.flush()
                os.fsync(file.fileno())
            require_modest(fresh)
            fresh.replace(target)
        except IsADirectoryError:
            raise DocumentError(f"{name}: a folder of this name is there already") from None
        finally:
            fresh.unlink(missing_ok=True)
        _sync(target.parent)
        return target

    def _make(self, folder: Path, name: str) -> None:
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except (FileExistsError, NotADirectoryError):
            raise DocumentError(f"{name}: a file has the name of its folder already") from None
        if not folder.resolve().is_relative_to(self.folder.resolve()):  # a link within it
            raise DocumentError(f"{name}: its folder leads out of the uploads")
        for made in (folder, *folder.parents):
            _sync(made)
            if made == self.folder.parent:
                break

    def _copy(self, content: BinaryIO, file: BinaryIO, name: str) -> None:
        copied = 0
        while block := content.read(_BUFFER):
            copied += len(block)
            if copied > self._file_bytes:
                raise DocumentError(f"{name} is larger than {self._file_bytes:,} bytes")
            file.write(block)

    def remove(self, source: str) -> None:
        """Delete one, and folders that are empty then."""
        path = Path(source)
        if not self.holds(source):
            raise GemError(f"{source} is no upload")
        path.unlink(missing_ok=True)
        for folder in path.parents:
            if folder == self.folder:
                break
            with suppress(OSError):
                folder.rmdir()
        if path.parent.is_dir():
            _sync(path.parent)


def safe_name(name: str) -> Path:
    """A name that a client chose, as a path that stays below where it is put.

    Raises:
        DocumentError: It is empty, too long, or leads elsewhere.
    """
    parts = PurePosixPath(name.replace("\\", "/")).parts
    if not parts or len(parts) > NAME_PARTS:
        raise DocumentError(f"the file name {name!r} has {len(parts)} parts; expected 1 to 16")
    for part in parts:
        if part.startswith((".", "/")) or part.endswith(":") or not part.isprintable():
            raise DocumentError(f"the file name {name!r} is not used; rename the file")
        if len(part.encode("utf-8", "surrogatepass")) > NAME_BYTES:
            raise DocumentError(f"the file name {name[:40]!r}... is too long; rename the file")
    return Path(*parts)


def _sync(folder: Path) -> None:
    """Have the names in a folder on disk."""
    with suppress(OSError):  # some file systems cannot
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
