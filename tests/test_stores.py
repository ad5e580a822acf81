"""One suite over all stores: what an index does, it does in a folder and in every server alike.

What servers are asked is compared with what `GemIndex`, in a folder, answers.
"""

import itertools
import json
import pickle
from contextlib import closing, suppress
from pathlib import Path

import numpy as np
import pytest
from stores import KINDS, SERVERS, new_name, place_of

from gem_rag.errors import GemError, GemIndexError
from gem_rag.index import GemIndex
from gem_rag.index.address import is_address, open_index, shown
from gem_rag.index.records import Passage
from gem_rag.rag import GemRAG

TEXTS = [
    "The kettle has a warranty of seven years.",
    "Rivers run to the sea.",
    "Kettles boil water in the kitchen; every kettle does.",
    "A young child is riding a grey horse.",
    "The sea is wide, and the river is long.",
    "机器学习 needs data. Version v2.3.1 of gem-rag reads it.",
]
METADATA = [
    {"year": 1999, "tags": ["red", "blue"], "lang": "en", "made": {"in": {"town": "Bonn"}}},
    {"year": 2004.0, "tags": [], "lang": "de", "draft": True},
    {"year": "2004", "tags": ["red", 7, None], "author": None, "made.in": "literal"},
    {"lang": "EN", "title": "Horses, 100% of them_all", "made": {"in": "Rome"}},
    {"year": -3.5, "source": "a book", "tags": "red"},
    {},
]
FILTERS = [
    {},
    {"year": 2004},
    {"year": {"$ne": 2004}},
    {"year": {"$gt": 1999, "$lte": 2004}},
    {"year": {"$lt": 0}},
    {"$not": {"year": {"$gte": 0}}},
    {"year": {"$gte": "2"}},
    {"lang": {"$gt": "EM", "$lt": "e"}},
    {"year": {"$in": [1999, "2004", True]}},
    {"year": {"$in": []}},
    {"year": {"$nin": [1999]}},
    {"draft": True},
    {"draft": 1},
    {"author": None},
    {"author": {"$exists": False}},
    {"author": {"$exists": True}},
    {"tags": {"$contains": "red"}},
    {"tags": {"$contains": "re"}},
    {"tags": {"$contains": 7}},
    {"tags": {"$contains": None}},
    {"tags": {"$size": 0}},
    {"tags": {"$size": 2}},
    {"lang": {"$icontains": "En"}},
    {"tags": {"$icontains": "RED"}},
    {"title": {"$contains": "100% of them_"}},
    {"title": {"$contains": "100x"}},
    {"made.in.town": "Bonn"},
    {"made.in": "Rome"},
    {"made.in": "literal"},
    {"made.in": {"$exists": True}},
    {"source": "a book"},
    {"source": {"$contains": "/manuals/"}},
    {"source": {"$exists": False}},
    {"$source": "/manuals/it's 100%.txt"},
    {"$source": {"$contains": "s 100%"}},
    {"$source": {"$icontains": "MANUALS"}},
    {"$source": {"$exists": False}},
    {"$not": {"$source": {"$contains": "manuals"}}},
    {"$heading": {"$contains": "Care"}},
    {"$heading": "Kettle > Care"},
    {"$page": 2},
    {"$page": {"$gte": 1}},
    {"$not": {"$page": {"$gte": 2}}},
    {"$id": ["i1", "i5", "nobody's"]},
    {"$id": []},
    {"$or": [{"year": 1999}, {"lang": "EN"}, {"lang": {"$icontains": "DE"}}]},
    {"$and": [{"lang": {"$exists": True}}, {"$not": {"lang": {"$contains": "e"}}}]},
    {"$or": [{"$page": 1}, {"$not": {"$or": [{"year": {"$exists": True}}, {"$page": 2}]}}]},
]
MANUAL = "Fill it with water.\n\nNever run it dry. \t It has a lid."
SOURCE = "/manuals/it's 100%.txt"


