"""The cache folder, atomic writes, locks and hashes: what everything that touches files shares."""

from __future__ import annotations

import hashlib
import os
import secrets
import shutil
import stat
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from gem_rag.errors import FetchError

_LOCK_SECONDS = 1800  # another process may be fetching over a slow line


def cache_dir() -> Path:
    """The user's cache folder for gem-rag; the environment variable GEM_RAG_CACHE overrides it."""
    override = os.environ.get("GEM_RAG_CACHE")
    if override:
        return Path(override).expanduser()
    import platformdirs

    return platformdirs.user_cache_path("gem-rag")


def atomic_write(path: Path, data: bytes | str | Sequence[bytes | memoryview]) -> None:
    """Write a file so that others see the old one or the new one, never a part.

    Who may read it is what it is for any new file: what the umask says.

    Args:
        path: The file.
        data: What it holds; in several pieces, one after the other.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    content = data.encode("utf-8") if isinstance(data, str) else data
    pieces = [content] if isinstance(content, bytes) else content
    fresh = _beside(path)
    try:
        with fresh.open("xb") as file:
            file.writelines(pieces)
            file.flush()
            os.fsync(file.fileno())
        fresh.replace(path)
    except BaseException:
        fresh.unlink(missing_ok=True)
        raise


@contextmanager
def atomic_dir(target: str | Path) -> Iterator[Path]:
    """A fresh sibling folder to fill; it takes the target's place when the block ends well.

    Who may read what is in it is what it is for new files, whatever they were written by.
    """
    target = Path(target)
    target.parent.mkdir(parents=True, exist_ok=True)
    fresh = _beside(target)
    fresh.mkdir()
    try:
        yield fresh
        open_to_readers(fresh)
        old = fresh.with_name(fresh.name + ".old")
        if target.exists():
            target.replace(old)
        fresh.replace(target)
        shutil.rmtree(old, ignore_errors=True)
    finally:
        shutil.rmtree(fresh, ignore_errors=True)


def _beside(path: Path) -> Path:
    return path.with_name(f".{path.name}.{secrets.token_hex(4)}")


def open_to_readers(folder: Path) -> None:
    """Give all that is in a folder the permissions that new files get there.

    Libraries that write through temporary files leave them to their owner alone.
    """
    mode = stat.S_IMODE(folder.stat().st_mode)  # of a new one: what the umask left of 0o777
    for path in folder.rglob("*"):
        if not path.is_symlink():
            path.chmod(mode if path.is_dir() else mode & 0o666)


@contextmanager
def locked(path: Path, seconds: float = _LOCK_SECONDS) -> Iterator[None]:
    """Hold a lock file beside `path`: other processes wait.

    Args:
        path: What is being made.
        seconds: How long to wait; -1: until it is free.

    Raises:
        FetchError: Another process has held it for so long, or it may not be written.
    """
    from filelock import FileLock, Timeout

    lock = path.with_name(path.name + ".lock")
    holder = FileLock(lock, timeout=seconds)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        holder.acquire()
    except Timeout:
        raise FetchError(
            f"another process has held {lock} for {seconds // 60:.0f} minutes; if none is "
            "running, delete it"
        ) from None
    except PermissionError as error:
        raise FetchError(
            f"{path} is not there yet and cannot be made: {lock} may not be written; let who "
            "owns the folder make it, or name another cache folder (GEM_RAG_CACHE)"
        ) from error
    try:
        yield
    finally:
        holder.release()


def bytes_in(folder: Path) -> int:
    """Bytes of the files that lie in a folder, not of those in folders below; 0 without one."""
    total = 0
    try:
        with os.scandir(folder) as entries:
            for entry in entries:
                with suppress(FileNotFoundError):  # another process may have moved it
                    total += entry.stat().st_size if entry.is_file() else 0
    except FileNotFoundError:
        return 0
    return total


def sha256_of(path: Path) -> str:
    """A file's sha256 in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
