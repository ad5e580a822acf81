"""Documents of an index, its older layout and the way up from it, indexes that may only be read."""

import json
import multiprocessing
import os
import sqlite3
import subprocess
import sys
import tempfile
import warnings
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gem_rag.errors import GemIndexError
from gem_rag.index import GemIndex, connection
from gem_rag.index.fulltext import FullText
from gem_rag.index.records import Passage
from gem_rag.model import GemModel
from gem_rag.rag import GemRAG
from gem_rag.rag.naming import Named

TEXT = "# Kettle\r\n\r\nBoil Wasser bei 100 °C. 🙂\r\n\r\nNever open it.\n"


def passages(text, *places, **options):
    return [Passage(text[start:end], start, end, **options) for start, end in places]


def put(index, source="kettle.md", text=TEXT, places=((2, 8), (12, 34)), **options):
    vectors = options.pop("vectors", None)
    index.documents.put(source, text, "hash", passages(text, *places, **options), vectors)


@pytest.fixture
def index():
    with GemIndex() as index:
        yield index


# Documents


@pytest.mark.parametrize(
    "places",
    [
        [],
        [(0, len(TEXT))],
        [(2, 8), (12, 34)],
        [(12, 34), (2, 8)],
        [(0, 20), (10, 30), (30, 31)],
        [(0, 30), (5, 10), (8, 40)],
        [(3, 3), (3, 9), (3, 9)],
    ],
)
def test_the_text_comes_back_as_it_was_given(index, places):
    put(index, places=places)
    assert index.documents.text("kettle.md") == TEXT
    [info] = index.documents.all()
    assert (info.source, info.hash, info.is_whole, info.chunks) == (
        "kettle.md",
        "hash",
        True,
        len(places),
    )


@given(st.data())
@settings(max_examples=200, deadline=None)
def test_any_text_comes_back_whatever_its_pieces(data):
    text = data.draw(st.text(st.characters(exclude_categories=["Cs"]), max_size=40))
    place = st.tuples(st.integers(0, len(text)), st.integers(0, len(text))).map(sorted)
    places = data.draw(st.lists(place, max_size=6))
    with GemIndex() as index:
        put(index, text=text, places=places)
        assert index.documents.text("kettle.md") == text


def test_text_stands_once_on_disk(tmp_path):
    text = "!?-," * 500_000  # nothing that can be found by words
    with GemIndex(tmp_path) as index:
        put(index, text=text, places=[(at, at + 2500) for at in range(0, 2_000_000, 2500)])
    assert (tmp_path / "index.sqlite").stat().st_size < 1.5 * len(text)


def test_put_replaces_and_remove_tells_what_was_there(index):
    put(index)
    put(index, "other.md", "else", places=[(0, 4)])
    put(index, text="A new text.", places=[(2, 5)])
    assert index.documents.text("kettle.md") == "A new text."
    assert index.search(text="wasser") == []
    assert [hit.text for hit in index.search(text="new")] == ["new"]
    assert index.documents.remove(["kettle.md", "nobody.md"]) == ["kettle.md"]
    assert [document.source for document in index.documents.all()] == ["other.md"]
    assert [record.text for record in index] == ["else"]
    with pytest.raises(GemIndexError, match=r"no document 'kettle.md'"):
        index.documents.text("kettle.md")


def test_a_document_that_cannot_be_stored_leaves_the_old_one(index):
    put(index)
    for bad, message in [
        ([Passage("Boil", 0, 4)], "exact slice"),
        ([Passage("# ", 0, 2, metadata={"x": {1}})], "JSON"),
    ]:
        with pytest.raises(GemIndexError, match=message):
            index.documents.put("kettle.md", TEXT, "2", bad, None)
    with pytest.raises(GemIndexError, match="1 vectors for 2 texts"):
        put(index, vectors=[[1, 0]])
    with pytest.raises(GemIndexError, match="surrogates"):
        put(index, text="\ud800 lone", places=[])
    with pytest.raises(GemIndexError, match="surrogates"):
        put(index, "lone \ud800", places=[])
    assert index.documents.text("kettle.md") == TEXT


def test_a_document_that_lost_a_chunk_says_so(index):
    put(index)
    first, second = index
    index.delete([first.id])
    assert index.documents.get("kettle.md").state == "changed"
    with pytest.raises(GemIndexError, match="add it again"):
        index.documents.text("kettle.md")
    index.delete([second.id])
    assert index.documents.get("kettle.md") is None
    put(index)
    index.upsert(["another"], None, ids=[next(iter(index)).id])
    assert not index.documents.get("kettle.md").is_whole
    put(index)
    assert index.documents.get("kettle.md").is_whole