def passages(text=MANUAL):
    """Pieces with headings and pages, and text between them that is in none."""
    places = [(0, 19, "Kettle > Use", 1), (21, 38, "Kettle > Care", 2), (41, len(text), "", None)]
    return [
        Passage(text[a:b], a, b, heading, page, f"{heading}: {text[a:b]}", {"part": a})
        for a, b, heading, page in places
    ]


def vectors(n, seed=0):
    return np.random.default_rng(seed).normal(size=(n, 8))


def fill(index):
    index.add(TEXTS, vectors(len(TEXTS)), METADATA, [f"i{i}" for i in range(len(TEXTS))])
    index.documents.put(SOURCE, MANUAL, "first", passages(), vectors(3, seed=1))
    return index


@pytest.fixture(scope="module", params=KINDS)
def place(request, tmp_path_factory):
    with place_of(request.param, tmp_path_factory.mktemp(request.param)) as found:
        yield found


@pytest.fixture
def again(place):
    """Opens the same new index, whenever it is called."""
    return place.opener()


@pytest.fixture
def index(again):
    with closing(again()) as opened:
        yield opened


@pytest.fixture(scope="module")
def filled(place):
    with closing(place.opener()()) as opened:
        yield fill(opened)


@pytest.fixture(scope="module")
def reference():
    return fill(GemIndex())


def names(hits):
    """Chunks by their texts: ids of documents' chunks are each store's own."""
    return [hit.text for hit in hits]


def test_chunks_are_added_read_replaced_and_deleted(index):
    ids = index.add(TEXTS[:2], vectors(2), [{"a": [1, {"b": None}]}, None])
    [record] = index.get(ids[:1], vectors=True)
    assert (record.text, record.metadata, record.source) == (
        TEXTS[0],
        {"a": [1, {"b": None}]},
        None,
    )
    np.testing.assert_allclose(
        record.vector, vectors(2)[0] / np.linalg.norm(vectors(2)[0]), atol=1e-6
    )
    index.upsert([TEXTS[2]], vectors(1, seed=5), [{"new": True}], ids[1:])
    assert [r.text for r in index.get(ids[::-1])] == [TEXTS[2], TEXTS[0]]
    assert {r.id for r in index.iterate()} == set(ids)
    gone = index.delete([ids[0], "nobody's"])
    assert (gone.deleted, gone.missing, index.count()) == ([ids[0]], ["nobody's"], 1)
    assert index.delete(where={"new": True}).deleted == [ids[1]]
    assert index.count() == 0


def test_an_id_that_exists_is_refused_and_nothing_is_added(index):
    index.add(TEXTS[:1], vectors(1), ids=["one"])
    with pytest.raises(GemIndexError, match="'one'"):
        index.add(TEXTS[:2], vectors(2), ids=["two", "one"])
    assert [record.id for record in index.iterate()] == ["one"]


def test_vectors_of_another_length_or_none_at_all_are_refused(index):
    index.add(TEXTS[:1], vectors(1))
    with pytest.raises(GemIndexError, match="8 numbers"):
        index.add(TEXTS[1:2], [[1.0, 2.0]])
    with pytest.raises(GemIndexError, match="zero"):
        index.add(TEXTS[1:2], np.zeros((1, 8)))
    assert index.count() == 1


@pytest.mark.parametrize("where", FILTERS, ids=json.dumps)
def test_filters_find_the_same_everywhere(filled, reference, where):
    expected = sorted(record.text for record in reference.iterate(where))
    assert sorted(record.text for record in filled.iterate(where)) == expected
    assert filled.count(where) == len(expected)
    found = filled.search(vectors(1)[0], 20, where=where)
    assert sorted(names(found)) == expected


def test_a_wrong_filter_is_refused(filled):
    with pytest.raises(GemIndexError, match="unknown operator"):
        filled.count({"year": {"$near": 3}})


