"""An index that forgets what it is told to, follows files that move, and takes nothing for gone."""

import shutil
from pathlib import Path

import pytest

from gem_rag import store as store_module
from gem_rag.documents import Document
from gem_rag.errors import DiskFullError, DocumentError, GemError
from gem_rag.index import GemIndex
from gem_rag.rag import GemRAG, Removal
from gem_rag.rag.ingest import gone
from gem_rag.store import SUFFIX, ReadingStore


@pytest.fixture
def docs(tmp_path):
    folder = tmp_path / "docs"
    (folder / "deep").mkdir(parents=True)
    (folder / "kettle.md").write_text("# Kettle\n\nThe kettle has a warranty of seven years.\n")
    (folder / "rivers.txt").write_text("Rivers run to the sea.")
    (folder / "deep" / "letter.txt").write_text("Who wrote the long letter?")
    return folder


@pytest.fixture
def opened(gem, tmp_path):
    """Opens the same index again and again."""
    indexes = []

    def again(**options):
        for index in indexes:
            index.close()
        indexes.append(GemIndex(tmp_path / "index"))
        return GemRAG(gem, indexes[-1], threshold=None, **options)

    yield again
    indexes[-1].close()


@pytest.fixture
def rag(opened, docs):
    rag = opened()
    rag.add(docs)
    return rag


@pytest.fixture
def read(count_reads):
    """What the model reads from now on."""
    return count_reads


def sources(rag):
    return {Path(document.source).name for document in rag.index.documents.all()}


def kept(folder):
    return {file.name for file in folder.rglob(f"*{SUFFIX}")}


# Removing


@pytest.mark.parametrize("name", ["path", "text", "relative"])
def test_a_file_is_removed_by_its_path(rag, docs, name, monkeypatch):
    monkeypatch.chdir(docs)
    path = docs / "kettle.md"
    removal = rag.remove({"path": path, "text": str(path), "relative": "kettle.md"}[name])
    assert removal == Removal([str(path)], [], [], 1)
    assert sources(rag) == {"rivers.txt", "letter.txt"}
    assert not any("kettle" in c.source for c in rag.retrieve("kettle warranty"))


def test_a_folder_is_removed_with_all_below_it_also_when_it_is_gone(rag, docs):
    shutil.rmtree(docs / "deep")
    assert rag.remove(docs / "deep").removed == [str(docs / "deep" / "letter.txt")]
    assert len(rag.remove([docs / "kettle.md", docs]).removed) == 2
    assert rag.index.count() == 0


def test_a_document_is_removed_by_its_name_and_what_is_not_there_is_named(rag):
    rag.add([Document("Anna lives in Paris.", "note 1"), Document("Rivers run.", "note 2")])
    assert rag.remove("note 1").removed == ["note 1"]
    assert rag.remove(["note 1", "note 2"]) == Removal(["note 2"], [], ["note 1"], 1)


def test_chunks_that_were_added_without_a_document_are_removed_by_their_source(rag, gem):
    vectors = gem.embed_documents(["Anna lives here."])
    rag.index.add(["Anna lives here."], vectors, [{"source": "a loose note"}])
    assert rag.remove("a loose note") == Removal(["a loose note"], [], [], 1)


def test_what_a_filter_matches_is_removed(rag, docs):
    rag.add([Document("Anna lives in Paris.", f"note {year}", {"year": year}) for year in (1, 2)])
    assert rag.remove(where={"year": 2}).removed == ["note 2"]
    removal = rag.remove(where={"$source": {"$contains": "kettle"}})
    assert removal == Removal([str(docs / "kettle.md")], [], [], 1)
    assert sources(rag) == {"rivers.txt", "letter.txt", "note 1"}
    assert rag.remove(where={"year": 5}) == Removal()


def test_removing_takes_sources_or_a_filter(rag):
    for wrong in ({}, {"sources": "kettle.md", "where": {}}):
        with pytest.raises(GemError, match="give one of them"):
            rag.remove(**wrong)
    assert len(sources(rag)) == 3


async def test_awaited_removals_are_the_same(rag, docs):
    assert (await rag.aremove(docs / "kettle.md")).removed == [str(docs / "kettle.md")]
    assert (await rag.aremove(where={})).chunks == 2


@pytest.mark.parametrize("how", ["removed", "deleted", "a part deleted"])
def test_what_was_removed_comes_back_when_it_is_added_again(gem, docs, how):
    rag = GemRAG(gem, threshold=None, chunk_tokens=8)
    rag.add(docs)
    name = str(docs / "kettle.md")
    before = rag.index.count()
    if how == "removed":
        rag.remove(name)
    elif how == "deleted":
        rag.index.delete(where={"source": name})
    else:
        removal = rag.remove(where={"$and": [{"$source": name}, {"$id": first_chunk(rag, name)}]})
        assert (removal.removed, removal.changed, removal.chunks) == ([], [name], 1)
    assert rag.index.count() < before
    report = rag.add(docs)
    assert [*report.added, *report.replaced] == [name]
    assert rag.index.count() == before
    assert len(rag.add(docs).unchanged) == 3


