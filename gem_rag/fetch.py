"""Single wheels from the package index, as the user's pip or uv is set up."""

from __future__ import annotations

import importlib.util
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Literal

from gem_rag.errors import FetchError
from gem_rag.files import atomic_dir, cache_dir, locked, sha256_of

Form = Literal["wheel", "linux wheel", "sdist"]
_FORMS: dict[Form, tuple[str, ...]] = {
    "wheel": ("--only-binary=:all:",),
    "linux wheel": (
        *("--only-binary=:all:", "--platform=manylinux_2_28_x86_64"),
        *("--implementation=cp", "--python-version=3.11"),
    ),
    "sdist": ("--no-binary=:all:",),
}


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
    if (kept := _kept(folder, sha256)) is not None:
        return kept  # without a lock: who shares a cache may not be allowed to write there
    with locked(folder):
        if (kept := _kept(folder, sha256)) is not None:
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


def _kept(folder: Path, sha256: str) -> Path | None:
    """The file that was fetched before, if it is the right one."""
    try:
        file = next(folder.glob("*"), None)
        return file if file is not None and sha256_of(file) == sha256 else None
    except OSError:
        return None


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