def test_the_nearest_come_first_with_their_cosines(filled, reference):
    for query in vectors(5, seed=9):
        ours, theirs = filled.search(query, 4), reference.search(query, 4)
        assert names(ours) == names(theirs)
        np.testing.assert_allclose([h.score for h in ours], [h.score for h in theirs], atol=1e-5)
    assert len(filled.search(vectors(1)[0], 100)) == 9
    least = filled.search(vectors(1)[0], 9, min_score=0.5)
    assert names(least) == names(reference.search(vectors(1)[0], 9, min_score=0.5))


@pytest.mark.parametrize(
    "text",
    ["kettle warranty", "rivers and seas", "机器", "机", "v2.3.1", "gem-rag", "the", "zebra"],
)
def test_words_find_and_score_the_same_everywhere(filled, reference, text):
    ours, theirs = filled.search(text=text, k=5), reference.search(text=text, k=5)
    assert {h.text: pytest.approx(h.word_score, abs=0.05) for h in theirs} == {
        h.text: h.word_score for h in ours
    }
    assert [h.covered for h in ours] == pytest.approx([h.covered for h in theirs], abs=0.01)


def test_words_and_vectors_together(filled, reference):
    for query in vectors(4, seed=3):
        found = [i.search(query, 3, text="a kettle by the sea") for i in (filled, reference)]
        assert names(found[0]) == names(found[1])
        scores = [[hit.fused_score for hit in hits] for hits in found]
        np.testing.assert_allclose(*scores, atol=0.03)
        assert all(hit.score is not None and hit.word_score is not None for hit in found[0])


def test_equal_texts_count_once_with_all_their_sources(index):
    for n, source in enumerate(["b.txt", "a.txt", "c.txt"]):
        text = "Rivers run to the sea."
        index.documents.put(source, text, "h", [Passage(text, 0, len(text))], vectors(1, seed=n))
    index.add(TEXTS[:1], vectors(1, seed=8))
    hits = index.search(vectors(1)[0], 5, text="rivers", distinct=True)
    assert names(hits) == ["Rivers run to the sea.", TEXTS[0]]
    assert set(hits[0].sources) == {"a.txt", "b.txt", "c.txt"}
    only = index.search(vectors(1)[0], 5, where={"$source": "c.txt"}, distinct=True)
    assert [hit.sources for hit in only] == [("c.txt",)]


def test_a_document_is_kept_with_its_text_and_places(filled):
    info = filled.documents.get(SOURCE)
    assert (info.hash, info.state, info.chunks) == ("first", "ready", 3)
    assert filled.documents.text(SOURCE) == MANUAL
    found = filled.documents.chunks(SOURCE)
    assert [c.text for c in found] == [p.text for p in passages()]
    assert [(c.start, c.end, c.heading, c.page, c.words) for c in found] == [
        (p.start, p.end, p.heading, p.page, p.words) for p in passages()
    ]
    assert filled.documents.all() == filled.documents.with_hash("first") == [info]
    assert (len(filled.documents), filled.documents.get("nobody's")) == (1, None)


def test_a_document_is_replaced_moved_and_removed(index):
    fill(index)
    index.documents.put(SOURCE, MANUAL, "second", passages()[:2], vectors(2, seed=2))
    index.documents.put(SOURCE, MANUAL, "second", passages()[:2], vectors(2, seed=2))
    assert [c.text for c in index.documents.chunks(SOURCE)] == [p.text for p in passages()[:2]]
    assert (index.documents.text(SOURCE), index.count()) == (MANUAL, 8)
    before = index.search(vectors(1, seed=2)[0], 1)[0]
    index.documents.move(SOURCE, "new.txt", lambda read: read.replace("Kettle", "Pot"))
    after = index.search(vectors(1, seed=2)[0], 1)[0]
    assert (after.source, after.text) == ("new.txt", before.text)
    assert after.score == pytest.approx(before.score)
    assert after.words == before.words.replace("Kettle", "Pot")
    assert [d.source for d in index.documents.all()] == ["new.txt"]
    assert index.documents.text("new.txt") == MANUAL
    assert index.documents.remove(["new.txt", "nobody's"]) == ["new.txt"]
    assert (index.count(), len(index.documents)) == (6, 0)
    with pytest.raises(GemIndexError, match=r"new\.txt"):
        index.documents.text("new.txt")


