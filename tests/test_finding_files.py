"""Which files of a folder are read, and what is said about the others."""

import json
import os

import pytest

from gem_rag.documents import find, find_files, is_gone
from gem_rag.errors import DocumentError


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "folder"


@pytest.fixture
def names(folder):
    """Names, below the folder, of the files that are found."""

    def named(**options):
        root = folder.resolve()
        return [file.relative_to(root).as_posix() for file in find([folder], **options).files]

    return named


def fill(folder, *names):
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text("words")


def test_what_people_keep_is_found_and_the_rest_is_counted(folder, names):
    known = [
        *("a.pptx", "b.xlsx", "c.odt", "d.ipynb", "e.eml", "f.tsv", "g.jsonl", "h.rtf", "i.xml"),
        *("j.py", "k.go", "l.sql", "readme", "LICENSE", "Makefile", "m.MD"),
    ]
    fill(folder, *known, "x.jpg", "y.JPG", "z.mp4", "unnamed", "~$a.pptx", ".hidden.md")
    assert sorted(names()) == sorted(known)
    assert find([folder]).passed_over == {"": 1, ".jpg": 2, ".mp4": 1}
    assert find_files([folder / "x.jpg"]) == [(folder / "x.jpg").resolve()]  # it was named


def test_gitignore_is_honoured(folder, names):
    fill(folder, "docs/a.md", "docs/build/b.md", "c.log", "keep.log", "docs/top.md", "top.md")
    (folder / ".gitignore").write_text("build/\n*.log\n!keep.log\n/top.md\n")
    assert names() == ["docs/a.md", "docs/top.md", "keep.log"]
    assert any("docs/build/" in what and "c.log" in what for _, what in find([folder]).notes)
    (folder / "docs" / ".gitignore").write_text("!build/\n")
    assert "docs/build/b.md" in names()


def test_a_repositorys_gitignore_holds_in_its_folders_unless_that_is_what_was_named(folder):
    fill(folder, "docs/a.md", "docs/out/b.md", "out/c.md")
    (folder / ".git").mkdir()
    (folder / ".gitignore").write_text("out/\n")
    assert [file.name for file in find_files([folder / "docs"])] == ["a.md"]
    assert [file.name for file in find_files([folder / "out"])] == ["c.md"]


def test_installed_packages_are_left_out(folder, names):
    fill(folder, "a.md", "node_modules/b.md", "env/pyvenv.cfg", "env/c.py", "__pycache__/d.py")
    assert names() == ["a.md"]


def test_exclude_takes_patterns(folder, names):
    fill(folder, "a.md", "drafts/b.md", "c.log", "deep/drafts/d.md")
    assert names(exclude=["drafts/", "*.log"]) == ["a.md"]
    assert names(exclude=["/drafts"]) == ["a.md", "c.log", "deep/drafts/d.md"]
    assert find([folder / "a.md", folder / "c.log"], exclude=["*.log"]).files == [
        (folder / "a.md").resolve()
    ]
    with pytest.raises(DocumentError, match="exclude"):
        find([folder], exclude=["!"])


def test_linked_folders_are_followed_once_and_mentioned(folder, names, tmp_path):
    fill(folder, "v2/a.md", "deep/b.md")
    fill(tmp_path / "elsewhere", "c.md")
    for link, target in (
        ("current", folder / "v2"),
        ("far", tmp_path / "elsewhere"),
        ("farther", tmp_path / "elsewhere"),
        ("deep/up", folder),
    ):
        (folder / link).symlink_to(target)
    assert names() in (["deep/b.md", f"{far}/c.md", "v2/a.md"] for far in ("far", "farther"))
    noted = {source.rpartition("/")[2] for source, _ in find([folder]).notes}
    assert noted == {"current", "far", "farther", "up"}


def test_a_linked_file_is_read_once(folder, names):
    fill(folder, "a.md")
    (folder / "b.md").symlink_to(folder / "a.md")
    (folder / "c.md").symlink_to("nowhere")
    assert names() == ["a.md"]
    assert [source for source, _ in find([folder]).skipped] == [str(folder.resolve() / "c.md")]