def test_vectors_that_come_later_leave_a_document_whole(index):
    put(index)
    index.set_vectors([record.id for record in index], [[1, 0], [0, 1]])
    assert index.documents.text("kettle.md") == TEXT
    hit = index.search([0, 1], 1)[0]
    assert (hit.source, hit.start, hit.end, hit.text) == ("kettle.md", 12, 34, TEXT[12:34])


def test_changes_in_a_transaction_come_together_or_not_at_all(index):
    put(index)

    def fail():
        with index.transaction():
            index.documents.remove(["kettle.md"])
            put(index, "new.md")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    assert [document.source for document in index.documents.all()] == ["kettle.md"]
    assert index.documents.text("kettle.md") == TEXT


def test_a_place_of_ours_and_the_users_metadata_do_not_meet(index):
    mine = {"start": "Monday", "end": None, "source": "my own", "heading": 5, "page": [1]}
    put(index, metadata=mine, heading="Use > Boil", page=7)
    record = next(iter(index))
    assert record.metadata == mine
    assert (record.source, record.start, record.end) == ("kettle.md", 2, 8)
    assert (record.heading, record.page) == ("Use > Boil", 7)


def test_filters_reach_what_is_ours_and_what_is_the_users(index):
    put(index, heading="Use > Boil", page=7)
    put(index, "tea.md", metadata={"source": "grandma", "page": "x"})
    index.add(["plain", "with"], None, [None, {"source": "me"}], ["plain", "with"])

    def sources(where):
        return {record.source or record.id for record in index.iterate(where)}

    assert sources({"$source": "kettle.md"}) == {"kettle.md"}
    assert sources({"$source": {"$contains": ".md"}}) == {"kettle.md", "tea.md"}
    assert sources({"$heading": {"$icontains": "BOIL"}}) == {"kettle.md"}
    assert sources({"$page": {"$gte": 7}}) == {"kettle.md"}
    assert sources({"page": "x"}) == {"tea.md"}
    assert sources({"page": 7}) == set()
    assert sources({"$source": {"$exists": False}}) == {"plain", "with"}
    # A plain `source` is the user's, and ours where there is none.
    assert sources({"source": "kettle.md"}) == {"kettle.md"}
    assert sources({"source": "tea.md"}) == set()
    assert sources({"source": {"$in": ["grandma", "me"]}}) == {"tea.md", "with"}
    assert sources({"source": {"$exists": False}}) == {"plain"}
    assert sources({"source": {"$ne": "kettle.md"}}) == {"tea.md", "plain", "with"}
    assert index.delete(where={"$source": "tea.md"}).missing == []
    assert index.documents.get("tea.md") is None
    with pytest.raises(GemIndexError, match=r"\$source.*\$heading.*\$page"):
        index.count({"$start": 1})


# The older layout

OLD = """
CREATE TABLE properties (key TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE meta (key TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE commits (generation INTEGER PRIMARY KEY, token INTEGER NOT NULL);
CREATE TABLE chunks (
    row INTEGER PRIMARY KEY AUTOINCREMENT,
    id TEXT NOT NULL UNIQUE,
    metadata TEXT NOT NULL,
    text TEXT NOT NULL
);
CREATE TABLE vectors (row INTEGER PRIMARY KEY, vector BLOB NOT NULL);
CREATE TABLE tombstones (row INTEGER PRIMARY KEY, generation INTEGER NOT NULL);
CREATE INDEX tombstones_by_generation ON tombstones (generation);
INSERT INTO commits (token) VALUES (1), (2);
INSERT INTO properties VALUES ('dim', '2'), ('fingerprint', '"model-1"'), ('kind', '"auto"');
INSERT INTO meta VALUES
    ('source:kettle.md', '"hash-1"'), ('source:empty.md', '"hash-2"'),
    ('SOURCE:mine', '{"a":1}'), ('other', '[1]');
PRAGMA application_id = 0x47454D52;
PRAGMA user_version = 1;
PRAGMA journal_mode = WAL;
"""
OURS = {"lang": "en", "source": "kettle.md", "start": 0, "end": 11, "heading": "Use"}
CHUNKS = [
    ("boil", OURS, "Boil water.", [1, 0]),
    (
        "warranty",
        OURS | {"start": 12, "end": 36, "heading": ""},
        "Warranty of seven years.",
        [0, 1],
    ),
    ("user", {"source": "mine", "start": 3, "end": 9}, "A user's own.", [0.6, 0.8]),
]