def test_a_document_that_loses_chunks_is_not_whole(index):
    fill(index)
    index.delete(where={"$heading": {"$contains": "Care"}})
    info = index.documents.get(SOURCE)
    assert (info.is_whole, info.chunks) == (False, 2)
    with pytest.raises(GemIndexError, match="not whole"):
        index.documents.text(SOURCE)
    index.delete(where={"$source": SOURCE})
    assert index.documents.all() == []


def test_what_was_read_of_deleted_chunks_is_told_unless_another_has_it(index):
    fill(index)
    chunks = index.documents.chunks(SOURCE)
    index.documents.put("copy.txt", MANUAL, "first", passages(), vectors(3))
    index.documents.remove([SOURCE])
    assert index.documents.unread(chunks) == []
    index.documents.remove(["copy.txt"])
    assert index.documents.unread(chunks) == [chunk.words for chunk in chunks]


def test_chunks_may_get_their_vectors_later(index):
    index.add(TEXTS[:3], None, ids=["a", "b", "c"])
    index.documents.put(SOURCE, MANUAL, "first", passages(), None)
    assert names(index.search(text="warranty", mode="words")) == [TEXTS[0]]
    assert (index.info().vectors, len(index.without_vectors())) == (0, 6)
    index.set_vectors(["a", "nobody's"], vectors(2))
    assert (index.info().vectors, index.info().dim, index.count()) == (1, 8, 6)
    assert names(index.search(vectors(2)[0], 5)) == [TEXTS[0]]
    while left := index.without_vectors(2):
        index.set_vectors([record.id for record in left], vectors(len(left), seed=len(left)))
    assert index.info().vectors == 6
    assert index.documents.text(SOURCE) == MANUAL


def test_values_are_kept_by_key(index):
    index.set_meta("mounts", ["/data", {"n": 1}])
    assert index.get_meta("mounts") == ["/data", {"n": 1}]
    index.set_meta("mounts", None)
    assert index.get_meta("mounts", "none") == "none"


def test_an_index_that_is_opened_again_is_as_it_was(again):
    with closing(again(fingerprint="model a")) as index:
        fill(index)
        index.set_meta("key", 3)
    with closing(again(create=False)) as index:
        info = index.info()
        assert (info.count, info.documents, info.dim, info.vectors) == (9, 1, 8, 9)
        assert (info.fingerprint, info.words, info.kind) == ("model a", True, "flat")
        assert (index.get_meta("key"), index.documents.text(SOURCE)) == (3, MANUAL)
        assert names(index.search(text="warranty", k=1)) == [TEXTS[0]]


def test_an_index_that_is_not_there_is_not_made_where_it_has_to_exist(again):
    with pytest.raises(GemIndexError):
        again(create=False)
    with pytest.raises(GemIndexError):
        again(create=False)


def test_another_models_index_is_refused_everywhere(again):
    with closing(again(fingerprint="model a")) as index:
        index.add(TEXTS[:1], vectors(1))
        with pytest.raises(GemIndexError, match="model b"):
            index.claim("model b")
        with pytest.raises(GemIndexError, match="model b"):
            index.search(vectors(1)[0], fingerprint="model b")
        with pytest.raises(GemIndexError, match="8 numbers"):
            index.claim("model a", 16)
    for wrong in ({"fingerprint": "model b"}, {"dim": 16}):
        with pytest.raises(GemIndexError, match=r"made by the model|numbers"):
            again(**wrong)
    with closing(again(fingerprint="model a", dim=8)) as index:
        assert index.count() == 1


def test_vectors_of_unknown_origin_are_not_attributed_to_a_model(again):
    with closing(again()) as index:
        index.add(TEXTS[:1], vectors(1))
        with pytest.raises(GemIndexError, match="does not say"):
            index.claim("model a")


