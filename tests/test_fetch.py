"""Fetching one wheel: verified, kept, fetched again when damaged, safe for two at once."""

import hashlib
import os
import stat
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from gem_rag import fetch, files
from gem_rag.errors import FetchError
from gem_rag.fetch import fetch_wheel
from gem_rag.files import atomic_dir, atomic_write, cache_dir, locked

WHEEL = b"a wheel's bytes"
GOOD = hashlib.sha256(WHEEL).hexdigest()


@pytest.fixture
def index(monkeypatch):
    """A package index that serves one file, and counts."""
    served = {"data": WHEEL, "calls": [], "fails": ""}

    def run(command, **_):
        served["calls"].append(command)
        if served["fails"]:
            return subprocess.CompletedProcess(command, 1, "", served["fails"])
        folder = Path(command[command.index("--dest") + 1])
        (folder / "thing-1.0-py3-none-any.whl").write_bytes(served["data"])
        return subprocess.CompletedProcess(command, 0, "", "")

    monkeypatch.setattr(fetch.subprocess, "run", run)
    return served


def test_one_wheel_without_its_dependencies_once(index, tmp_path):
    path = fetch_wheel("thing==1.0", GOOD, cache=tmp_path)
    assert path.read_bytes() == WHEEL
    assert fetch_wheel("thing==1.0", GOOD, cache=tmp_path) == path
    (command,) = index["calls"]
    assert "--no-deps" in command
    assert command[-1] == "thing==1.0"


@pytest.mark.parametrize(
    ("form", "asked"),
    [
        ("wheel", "--only-binary=:all:"),
        ("linux wheel", "--platform=manylinux_2_28_x86_64"),
        ("sdist", "--no-binary=:all:"),
    ],
)
def test_each_form_of_a_package_can_be_asked_for(index, tmp_path, form, asked):
    fetch_wheel("thing==1.0", GOOD, cache=tmp_path, form=form)
    (command,) = index["calls"]
    assert asked in command


@pytest.mark.parametrize("damage", [b"", WHEEL[:5], WHEEL + b"x"])
def test_a_damaged_copy_is_fetched_again(index, tmp_path, damage):
    fetch_wheel("thing==1.0", GOOD, cache=tmp_path).write_bytes(damage)
    assert fetch_wheel("thing==1.0", GOOD, cache=tmp_path).read_bytes() == WHEEL
    assert len(index["calls"]) == 2


def test_another_file_than_the_pinned_one_is_not_used(index, tmp_path):
    index["data"] = b"something else"
    with pytest.raises(FetchError, match=GOOD):
        fetch_wheel("thing==1.0", GOOD, cache=tmp_path)
    assert not list(tmp_path.rglob("*.whl"))


def test_a_failure_says_what_pip_said(index, tmp_path):
    index["fails"] = "ERROR: No matching distribution found for thing==1.0"
    with pytest.raises(FetchError, match="No matching distribution"):
        fetch_wheel("thing==1.0", GOOD, cache=tmp_path)


def test_an_environment_without_pip_uses_uv_or_says_so(monkeypatch):
    monkeypatch.setattr(fetch.importlib.util, "find_spec", lambda name: None)
    monkeypatch.setattr(fetch.shutil, "which", lambda name: f"/bin/{name}")
    assert fetch._pip() == ["/bin/uv", "tool", "run", "pip"]
    monkeypatch.setattr(fetch.shutil, "which", lambda name: None)
    with pytest.raises(FetchError, match="ensurepip"):
        fetch._pip()


def test_the_cache_can_be_moved(monkeypatch, tmp_path):
    monkeypatch.setenv("GEM_RAG_CACHE", str(tmp_path))
    assert cache_dir() == tmp_path
    monkeypatch.delenv("GEM_RAG_CACHE")
    assert cache_dir().name == "gem-rag"


