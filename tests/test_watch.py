"""Folders that an index follows."""

import os
import shutil
import threading
import time
import zipfile
from contextlib import contextmanager
from pathlib import Path

import pytest

from gem_rag.documents.load import load_file
from gem_rag.errors import DocumentError
from gem_rag.index.gem_index import GemIndex
from gem_rag.rag.ingest.watch import Watch, drop_missing, follow
from gem_rag.rag.pipeline import GemRAG

pytest.importorskip("watchfiles")
SETTLE = 0.15


@pytest.fixture
def notes(tmp_path):
    folder = tmp_path / "notes"
    folder.mkdir()
    (folder / "kettle.md").write_text("# Kettle\n\nThe kettle has a warranty of seven years.\n")
    return folder


@contextmanager
def watching(*paths, **options):
    """The changes seen so far, as they come."""
    seen, stop = [], threading.Event()
    watch = Watch(paths, settle=SETTLE, **{"rescan": 60.0, **options})

    def run():
        for changes in watch.changes(stop):
            seen.append(changes)  # noqa: PERF402

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    try:
        yield seen
    finally:
        stop.set()
        thread.join(5)
        assert not thread.is_alive()


def until(condition, seconds=10.0):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not happen in time"
        time.sleep(0.02)


def changed(seen):
    return [sorted(path.name for path in changes.changed) for changes in seen]


def test_what_is_there_comes_first_and_then_what_changes(notes):
    with watching(notes) as seen:
        until(lambda: changed(seen) == [["kettle.md"]])
        (notes / "rivers.txt").write_text("Rivers run to the sea.\n")
        until(lambda: changed(seen)[1:] == [["rivers.txt"]])
        (notes / "kettle.md").unlink()
        until(lambda: len(seen) == 3)
        assert (changed(seen)[2], seen[2].present) == ([], {str(notes / "rivers.txt")})


def test_a_burst_of_a_thousand_files_is_one_change(notes):
    with watching(notes) as seen:
        until(lambda: seen)
        for number in range(1000):
            (notes / f"{number}.txt").write_text(f"Note {number}.\n")
        until(lambda: len(seen) > 1)
        assert [len(changes.changed) for changes in seen] == [1, 1000]


def test_a_file_that_is_still_written_is_waited_for(notes):
    with watching(notes) as seen:
        until(lambda: seen)
        with (notes / "long.txt").open("w") as file:
            for _ in range(12):
                file.write("a line\n")
                file.flush()
                time.sleep(SETTLE / 2)
                assert len(seen) == 1
        until(lambda: changed(seen)[1:] == [["long.txt"]])


def test_what_index_ignores_is_not_seen(notes):
    (notes / ".gitignore").write_text("drafts/\n")
    with watching(notes, exclude=["*.log"]) as seen:
        until(lambda: seen)
        for name in ("drafts/a.txt", ".hidden.txt", "b.log", "node_modules/c.txt", "d.unknown"):
            (notes / name).parent.mkdir(exist_ok=True)
            (notes / name).write_text("words")
        (notes / "kept.txt").write_text("words")
        until(lambda: len(seen) > 1)
        assert changed(seen) == [["kettle.md"], ["kept.txt"]]


def test_a_folder_that_goes_and_comes_is_waited_for(notes):
    with watching(notes) as seen:
        until(lambda: seen)
        notes.rename(notes.with_name("elsewhere"))
        until(lambda: len(seen) == 2)
        assert (seen[1].roots, seen[1].away) == ([], [notes])
        notes.with_name("elsewhere").rename(notes)
        (notes / "new.txt").write_text("words")
        until(lambda: len(seen) >= 3 and notes / "new.txt" in seen[-1].changed)
        (notes / "newer.txt").write_text("words")  # and is watched again
        until(lambda: changed(seen)[-1] == ["newer.txt"])


def test_without_the_systems_events_looking_is_enough(notes, monkeypatch):
    def full(*_, **__):
        raise OSError("OS file watch limit reached")

    monkeypatch.setattr("watchfiles.watch", full)
    with watching(notes, rescan=0.3) as seen:
        until(lambda: seen)
        (notes / "new.txt").write_text("words")
        until(lambda: changed(seen)[1:] == [["new.txt"]])