def test_texts_are_data_whatever_they_hold(index):
    odd = ['it\'s "quoted" \\ and % _ {} $1 :x', "tab\tline\nend", "naïve 🙂 ﬁ", "' OR 1=1 --"]
    index.add(odd, vectors(4), [{"k": text, text: 1} for text in odd], odd)
    for text in odd:
        assert [r.text for r in index.get([text])] == [text]
        assert names(index.search(vectors(1)[0], 9, where={"k": text})) == [text]
        assert names(index.iterate({text: 1})) == [text]
        assert index.search(text=text, k=1)[0].text == text
        index.documents.put(text, text, text, [Passage(text, 0, len(text))], vectors(1))
        assert index.documents.text(text) == text
        assert index.count({"$source": {"$contains": text[1:]}}) == 1


# GemRAG


@pytest.fixture
def docs(tmp_path):
    folder = tmp_path / "docs"
    folder.mkdir()
    (folder / "kettle.md").write_text("# Kettle\n\nThe kettle has a warranty of seven years.\n")
    (folder / "rivers.txt").write_text("Rivers run to the sea. " * 30)
    return folder


def test_a_rag_over_any_store_finds_and_answers_as_over_a_folder(gem, docs, place):
    address = place.address(new_name())
    rag = GemRAG(gem, address, threshold=None, chunk_tokens=40)
    plain = GemRAG(gem, threshold=None, chunk_tokens=40)
    for one in (rag, plain):
        report = one.add(docs)
        assert (len(report.added), report.skipped) == (2, [])
    question = "Which warranty has the kettle?"
    found, expected = rag.retrieve(question, k=3), plain.retrieve(question, k=3)
    assert [(c.source, c.text) for c in found] == [(c.source, c.text) for c in expected]
    scores = [[(c.score, c.rank_score, c.confidence) for c in cited] for cited in (found, expected)]
    np.testing.assert_allclose(*scores, atol=0.05)
    answers = [one.answer(question, max_new_tokens=8) for one in (rag, plain)]
    assert answers[0].answer == answers[1].answer
    assert rag.answer("Summarise kettle.md").citations[0].source.endswith("kettle.md")
    only = rag.retrieve("water", where={"$source": {"$contains": "rivers"}})
    assert {Path(c.source).name for c in only} == {"rivers.txt"}
    rag.index.close()


def test_a_rag_over_any_store_follows_its_files(gem, docs, again):
    with closing(again()) as index:
        rag = GemRAG(gem, index, threshold=None, chunk_tokens=40)
        rag.add(docs)
        assert len(rag.add(docs).unchanged) == 2
        (docs / "kettle.md").write_text("The kettle has no warranty.")
        assert len(rag.add(docs).replaced) == 1
        assert not any("seven" in c.text for c in rag.retrieve("kettle", k=50))
        (docs / "rivers.txt").rename(docs / "streams.txt")
        assert [Path(new).name for _, new in rag.add(docs).moved] == ["streams.txt"]
        (docs / "kettle.md").unlink()
        assert len(rag.add(docs, remove_missing=True).removed) == 1
        assert {Path(d.source).name for d in index.documents.all()} == {"streams.txt"}
        assert rag.remove(docs).chunks > 0
        assert (index.count(), len(index.documents)) == (0, 0)


def test_a_base_without_a_checkpoint_indexes_and_a_model_embeds_later(
    gem, base_folder, docs, again
):
    from gem_rag.model import GemModel

    with closing(again()) as index:
        plain = GemRAG(GemModel.from_pretrained(base_folder), index, threshold=None)
        plain.add(docs)
        assert "seven years" in plain.retrieve("warranty", k=1)[0].text
        rag = GemRAG(gem, index, threshold=None)
        rag.add(docs)
        assert (index.without_vectors(), index.info().fingerprint) == ([], gem.fingerprint)
        assert rag.retrieve("warranty", mode="vector")