@pytest.fixture
def old(tmp_path):
    """An index as it was written before words: one document, and a user's chunk."""
    folder = tmp_path / "old"
    folder.mkdir()
    database = sqlite3.connect(folder / "index.sqlite")
    database.executescript(OLD)
    for row, (name, metadata, text, vector) in enumerate(CHUNKS, 1):
        chunk = (row, name, json.dumps(metadata), text)
        database.execute("INSERT INTO chunks VALUES (?, ?, ?, ?)", chunk)
        stored = np.array(vector, dtype="<f4").tobytes()
        database.execute("INSERT INTO vectors VALUES (?, ?)", (row, stored))
    database.commit()
    database.close()
    return folder


def layout(folder):
    with sqlite3.connect(folder / "index.sqlite") as database:
        [(version,)] = database.execute("PRAGMA user_version")
        return version


def check_places(index):
    boil, warranty, user = index
    assert (boil.source, boil.start, boil.end, boil.heading) == ("kettle.md", 0, 11, "Use")
    assert (warranty.start, warranty.end, warranty.heading) == (12, 36, "")
    assert (user.source, user.start, user.heading) == (None, None, "")
    assert user.metadata == {"source": "mine", "start": 3, "end": 9}
    assert boil.metadata["lang"] == "en"
    assert index.count({"$source": "kettle.md"}) == 2
    assert index.count({"source": "mine"}) == 1
    assert index.count({"source": "kettle.md"}) == 2
    found = {d.source: (d.hash, d.chunks) for d in index.documents.all()}
    assert found == {"kettle.md": ("hash-1", 2), "empty.md": ("hash-2", 0)}
    [hit] = index.search([0, 1], 1, distinct=True)
    assert (hit.id, hit.source, hit.sources) == ("warranty", "kettle.md", ("kettle.md",))
    assert index.search([0.6, 0.8], 1, distinct=True)[0].sources == ()


def test_an_old_index_is_searched_by_vectors_until_it_is_written(old):
    with GemIndex(old, fingerprint="model-1") as index:
        check_places(index)
        with pytest.warns(UserWarning, match="vectors alone"):
            assert index.search([1, 0], 1, text="warranty")[0].id == "boil"
        with warnings.catch_warnings(action="error"):  # once is enough
            assert index.search([1, 0], 1, text="warranty")[0].id == "boil"
        with pytest.raises(GemIndexError, match="indexed at its next change"):
            index.search(text="warranty")
        with pytest.raises(GemIndexError, match="add it again"):
            index.documents.text("kettle.md")
        assert (index.info().count, index.info().vectors, index.info().words) == (3, 3, False)
    assert layout(old) == 1


def test_documents_of_an_old_index_are_known_by_their_files(old):
    with GemIndex(old) as index:
        named = Named(index)
        assert named.sources == ["kettle.md"]  # one is empty
        assert named.find("the kettle") == ["kettle.md"]
        assert named.find("Some title") == []


def test_an_old_index_is_upgraded_by_its_first_change(old):
    with GemIndex(old, fingerprint="model-1") as index:
        index.add(["a teapot"], [[1, 1]], ids=["teapot"])
        index.delete(["teapot"])
        check_places(index)
        assert next(iter(index)).metadata == {"lang": "en"}  # what is ours has left it
        assert [hit.id for hit in index.search(text="warranty year")] == ["warranty"]
        assert [hit.id for hit in index.search(text="use")] == ["boil"]  # its heading
        assert index.search([1, 0], text="warranty")[0].fused_score is not None
        assert index.get_meta("SOURCE:mine") == {"a": 1}
        assert index.get_meta("other") is not None
        assert [hit.id for hit in index.search([1, 0], distinct=True)] == [
            "boil",
            "user",
            "warranty",
        ]
    assert layout(old) == 2
    with GemIndex(old) as index:
        check_places(index)


def test_an_upgrade_that_fails_leaves_the_old_index(old, monkeypatch):
    def fail(*_):
        raise OSError("no more room")

    with GemIndex(old) as index:
        with monkeypatch.context() as patched:
            patched.setattr(FullText, "insert", fail)
            with pytest.raises(OSError, match="no more room"):
                index.add(["x"], [[1, 0]])
        assert layout(old) == 1
        check_places(index)
        with pytest.raises(GemIndexError, match="unknown operator"):
            index.delete(where={"$wrong": 1})
        assert layout(old) == 1
        check_places(index)
        index.add(["teapot"], [[1, 0]], ids=["teapot"])
        index.delete(["teapot"])
        check_places(index)
    assert layout(old) == 2


def _upgrade(folder):
    with GemIndex(folder) as index:
        index.set_meta("other", None)