@pytest.fixture
def followed(gem, notes, monkeypatch):
    """A `GemRAG` that follows the notes, and the reports so far."""
    monkeypatch.setattr(
        Watch.__init__, "__kwdefaults__", {**Watch.__init__.__kwdefaults__, "settle": SETTLE}
    )
    rag, reports, stop = GemRAG(gem, GemIndex()), [], threading.Event()

    def run():
        for report in follow(rag, [notes], stop=stop):
            reports.append(report)  # noqa: PERF402

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    until(lambda: reports)
    yield rag, reports
    stop.set()
    thread.join(5)


def test_an_index_follows_new_changed_moved_and_deleted_files(followed, notes):
    rag, reports = followed
    assert reports[0].added == [str(notes / "kettle.md")]
    (notes / "kettle.md").rename(notes / "teapot.md")
    until(lambda: len(reports) == 2)
    assert reports[1].moved == [(str(notes / "kettle.md"), str(notes / "teapot.md"))]
    (notes / "teapot.md").write_text("The teapot has none.\n")
    until(lambda: len(reports) == 3)
    assert reports[2].replaced == [str(notes / "teapot.md")]
    (notes / "rivers.txt").write_text("Rivers run to the sea.\n")
    (notes / "teapot.md").unlink()
    until(
        lambda: (
            len(rag.index.documents.all()) == 1 and "teapot" not in str(rag.index.documents.all())
        )
    )
    assert [d.source for d in rag.index.documents.all()] == [str(notes / "rivers.txt")]


def test_a_mount_that_vanishes_deletes_nothing(gem, notes, monkeypatch):
    mounted = {str(notes)}
    is_mount = os.path.ismount
    monkeypatch.setattr(os.path, "ismount", lambda p: str(p) in mounted or is_mount(p))
    rag = GemRAG(gem, GemIndex())
    rag.add(notes)
    stop = threading.Event()
    changes = Watch([notes], settle=SETTLE).changes(stop)
    next(changes)
    (notes / "other.txt").write_text("words")
    rag.add(notes)
    mounted.clear()
    shutil.rmtree(notes)
    notes.mkdir()  # the bare mount point
    assert drop_missing(rag, next(changes)) == []
    (notes / ".keep").touch()
    assert drop_missing(rag, next(Watch([notes], settle=SETTLE).changes(stop))) == []
    assert len(rag.index.documents) == 2


def test_an_archive_that_unpacks_to_far_too_much_is_not_opened(tmp_path):
    bomb = tmp_path / "bomb.docx"
    with zipfile.ZipFile(bomb, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("word/document.xml", b"\0" * (80 << 20))
    with pytest.raises(DocumentError, match="unpacks to 84 MB"):
        load_file(bomb)
    assert Path(bomb).exists()


def test_the_command_follows_a_folder_without_a_server(gem, notes, tmp_path):
    import json
    import signal
    import subprocess
    import sys

    model = gem.save_pretrained(tmp_path / "checkpoint")
    command = [sys.executable, "-m", "gem_rag.cli", "index", notes, "--index", tmp_path / "index"]
    options = ["--model", model, "--watch", "--json"]
    with subprocess.Popen(
        [*map(str, command), *map(str, options)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        # An interrupt counts, though tests that run in the background ignore it.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    ) as process:
        try:
            first = "".join(iter(process.stdout.readline, "}\n"))
            assert '"added"' in first
            (notes / "rivers.txt").write_text("Rivers run to the sea.\n")
            report = json.loads(process.stdout.readline())
            assert (report["added"], report["total_chunks"]) == ([str(notes / "rivers.txt")], 2)
            (notes / "kettle.md").unlink()
            assert json.loads(process.stdout.readline())["removed"] == [str(notes / "kettle.md")]
            process.send_signal(signal.SIGINT)
            out, err = process.communicate(timeout=20)
        finally:
            process.kill()
    assert (process.returncode, out, err) == (0, "", "")
