"""The cache folder, atomic writes, locks and hashes: what everything that touches files shares."""

from __future__ import annotations

import hashlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from gem_rag.errors import FetchError

_LOCK_SECONDS = 1800  # another process may be fetching over a slow line
_UMASK = os.umask(0)
os.umask(_UMASK)


def cache_dir() -> Path:
    """The user's cache folder for gem-rag; the environment variable GEM_RAG_CACHE overrides it."""
    override = os.environ.get("GEM_RAG_CACHE")
    if override:
        return Path(override).expanduser()
    import platformdirs

    return platformdirs.user_cache_path("gem-rag")


def atomic_write(path: Path, data: bytes | str) -> None:
    """Write a file so that others see the old one or the new one, never a part."""
    path.parent.mkdir(parents=True, exist_ok=True)
    content = data.encode("utf-8") if isinstance(data, str) else data
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        Path(name).chmod(0o666 & ~_UMASK)  # as any new file: a temporary one is its owner's alone
        Path(name).replace(path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise


@contextmanager
def atomic_dir(target: str | Path) -> Iterator[Path]:
    """A fresh sibling folder to fill; it takes the target's place when the block ends well."""
    target = Path(target)
    target.parent.mkdir(parents=True, exist_ok=True)
    fresh = Path(tempfile.mkdtemp(dir=target.parent, prefix=f".{target.name}."))
    fresh.chmod(0o755)
    try:
        yield fresh
        old = fresh.with_name(fresh.name + ".old")
        if target.exists():
            target.replace(old)
        fresh.replace(target)
        shutil.rmtree(old, ignore_errors=True)
    finally:
        shutil.rmtree(fresh, ignore_errors=True)


@contextmanager
def locked(path: Path, seconds: float = _LOCK_SECONDS) -> Iterator[None]:
    """Hold a lock file beside `path`: other processes wait.

    Args:
        path: What is being made.
        seconds: How long to wait; -1: until it is free.

    Raises:
        FetchError: Another process has held it for so long.
    """
    from filelock import FileLock, Timeout

    path.parent.mkdir(parents=True, exist_ok=True)
    lock = path.with_name(path.name + ".lock")
    try:
        with FileLock(lock, timeout=seconds):
            yield
    except Timeout:
        raise FetchError(
            f"another process has held {lock} for {seconds // 60:.0f} minutes; if none is "
            "running, delete it"
        ) from None


def sha256_of(path: Path) -> str:
    """A file's sha256 in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