def first_chunk(rag, name):
    return rag.index.documents.chunks(name)[0].id


# Moving


@pytest.mark.parametrize("to", ["kettle.md", "boiler.md"])
def test_a_moved_file_is_moved_not_read_again(rag, docs, read, to, monkeypatch):
    old, new = docs / "kettle.md", docs / "deep" / to
    old.rename(new)
    monkeypatch.setattr(rag.store, "embed", lambda *_: pytest.fail("embedded again"))
    report = rag.add(docs)
    assert report.moved == [(str(old), str(new))]
    assert (report.added, report.replaced, report.removed, report.chunks) == ([], [], [], 0)
    assert len(report.unchanged) == 2
    assert read == []
    (citation,) = rag.retrieve("kettle warranty", k=1, mode="words")
    assert citation.source == str(new)
    assert rag.index.documents.text(str(new)) == new.read_text()
    assert len(rag.add(docs, remove_missing=True).unchanged) == 3


def test_a_moved_file_is_found_by_its_new_name_not_by_the_old(rag, docs):
    (docs / "rivers.txt").rename(docs / "mississippi.txt")
    rag.add(docs)
    (citation,) = rag.retrieve("mississippi", k=1, mode="words")
    assert citation.source == str(docs / "mississippi.txt")


def test_a_moved_file_is_read_under_its_new_name(rag, docs):
    report = docs / "report-2023.txt"
    report.write_text("Revenue grew by seven percent.\n\n" + "Rivers run to the sea. " * 60)
    rag.add(docs)
    before = rag.index.documents.chunks(str(report))
    assert any(chunk.words.startswith("report-2023\n\n") for chunk in before)
    new = report.rename(docs / "report-2024.txt")
    rag.add(docs)
    after = rag.index.documents.chunks(str(new))
    assert [c.words for c in after] == [c.words.replace("2023", "2024") for c in before]
    assert [c.text for c in after] == [c.text for c in before]
    assert rag.store.info().on_disk <= 3 + sum(c.words == c.text for c in after)
    (found,) = rag.retrieve("report-2024 revenue", k=1, mode="words")
    assert found.text.startswith("Revenue")
    assert rag.index.search(text="2023", mode="words") == []
    rag.remove(new)
    assert rag.index.search(text="2024", mode="words") == []


def test_a_renamed_folder_is_moved_whole(rag, docs, read):
    new = docs.rename(docs.with_name("papers"))
    report = rag.add(new)
    assert len(report.moved) == 3
    assert read == []
    assert all(Path(d.source).is_relative_to(new) for d in rag.index.documents.all())


def test_a_file_moved_over_another_takes_its_place(rag, docs):
    (docs / "kettle.md").replace(docs / "old.md")
    rag.add(docs)
    (docs / "old.md").write_text("The old text.")
    rag.add(docs)
    (docs / "new.md").write_text("The new text.")
    rag.add(docs)
    (docs / "new.md").replace(docs / "old.md")
    assert rag.add(docs).moved == [(str(docs / "new.md"), str(docs / "old.md"))]
    texts = [record.text for record in rag.index]
    assert "The new text." in texts
    assert "The old text." not in texts


def test_a_copy_is_no_move_nor_is_the_same_content_as_another_kind_or_document(rag, docs):
    shutil.copy(docs / "kettle.md", docs / "copy.md")
    assert rag.add(docs).added == [str(docs / "copy.md")]
    (docs / "rivers.txt").rename(docs / "rivers.md")
    assert rag.add(docs).added == [str(docs / "rivers.md")]
    rag.add(Document("Anna lives in Paris.", "/notes/anna.txt"))
    (docs / "anna.txt").write_text("Anna lives in Paris.")
    assert rag.add(docs).added == [str(docs / "anna.txt")]


# What is gone, and what is out of sight


def test_a_folder_that_is_gone_is_dropped_on_request(rag, docs):
    shutil.rmtree(docs)
    with pytest.raises(DocumentError, match="no file or folder"):
        rag.add(docs)
    report = rag.add(docs, remove_missing=True)
    assert len(report.removed) == 3
    assert rag.index.count() == 0


def test_a_renamed_folder_and_its_old_name_in_one(rag, docs):
    new = docs.rename(docs.with_name("papers"))
    (new / "rivers.txt").unlink()
    report = rag.add([docs, new], remove_missing=True)
    assert (len(report.moved), report.removed) == (2, [str(docs / "rivers.txt")])