def test_two_processes_at_once_fetch_once(tmp_path):
    code = (
        "import sys, subprocess, time\n"
        "from pathlib import Path\n"
        "from gem_rag import fetch\n"
        "def run(command, **_):\n"
        "    time.sleep(0.5)\n"
        "    folder = Path(command[command.index('--dest') + 1])\n"
        "    (folder / 'thing.whl').write_bytes(b\"a wheel's bytes\")\n"
        "    with open(sys.argv[1] + '/calls', 'a') as f: f.write('x')\n"
        "    return subprocess.CompletedProcess(command, 0, '', '')\n"
        "fetch.subprocess.run = run\n"
        f"fetch.fetch_wheel('thing==1.0', '{GOOD}', cache=Path(sys.argv[1]) / 'cache')\n"
    )
    racers = [subprocess.Popen([sys.executable, "-c", code, str(tmp_path)]) for _ in range(3)]
    assert [r.wait(timeout=60) for r in racers] == [0, 0, 0]
    assert (tmp_path / "calls").read_text() == "x"


def test_writes_are_whole_or_not_at_all(tmp_path, monkeypatch):
    target = tmp_path / "deep" / "file"
    atomic_write(target, "one")
    assert target.read_text() == "one"
    monkeypatch.setattr(files.os, "fsync", lambda _: (_ for _ in ()).throw(OSError("full")))
    with pytest.raises(OSError, match="full"):
        atomic_write(target, "two")
    assert target.read_text() == "one"
    assert [p.name for p in target.parent.iterdir()] == ["file"]


def test_a_folder_is_replaced_whole_or_not_at_all(tmp_path):
    target = tmp_path / "folder"
    with atomic_dir(target) as fresh:
        (fresh / "a").write_text("1")

    def interrupted():
        with atomic_dir(target) as fresh:
            (fresh / "b").write_text("2")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        interrupted()
    assert [p.name for p in target.iterdir()] == ["a"]
    with atomic_dir(target) as fresh:
        (fresh / "c").write_text("3")
    assert [p.name for p in target.iterdir()] == ["c"]
    assert [p.name for p in tmp_path.iterdir()] == ["folder"]


# Shared with others


@pytest.fixture(params=[0o022, 0o027, 0o077])
def umask(request):
    """What new files may not be, set after everything is imported."""
    before = os.umask(request.param)
    yield request.param
    os.umask(before)


def permissions(path):
    return stat.S_IMODE(path.stat().st_mode)


@pytest.mark.skipif(os.name == "nt", reason="Windows has no such permissions")
def test_what_is_written_is_for_whom_the_umask_says(tmp_path, umask):
    file, folder = tmp_path / "a" / "file", tmp_path / "b" / "folder"
    atomic_write(file, "x")
    atomic_write(file, "y")
    with atomic_dir(folder) as fresh:
        (fresh / "deep").mkdir()
        (fresh / "deep" / "plain").write_text("x")
        handle, private = tempfile.mkstemp(dir=fresh)  # as some libraries write
        os.close(handle)
    with locked(tmp_path / "thing"):
        lock = permissions(tmp_path / "thing.lock")
    assert lock == 0o666 & ~umask
    for path in (file, folder / "deep" / "plain", folder / Path(private).name):
        assert permissions(path) == 0o666 & ~umask
    for path in (file.parent, folder, folder / "deep"):
        assert permissions(path) == 0o777 & ~umask


@pytest.mark.skipif(os.name == "nt", reason="Windows has no such permissions")
def test_a_saved_checkpoint_is_for_whom_the_umask_says(gem, tmp_path, umask):
    folder = gem.save_pretrained(tmp_path / "checkpoint")
    modes = {permissions(file) for file in folder.rglob("*") if file.is_file()}
    assert modes == {0o666 & ~umask}


@pytest.fixture
def sealed(monkeypatch):
    """Nothing may be locked, as in a cache that belongs to another user."""
    import filelock

    def refuse(self, *_, **__):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(filelock.FileLock, "acquire", refuse)


def test_a_shared_cache_is_read_where_it_cannot_be_locked(index, tmp_path, request):
    path = fetch_wheel("thing==1.0", GOOD, cache=tmp_path)
    request.getfixturevalue("sealed")
    assert fetch_wheel("thing==1.0", GOOD, cache=tmp_path) == path
    path.write_bytes(b"damaged")
    with pytest.raises(FetchError, match="GEM_RAG_CACHE"):
        fetch_wheel("thing==1.0", GOOD, cache=tmp_path)