@pytest.fixture
def locked(monkeypatch):
    """Makes a path one that may not be looked at; root may look at everything otherwise."""
    forbidden = set()
    scandir, stat = os.scandir, os.stat

    def guarded(call):
        def checked(path=".", *args, **options):
            if any(str(path).startswith(f) for f in forbidden):
                raise PermissionError(13, "Permission denied", str(path))
            return call(path, *args, **options)

        return checked

    monkeypatch.setattr(os, "scandir", guarded(scandir))
    monkeypatch.setattr(os, "stat", guarded(stat))
    return lambda path: forbidden.add(str(path.resolve()))


def test_folders_that_cannot_be_read_are_skipped_with_the_reason(folder, names, locked):
    fill(folder, "a.md", "private/b.md", "c.md")
    locked(folder / "private")
    assert names() == ["a.md", "c.md"]
    [(source, reason)] = find([folder]).skipped
    assert source.endswith("private")
    assert "Permission denied" in reason


def test_what_cannot_be_looked_at_is_not_gone(folder, locked):
    fill(folder, "private/b.md")
    assert is_gone(folder / "private" / "nothing.md")
    assert is_gone(folder / "private" / "b.md" / "inside")
    locked(folder / "private")
    assert not is_gone(folder / "private" / "b.md")


def test_remove_missing_keeps_what_cannot_be_looked_at(folder, locked, gem):
    from gem_rag import GemRAG

    fill(folder, "a.md", "private/b.md", "gone.md")
    rag = GemRAG(gem, threshold=None)
    rag.add(folder)
    (folder / "gone.md").unlink()
    locked(folder / "private")
    report = rag.add(folder, remove_missing=True)
    assert [source.rpartition("/")[2] for source in report.removed] == ["gone.md"]
    assert [source.rpartition("/")[2] for source, _ in report.skipped] == ["private"]


def test_a_report_says_what_was_passed_over_and_what_to_know(folder, gem):
    from gem_rag import GemRAG

    fill(folder, "a.md", "b.jpg")
    (folder / "c.txt").write_bytes("Привет, мир".encode("cp1251"))
    report = GemRAG(gem, threshold=None).add(folder, exclude=["a.*"])
    assert [source.rpartition("/")[2] for source in report.added] == ["c.txt"]
    assert report.passed_over == {".jpg": 1}
    assert "cp1251" in dict(report.notes)[report.added[0]]


def test_an_index_among_the_documents_is_no_document(folder, gem):
    from gem_rag import GemRAG
    from gem_rag.index.gem_index import GemIndex

    fill(folder, "a.md")
    rag = GemRAG(gem, GemIndex(folder / "index"), threshold=None)
    rag.add(folder)
    assert rag.add(folder).passed_over == {}


@pytest.fixture
def index(gem, folder, tmp_path):
    """`gem-rag index` of the folder."""
    from typer.testing import CliRunner

    from gem_rag.cli import app

    model = str(gem.save_pretrained(tmp_path / "checkpoint"))
    fixed = ["index", str(folder), "--index", str(tmp_path / "index"), "--model", model]
    return lambda *options: CliRunner().invoke(app, [*fixed, *options])


def test_the_command_says_what_it_left_out(folder, index):
    fill(folder, "a.md", "draft.md", "photo.jpg")
    (folder / "old.txt").write_bytes("Привет, мир".encode("koi8_r"))
    (folder / "broken.pdf").write_bytes(b"%PDF-1.4 nothing")
    result = index("--exclude", "draft.*")
    assert result.exit_code == 0
    assert "2 added" in result.stdout
    for words in ("passed over 1 file", "1 .jpg", "read as koi8_r", "skipped", "broken.pdf"):
        assert words in result.stderr
    report = json.loads(index("--exclude", "draft.*", "--json").stdout)
    assert report["passed_over"] == {".jpg": 1}


def test_a_folder_with_nothing_to_index_is_an_error(folder, index):
    fill(folder, "a.jpg")
    result = index()
    assert result.exit_code == 1
    assert "nothing to index" in result.stdout
    assert "1 .jpg" in result.stderr