# What servers have of their own


@pytest.fixture(scope="module", params=SERVERS)
def server(request, tmp_path_factory):
    with place_of(request.param, tmp_path_factory.mktemp(request.param)) as found:
        yield found


class Crash(BaseException):
    """The process ends here."""


@pytest.mark.parametrize("replaces", [False, True], ids=["new", "replaced"])
def test_a_crash_leaves_the_old_document_or_the_new_and_a_second_try_mends_it(
    server, replaces, monkeypatch
):
    texts = {"old": "Rivers run to the sea.", "new": "Kettles boil. Rivers run."}
    pieces = {"old": [(0, 22)], "new": [(0, 13), (14, 25)]}

    def put(index, source, version):
        text = texts[version]
        cut = [Passage(text[a:b], a, b) for a, b in pieces[version]]
        index.documents.put(source, text, version, cut, vectors(len(cut)))

    def check(index, source):
        """What is there is whole, whichever way it is looked at."""
        known = index.documents.get(source)
        version = None if known is None else known.hash
        here = {"$source": source}
        held = [] if known is None else [texts[version][a:b] for a, b in pieces[version]]
        assert sorted(names(index.iterate(here))) == sorted(held)
        assert sorted(names(index.search(vectors(1)[0], 9, where=here))) == sorted(held)
        assert index.count(here) == len(held)
        assert version is None or index.documents.text(source) == texts[version]
        return version

    found = []
    with closing(server.opener()()) as index:
        put(index, "other.txt", "old")
        for survived in range(9):
            source = f"{survived}.txt"
            if replaces:
                put(index, source, "old")
            with monkeypatch.context() as patched, suppress(Crash):
                crash_after(index, survived, patched)
                put(index, source, "new")
            found.append(check(index, source))
            put(index, source, "new")
            assert check(index, source) == "new"
    assert found == sorted(found, key=lambda version: version == "new")
    assert {*found} == {"old" if replaces else None, "new"}


def crash_after(index, writes, patched):
    """Have the process end after so many requests that change something."""
    left = itertools.count(writes, -1)

    def ending(method):
        def call(*given, **options):
            if next(left) <= 0:
                raise Crash
            return method(*given, **options)

        return call

    for part in changing(index):
        for name in ("put", "delete"):
            patched.setattr(part, name, ending(getattr(part, name)))


def changing(index):
    store = vars(index)["_store"]
    return store.entries, store.chunks(8)


def test_an_index_travels_to_another_process_by_its_address(server):
    if server.kind != "postgres":
        pytest.skip("what is local to a process is open in that one alone")
    with closing(server.opener()(fingerprint="model a")) as index:
        fill(index)
        with closing(pickle.loads(pickle.dumps(index))) as other:
            assert other.count() == 9


def test_hnsw_finds_the_nearest_too(server):
    with closing(server.opener()(kind="hnsw", dim=8)) as index:
        many = vectors(60, seed=4)
        index.add([f"text {i}" for i in range(60)], many, [{"even": i % 2 == 0} for i in range(60)])
        found = index.search(many[10], 5)
        assert (found[0].text, index.info().kind) == ("text 10", "hnsw")
        only = index.search(many[10], 25, where={"even": False})
        assert len(only) == 25
        assert not any(hit.metadata["even"] for hit in only)


def test_commands_take_addresses(server, docs, tiny_checkpoint, monkeypatch, capsys):
    from gem_rag import cli

    address = server.address(new_name())

    def run(*given, model=True):
        extra = ["--model", tiny_checkpoint] if model else []
        monkeypatch.setattr("sys.argv", ["gem-rag", *map(str, given), *extra])
        with pytest.raises(SystemExit) as stop:
            cli.main()
        return stop.value.code, *capsys.readouterr()

    code, out, _ = run("index", docs, "--index", address, "--json")
    assert (code, len(json.loads(out)["added"])) == (0, 2)
    code, out, _ = run("search", "warranty", "--index", address, "--json", "-k", "1")
    assert json.loads(out)[0]["source"].endswith("kettle.md")
    code, out, _ = run("info", "--index", address, "--json")
    assert json.loads(out)["index"]["documents"] == 2
    code, out, _ = run("remove", docs / "kettle.md", "--index", address, model=False)
    assert (code, "chunks in" in out) == (0, True)
    code, _, err = run("search", "x", "--index", server.address(new_name()))
    assert (code, "does not exist" in err) == (1, True)