def test_who_has_it_open_goes_on_when_another_process_upgrades_it(old):
    with GemIndex(old) as reader, GemIndex(old) as writer:
        check_places(reader)
        context = multiprocessing.get_context("spawn")
        process = context.Process(target=_upgrade, args=(old,))
        process.start()
        process.join()
        assert layout(old) == 2
        assert reader.count({"$source": "kettle.md"}) == 2
        check_places(reader)
        assert [hit.id for hit in reader.search(text="warranty")] == ["warranty"]
        writer.delete(["boil"])
        assert [document.state for document in writer.documents.all()] == ["ready", "changed"]
        assert [hit.id for hit in reader.search(text="boil warranty")] == ["warranty"]


def test_adding_documents_upgrades_an_old_index(old, base_folder):
    with GemIndex(old) as index:
        rag = GemRAG(GemModel.from_base(base_folder), index)
        assert rag.add([]).added == []
        assert layout(old) == 2
        [citation] = rag.retrieve("seven years?", rank=False)
        assert (citation.source, citation.start, citation.end) == ("kettle.md", 12, 36)


def test_without_fts5_an_old_index_is_upgraded_and_gets_words_later(old, monkeypatch):
    with monkeypatch.context() as patched:
        patched.setattr(FullText, "is_available", False)
        _upgrade(old)
    assert layout(old) == 2
    with GemIndex(old) as index:
        check_places(index)
        with pytest.warns(UserWarning, match="next change"):
            index.search([1, 0], text="warranty")
        index.set_meta("x", 1)
        assert [hit.id for hit in index.search(text="warranty")] == ["warranty"]


# Indexes that may only be read


@pytest.fixture
def protect(monkeypatch):
    """Makes every file write-protected, also to an administrator."""
    return lambda: monkeypatch.setattr(connection, "_is_writable", lambda _: False)


def test_a_write_protected_index_is_searched_in_all_modes(tmp_path, protect):
    with GemIndex(tmp_path) as index:
        put(index, vectors=[[1, 0], [0, 1]])
    before = {file.name: file.read_bytes() for file in tmp_path.iterdir()}
    protect()
    with GemIndex(tmp_path) as index:
        assert index.search([0, 1], text="wasser", k=1)[0].fused_score is not None
        assert [hit.start for hit in index.search(text="wasser")] == [12]
        assert index.search([0, 1], k=1)[0].start == 12
        assert index.documents.text("kettle.md") == TEXT
        assert len(index.mmr([0, 1], text="wasser")) == 2
        for change in (
            lambda: index.add(["x"], [[1, 0]]),
            lambda: index.delete(where={}),
            lambda: index.set_meta("x", 1),
            lambda: put(index),
        ):
            with pytest.raises(GemIndexError, match=r"can only be read.*permissions"):
                change()
    assert {name: (tmp_path / name).read_bytes() for name in before} == before


READER = """
import os, sys
import numpy
from gem_rag.index import GemIndex, ann
ann.faiss()  # what is imported later would have to be readable for others
os.setgid(65534)
os.setuid(65534)
index = GemIndex(sys.argv[1])
for _ in sys.stdin:
    print([hit.text for hit in index.search([1, 0], text="kettle toaster", k=1)], flush=True)
"""


@pytest.mark.skipif(not hasattr(os, "getuid") or os.getuid() != 0, reason="needs a second user")
def test_who_may_only_read_sees_what_others_write():
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)
        with GemIndex(folder) as index:
            index.add(["kettle"], [[1, 0]], ids=["it"])
        command = [sys.executable, "-c", READER, folder]
        with subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        ) as reader:

            def seen():
                print(file=reader.stdin, flush=True)
                return reader.stdout.readline().strip()

            assert seen() == "['kettle']"
            index = GemIndex(folder)
            index.upsert(["toaster"], [[1, 0]], ids=["it"])
            assert seen() == "['toaster']"
            index.close()
            assert seen() == "['toaster']"
            with GemIndex(folder) as index:
                index.upsert(["kettle again"], [[1, 0]], ids=["it"])
            assert seen() == "['kettle again']"
            reader.stdin.close()


def test_a_write_protected_old_index_is_searched_by_vectors(old, protect):
    protect()
    with GemIndex(old, fingerprint="model-1") as index:
        check_places(index)
        with pytest.warns(UserWarning, match="vectors alone"):
            assert index.search([1, 0], 1, text="warranty")[0].id == "boil"
        with pytest.raises(GemIndexError, match="can only be read"):
            index.add(["x"], [[1, 0]])
    assert layout(old) == 1