def test_a_mistyped_path_is_an_error_with_remove_missing_too(rag, docs):
    with pytest.raises(DocumentError, match="no file or folder"):
        rag.add([docs, docs.with_name("dosc")], remove_missing=True)
    assert len(sources(rag)) == 3


def test_an_empty_folder_may_be_one_on_which_nothing_is_mounted(rag, docs):
    shutil.rmtree(docs)
    docs.mkdir()
    report = rag.add(docs, remove_missing=True)
    assert report.removed == []
    ((path, note),) = report.notes
    assert (path, "is it mounted?" in note) == (str(docs), True)
    assert len(rag.remove(docs).removed) == 3


def test_an_emptied_folder_below_is_no_mount(rag, docs):
    (docs / "deep" / "letter.txt").unlink()
    assert len(rag.add(docs, remove_missing=True).removed) == 1


def test_what_lay_on_a_mount_is_not_gone_while_that_is_not_mounted(opened, docs, monkeypatch):
    mounted = {Path("/"), docs / "deep"}
    monkeypatch.setattr(gone.os.path, "ismount", lambda path: Path(path) in mounted)
    opened().add(docs)
    mounted.remove(docs / "deep")
    shutil.rmtree(docs / "deep")
    for exists in (False, True):  # the folder that it is mounted on may go with it
        if exists:
            (docs / "deep").mkdir()
        rag = opened()
        assert rag.add(docs, remove_missing=True).removed == []
    rag = opened()
    shutil.rmtree(docs / "deep")
    report = rag.add([docs, docs / "deep"], remove_missing=True)
    assert report.removed == []
    assert "is not mounted" in report.notes[0][1]
    (docs / "deep").mkdir()
    (docs / "deep" / "other.txt").write_text("A plain folder now.")
    report = opened().add(docs, remove_missing=True)
    assert report.removed == [str(docs / "deep" / "letter.txt")]


def test_what_may_not_be_looked_at_is_not_gone(rag, docs, monkeypatch):
    stat = Path.stat

    def refuse(self, **options):
        if "deep" in self.parts:
            raise PermissionError(13, "Permission denied", str(self))
        return stat(self, **options)

    shutil.rmtree(docs / "deep")
    monkeypatch.setattr(Path, "stat", refuse)
    assert rag.add(docs, remove_missing=True).removed == []
    assert rag.add([docs, docs / "deep"], remove_missing=True).removed == []


# Readings


def test_readings_go_with_what_they_are_of(rag, docs, tmp_path):
    folder = tmp_path / "index" / "readings"
    assert len(kept(folder)) == rag.store.info().in_memory == 3
    rag.remove(docs / "kettle.md")
    assert len(kept(folder)) == rag.store.info().in_memory == rag.store.info().on_disk == 2
    (docs / "rivers.txt").write_text("Rivers run dry.")
    rag.add(docs / "rivers.txt")
    assert len(kept(folder)) == rag.store.info().in_memory == 2
    (docs / "rivers.txt").unlink()
    (docs / "kettle.md").unlink()
    rag.add(docs, remove_missing=True)
    assert len(kept(folder)) == rag.store.info().in_memory == 1


def test_a_reading_that_another_document_needs_stays(rag, docs):
    rag.add([Document("Anna lives in Paris.", name) for name in ("a", "b")])
    before = rag.store.info()
    rag.remove("a")
    assert rag.store.info() == before
    rag.remove("b")
    assert rag.store.info().on_disk == before.on_disk - 1


def test_forgetting_reaches_readings_of_other_precision(rag, docs, gem, tmp_path):
    import torch

    half = ReadingStore(gem, tmp_path / "index" / "readings", dtype=torch.float16)
    half.read([rag.index.documents.chunks(str(docs / "kettle.md"))[0].words])
    assert len(kept(tmp_path)) == 4
    rag.remove(docs / "kettle.md")
    assert len(kept(tmp_path)) == 2


def test_info_says_what_lies_on_the_disk(rag, tmp_path):
    info = rag.index.info()
    assert (info.documents, info.count, info.vectors, info.words) == (3, 3, 3, True)
    folder = tmp_path / "index"
    assert info.bytes == sum(f.stat().st_size for f in folder.iterdir() if f.is_file())
    assert info.readings_bytes == sum(f.stat().st_size for f in (folder / "readings").iterdir())
    assert info.readings_bytes == rag.store.info().disk_bytes > 0


def test_an_index_remembers_that_it_keeps_no_readings(opened, docs, tmp_path):
    rag = opened(keep_readings=False)
    rag.add(docs)
    assert opened().retrieve("kettle")
    assert not (tmp_path / "index" / "readings").exists()
    rag = opened(keep_readings=True)
    assert rag.retrieve("kettle")
    assert len(kept(tmp_path)) == 3
    assert opened(keep_readings=False).index.info().readings_bytes == 0
    assert kept(tmp_path) == set()