def test_the_server_serves_an_index_by_its_address(server, docs, tiny_checkpoint, tmp_path):
    from serving import running, settings_for

    address = server.address(new_name())
    home = tmp_path / "home"
    settings = settings_for(home, tiny_checkpoint, index=address, paths=[docs])
    with running(settings) as served:
        assert {d["name"] for d in served.all_ready(2)} == {"kettle.md", "rivers.txt"}
        events = served.ask("Which warranty has the kettle?", threshold=None, max_tokens=4)
        assert {one["name"] for one in events[0][1]} == {"kettle.md"}
        assert served.http.get("/api/settings").json()["index"] == shown(address)
    assert not (home / "index.sqlite").exists()


# Addresses


def test_an_address_is_told_from_a_folder_and_printed_without_its_password():
    assert not any(map(is_address, ["manuals", "/data/a:b", r"C:\data", Path("x")]))
    address = "postgresql://ann:s3cret@db:5432/x?collection=c"
    assert is_address(address)
    assert shown(address) == "postgresql://ann@db:5432/x?collection=c"
    assert shown("qdrant+https://:k3y@host/c") == "qdrant+https://@host/c"
    assert shown("qdrant+https://k3y@host/c") == "qdrant+https://host/c"
    assert shown("qdrant+https://k3y@host/c?") == "qdrant+https://host/c"
    assert shown("/data/a:b@c") == "/data/a:b@c"
    last = "postgresql://db/x?user=ann&password=s3cret"
    assert shown(last) == "postgresql://db/x?user=ann"
    assert shown(last + "&collection=c") == "postgresql://db/x?user=ann&collection=c"
    assert shown("postgresql://db/x?password=s3cret") == "postgresql://db/x"


@pytest.mark.parametrize("key", ["k3y", ":k3y"])
def test_the_key_in_an_address_reaches_qdrant(key, monkeypatch):
    qdrant = pytest.importorskip("gem_rag.index.backends.qdrant")
    given = {}
    monkeypatch.setattr(
        qdrant, "QdrantIndex", lambda url, **options: given.update(options, url=url)
    )
    open_index(f"qdrant+https://{key}@host:6333/c")
    assert given["api_key"] == "k3y"
    assert given["url"] == "https://host:6333"


def test_an_unknown_address_or_an_impossible_name_is_refused():
    with pytest.raises(GemIndexError, match="qdrant"):
        open_index("redis://localhost/3")
    pytest.importorskip("qdrant_client")
    from gem_rag.index.backends import QdrantIndex

    with pytest.raises(GemIndexError, match="letters, digits"):
        QdrantIndex(":memory:", "no spaces; please")
    with pytest.raises(GemIndexError, match="expected one of flat, hnsw"):
        QdrantIndex(":memory:", kind="ivf")


def test_a_server_that_is_not_there_is_an_error_of_ours():
    pytest.importorskip("psycopg")
    with pytest.raises(GemError) as raised:
        open_index("postgresql://ann:s3cret@127.0.0.1:1/x")
    assert "PostgreSQL at 127.0.0.1" in str(raised.value)
    assert "s3cret" not in str(raised.value)


def test_a_missing_client_is_named_with_its_extra(monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "qdrant_client", None)
    monkeypatch.delitem(sys.modules, "gem_rag.index.backends.qdrant", raising=False)
    with pytest.raises(ImportError, match=r"gem-rag\[qdrant\]"):
        open_index("qdrant+http://localhost:6333/c")
