"""Indexing on Ray does what indexing here does, whoever is killed on the way."""

import json
import signal
import subprocess
import sys
import threading
import time

import numpy as np
import pytest

from gem_rag import cli
from gem_rag.errors import MissingExtraError
from gem_rag.index import GemIndex
from gem_rag.model import GemModel
from gem_rag.rag import GemRAG
from gem_rag.rag.ingest import ray as on_ray

psutil = pytest.importorskip("psutil")
needs_ray = pytest.mark.skipif(
    not on_ray.has_ray(), reason="needs Ray Data: pip install 'gem-rag[ray]'"
)
pytestmark = pytest.mark.timeout(400)


@pytest.fixture(scope="module")
def model(tiny_checkpoint) -> GemModel:
    return GemModel.from_pretrained(tiny_checkpoint)


@pytest.fixture(scope="module")
def cluster():
    """A cluster of two workers for the module, which `add` then uses."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_worker_niceness", "0")  # as important as the test
        with on_ray.connected():
            yield


@pytest.fixture
def niceness(monkeypatch):
    monkeypatch.setenv("RAY_worker_niceness", "0")


def documents(folder, count):
    folder.mkdir()
    for i in range(count):
        (folder / f"{i:04}.md").write_text(f"# River {i}\n\n" + f"It runs to the sea {i}. " * 60)
    (folder / "bad.txt").write_bytes(bytes(range(256)))
    return folder


def content(index):
    return [
        (r.source, r.start, r.end, r.text, r.heading, r.vector) for r in index.iterate(vectors=True)
    ]


def require_same(found, expected):
    assert [chunk[:-1] for chunk in found] == [chunk[:-1] for chunk in expected]
    vectors = [np.array([chunk[-1] for chunk in chunks]) for chunks in (found, expected)]
    assert np.allclose(*vectors, atol=1e-5)


def kill_a_worker(index_folder, killed):
    """As soon as something was committed, kill one of the processes that embed."""
    while not killed.is_set():
        if committed(index_folder):
            children = psutil.Process().children(recursive=True)
            embedding = [child for child in children if "Embed" in name_of(child)]
            if embedding:
                embedding[0].kill()
                killed.set()
        time.sleep(0.005)


def name_of(process):
    try:
        return " ".join(process.cmdline())
    except psutil.Error:
        return ""


def committed(folder):
    if not (folder / "index.sqlite").exists():
        return 0
    with GemIndex(folder, create=False) as index:
        return index.count()


@needs_ray
def test_a_killed_worker_changes_nothing(model, cluster, tmp_path):
    docs = documents(tmp_path / "docs", 300)
    with GemIndex(tmp_path / "here") as index:
        rag = GemRAG(model, index)
        expected, here = rag.add(docs), content(index)
    killed = threading.Event()
    with GemIndex(tmp_path / "ray") as index:
        rag = GemRAG(model, index)
        killer = threading.Thread(target=kill_a_worker, args=(tmp_path / "ray", killed))
        killer.start()
        try:
            report = on_ray.add(rag, [docs], actors=2, show_progress=False)
        finally:
            was_killed = killed.is_set()
            killed.set()
            killer.join()
        assert was_killed
        assert report == expected
        require_same(content(index), here)

        # Changed, moved and gone files: the same as here, from the same state.
        (docs / "0001.md").write_text("Nothing but a lake.")
        (docs / "0002.md").rename(docs / "moved.md")
        (docs / "0003.md").unlink()
        again = on_ray.add(rag, [docs], actors=1, remove_missing=True, show_progress=False)
        on_ray_then = content(index)
    with GemIndex(tmp_path / "here") as index:
        rag = GemRAG(model, index)
        assert again == rag.add(docs, remove_missing=True)
        assert [len(again.replaced), len(again.moved), len(again.removed)] == [1, 1, 1]
        require_same(on_ray_then, content(index))


@needs_ray
def test_a_killed_driver_goes_on_where_it_was(model, niceness, tiny_checkpoint, tmp_path):
    docs, folder = documents(tmp_path / "docs", 300), tmp_path / "index"
    arguments = ["index", str(docs), "--index", str(folder), "--model", tiny_checkpoint]
    command = [sys.executable, "-m", "gem_rag.cli", *arguments, "--on", "ray", "--actors", "1"]
    process = subprocess.Popen(
        [*command, "--json"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    children = []
    while not committed(folder):
        assert process.poll() is None
        children = psutil.Process(process.pid).children(recursive=True)
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    embedding = [child for child in children if "Embed" in name_of(child)]
    _, alive = psutil.wait_procs(embedding, timeout=60)
    assert not alive, "who embeds ends with who asked for it"
    with GemIndex(folder) as index:
        whole = {document.source for document in index.documents.all()}
    assert 0 < len(whole) < 300
    done = subprocess.run([*command, "--json"], capture_output=True, text=True, check=True)
    report = json.loads(done.stdout)
    assert set(report["unchanged"]) == whole
    assert len(report["added"]) == 300 - len(whole)
    with GemIndex(tmp_path / "here") as index:
        GemRAG(model, index).add(docs)
        expected = content(index)
    with GemIndex(folder) as index:
        require_same(sorted(content(index)), sorted(expected))


def test_actors_without_ray_are_refused_before_anything_is_made(monkeypatch, capsys, tmp_path):
    arguments = ["index", str(tmp_path), "--index", str(tmp_path / "index"), "--actors", "2"]
    monkeypatch.setattr(sys, "argv", ["gem-rag", *arguments])
    with pytest.raises(SystemExit) as stop:
        cli.main()
    assert stop.value.code == 2
    assert "--on ray" in capsys.readouterr().err
    assert not (tmp_path / "index").exists()


def test_without_ray_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    monkeypatch.setitem(sys.modules, "ray.data", None)
    with pytest.raises(MissingExtraError, match=r"gem-rag\[ray\]"):
        on_ray.require_ray()