def test_an_index_remembers_the_bound_of_its_readings(opened, docs, tmp_path):
    opened().add(docs)
    one = max(f.stat().st_size for f in tmp_path.rglob(f"*{SUFFIX}"))
    opened(readings_bytes=2 * one)
    for _ in range(2):
        rag = opened()
        rag.retrieve("kettle")
        assert 0 < rag.index.info().readings_bytes <= 2 * one
    with pytest.raises(GemError, match="readings_bytes is -1"):
        opened(readings_bytes=-1)
    with pytest.raises(GemError, match="readings_bytes is 5, keep_readings False"):
        opened(keep_readings=False, readings_bytes=5)


def test_a_store_that_is_given_has_its_own_bounds(gem):
    with pytest.raises(GemError, match="give either"):
        GemRAG(gem, store=ReadingStore(gem), keep_readings=False)


def test_readings_leave_a_disk_that_is_nearly_full_to_the_database(opened, docs, monkeypatch):
    usage = shutil.disk_usage("/")._replace(free=10 << 20)
    monkeypatch.setattr(store_module.shutil, "disk_usage", lambda _: usage)
    rag = opened()
    assert len(rag.add(docs).added) == 3
    assert rag.store.info().on_disk == 0
    assert rag.answer("Who?", max_new_tokens=2).citations


def test_readings_make_room_for_the_database(opened, docs, monkeypatch):
    rag = opened()
    rag.add(docs / "rivers.txt")
    put = rag.index.documents.put

    def full(*document):
        if rag.store.info().on_disk:
            raise DiskFullError("the disk is full")
        return put(*document)

    monkeypatch.setattr(rag.index.documents, "put", full)
    report = rag.add(docs)
    assert (len(report.added), report.skipped) == (2, [])
    assert rag.index.count() == 3
    (docs / "more.txt").write_text("One more.")
    monkeypatch.setattr(
        rag.index.documents, "put", lambda *_: (_ for _ in ()).throw(DiskFullError("full"))
    )
    with pytest.raises(DiskFullError):  # where there is nothing left to drop
        rag.add(docs)


def test_a_full_disk_is_named(tmp_path):
    with GemIndex(tmp_path) as index:
        connection = index.documents._database.connection
        connection.run("PRAGMA max_page_count = 20")
        with pytest.raises(DiskFullError, match="make room"):
            index.add(["x" * 1_000_000], None)


# Only to be read


@pytest.fixture
def protected(rag, tmp_path, monkeypatch):
    """An index and its folder, write-protected also to an administrator."""
    from gem_rag.index import connection

    rag.index.close()
    monkeypatch.setattr(connection, "_is_writable", lambda _: False)
    monkeypatch.setattr(store_module, "_is_writable", lambda _: False)
    return tmp_path / "index"


@pytest.mark.parametrize("readings", [True, False])
def test_an_index_that_may_only_be_read_answers(gem, protected, readings):
    if not readings:
        shutil.rmtree(protected / "readings")
    before = {f: f.read_bytes() for f in protected.rglob("*") if f.is_file()}
    with GemIndex(protected) as index:
        rag = GemRAG(gem, index, threshold=None)
        assert rag.retrieve("kettle")
        answer = rag.answer("Who wrote it?", max_new_tokens=2)
        assert answer.usage.cached_tokens > 0
        with pytest.raises(GemError, match="can only be read"):
            rag.remove(where={})
        with pytest.raises(GemError, match="can only be read"):
            rag.add(Document("More.", "more"))
    assert {f: f.read_bytes() for f in before} == before
    assert (protected / "readings").exists() == readings


def test_kept_readings_are_used_where_they_may_only_be_read(gem, protected, read):
    with GemIndex(protected) as index:
        assert GemRAG(gem, index, threshold=None).retrieve("kettle")
    assert read == []


# What is the user's


def test_nothing_of_the_users_metadata_is_lost(rag):
    mine = {"source": "archive", "start": "Monday", "end": 7, "heading": ["x"], "page": "iv"}
    text = "# Anna\n\nAnna lives in Paris."
    rag.add(Document(text, "anna.md", mine, markdown=True))
    (citation,) = rag.retrieve("Anna Paris", where={"heading": {"$contains": "x"}})
    assert citation.metadata == mine
    assert (citation.source, citation.heading, citation.page) == ("anna.md", "Anna", None)
    assert text[citation.start : citation.end] == citation.text
    assert rag.remove(where={"source": "archive", "$heading": "Anna"}).removed == ["anna.md"]
