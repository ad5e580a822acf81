"""GemIndex as its users see it: in memory and on disk, flat and approximate."""

import shutil
import sqlite3
import subprocess
import sys
import threading

import numpy as np
import pytest

from gem_rag.errors import GemIndexError
from gem_rag.index import Deletion, GemIndex, ann

DIM = 16


def clustered(count, seed=0, dim=DIM):
    rng = np.random.default_rng(seed)
    centres = rng.normal(size=(40, dim))
    return centres[rng.integers(40, size=count)] + 0.3 * rng.normal(size=(count, dim))


def cosines(vectors, query):
    return vectors @ query / np.linalg.norm(vectors, axis=1) / np.linalg.norm(query)


def filled(count=3000, path=None, **options):
    index = GemIndex(path, **options)
    vectors = clustered(count)
    metadatas = [{"n": n, "even": n % 2 == 0, "tenth": n % 10} for n in range(count)]
    index.add(
        [f"text {n}" for n in range(count)], vectors, metadatas, [str(n) for n in range(count)]
    )
    return index, vectors


@pytest.fixture(params=["memory", "disk"])
def index(request, tmp_path):
    with GemIndex(tmp_path / "index" if request.param == "disk" else None) as index:
        yield index


def test_what_was_added_is_found_with_its_cosine(index):
    vectors = clustered(50)
    ids = index.add([f"text {n}" for n in range(50)], vectors, [{"n": n} for n in range(50)])
    query = clustered(1, seed=1)[0] * 7
    hits = index.search(query, k=5)
    truth = cosines(vectors, query)
    best = np.argsort(-truth)[:5]
    assert [hit.id for hit in hits] == [ids[n] for n in best]
    assert [hit.text for hit in hits] == [f"text {n}" for n in best]
    assert [hit.metadata for hit in hits] == [{"n": n} for n in best]
    np.testing.assert_allclose([hit.score for hit in hits], truth[best], atol=1e-6)


def test_an_empty_index_finds_nothing(index):
    assert index.search([1.0, 0.0]) == []
    assert index.mmr([1.0, 0.0]) == []
    assert index.search_batch([[1.0, 0.0], [0.0, 1.0]]) == [[], []]
    assert (index.count(), list(index), index.get(["x"])) == (0, [], [])
    assert index.add([], []) == []
    assert index.delete(["x"]) == Deletion([], ["x"])


def test_k_and_min_score(index):
    index.add(["a", "b", "c"], [[1, 0], [1, 1], [-1, 0]], ids=["a", "b", "c"])
    assert [hit.id for hit in index.search([2, 0], k=10)] == ["a", "b", "c"]
    assert [hit.id for hit in index.search([2, 0], min_score=0.5)] == ["a", "b"]
    assert [hit.score for hit in index.search([2, 0])] == pytest.approx([1, 0.5**0.5, -1])
    with pytest.raises(GemIndexError, match="k is 0"):
        index.search([1, 0], k=0)


def test_a_batch_gives_what_single_searches_give(index):
    index.add([""] * 60, clustered(60))
    queries = clustered(5, seed=3)
    for query, hits in zip(queries, index.search_batch(queries, k=7), strict=True):
        single = index.search(query, k=7)
        assert [hit.id for hit in single] == [hit.id for hit in hits]
        assert [h.score for h in single] == pytest.approx([h.score for h in hits], abs=1e-6)


def test_existing_ids_are_refused_and_nothing_is_added(index):
    index.add(["a"], [[1, 0]], ids=["a"])
    with pytest.raises(GemIndexError, match=r"'a'.*upsert"):
        index.add(["b", "a"], [[1, 0], [0, 1]], ids=["b", "a"])
    assert [record.text for record in index] == ["a"]


def test_upsert_replaces_by_id(index):
    index.add(["old", "other"], [[1, 0], [0.6, 0.8]], [{"v": 1}, None], ["x", "y"])
    assert index.search([1, 0], k=1)[0].text == "old"
    assert index.upsert(["new", "third"], [[0, 1], [1, 1]], [{"v": 2}, None], ["x", "z"]) == [
        "x",
        "z",
    ]
    assert [hit.text for hit in index.search([0, 1], k=9)] == ["new", "other", "third"]
    assert index.get(["x"])[0].metadata == {"v": 2}
    assert index.count() == 3


def test_delete_reports_what_was_missing(index):
    index.add(list("abcd"), [[1, n] for n in range(4)], [{"n": n} for n in range(4)], list("abcd"))
    assert index.delete(["c", "nope", "a"]) == Deletion(deleted=["c", "a"], missing=["nope"])
    assert index.delete(["c"]) == Deletion(deleted=[], missing=["c"])
    assert index.delete(where={"n": {"$gte": 3}}) == Deletion(deleted=["d"], missing=[])
    assert [hit.id for hit in index.search([1, 0])] == ["b"]
    with pytest.raises(GemIndexError, match="either"):
        index.delete()
    assert index.delete(where={}).deleted == ["b"]


def test_get_keeps_the_order_asked_for(index):
    index.add(
        ["a", "b"], [[3, 4], [0, 2]], [{"nested": {"list": [1, None, "ü"]}}, None], ["a", "b"]
    )
    assert [record.id for record in index.get(["b", "zzz", "a"])] == ["b", "a"]
    [record] = index.get(["a"], vectors=True)
    assert record.metadata == {"nested": {"list": [1, None, "ü"]}}
    np.testing.assert_allclose(record.vector, [0.6, 0.8], rtol=1e-6)


def test_iterate_pages_through_all_in_order_while_writing(index):
    index.add([str(n) for n in range(25)], clustered(25), ids=[str(n) for n in range(25)])
    seen = []
    for record in index.iterate(batch_size=4):
        seen.append(record.text)
        index.delete([record.id])
    assert seen == [str(n) for n in range(25)]
    assert index.count() == 0


def test_mmr_prefers_what_differs(index):
    index.add(list("abc"), [[1, 0.05, 0], [1, 0.06, 0], [0.7, 0, 0.7]], ids=list("abc"))
    query = [1, 0, 0]
    assert [hit.id for hit in index.search(query, k=2)] == ["a", "b"]
    diverse = index.mmr(query, k=2, lambda_mult=0.3)
    assert [hit.id for hit in diverse] == ["a", "c"]
    assert [hit.score for hit in diverse] == pytest.approx([0.99875, 0.70711], abs=1e-5)
    assert [hit.id for hit in index.mmr(query, k=2, lambda_mult=1)] == ["a", "b"]
    assert [hit.id for hit in index.mmr(query, k=2, fetch_k=2, lambda_mult=0)] == ["a", "b"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"vectors": [[0, 0]]}, "zero"),
        ({"vectors": [[1, float("nan")]]}, "not finite"),
        ({"vectors": [[1, 2, 3]]}, "2 numbers, not 3"),
        ({"vectors": [1, 2]}, "shape"),
        ({"vectors": [[1, 2], [3, 4]]}, "2 vectors for 1 texts"),
        ({"vectors": "ab"}, "not an array"),
        ({"ids": ["x", "y"]}, "2 ids"),
        ({"ids": [""]}, "non-empty"),
        ({"ids": "x"}, "expected a list"),
        ({"texts": "x"}, "expected a list"),
        ({"texts": [None]}, "expected a string"),
        ({"texts": ["\ud800"]}, "surrogates"),
        ({"metadatas": [{"x": float("nan")}]}, "JSON"),
        ({"metadatas": [{"x": object()}]}, "JSON"),
        ({"metadatas": [{"x": {"y": [{1, 2}]}}]}, r"key 'x\.y\[0\]' is '\{1, 2\}' \(set\)"),
        ({"metadatas": [{1: 2}]}, "string keys"),
        ({"metadatas": ["x"]}, "expected a dict"),
    ],
)
def test_bad_input_is_refused_whole(index, change, message):
    index.add(["first"], [[1, 0]])
    with pytest.raises(GemIndexError, match=message):
        index.add(**{"texts": ["x"], "vectors": [[1, 0]], **change})
    assert [record.text for record in index] == ["first"]


def test_ids_given_twice_are_refused(index):
    with pytest.raises(GemIndexError, match="twice"):
        index.upsert(["a", "b"], [[1, 0], [0, 1]], ids=["x", "x"])


def test_a_query_of_another_length_is_refused(index):
    index.add(["a"], [[1, 0]])
    with pytest.raises(GemIndexError, match=r"2 numbers, not 3"):
        index.search([1, 0, 0])


def test_a_transaction_is_one_commit_or_none(index):
    index.add(["old 1", "old 2"], [[1, 0], [0, 1]], [{"file": "f"}] * 2)
    with index.transaction():
        index.delete(where={"file": "f"})
        index.add(["new"], [[1, 1]], [{"file": "f"}])
        index.set_meta("f", {"sha256": "abc"})
        assert [hit.text for hit in index.search([1, 0])] == ["new"]

    def fail():
        with index.transaction():
            index.delete(where={})
            index.add(["lost"], [[1, 0]])
            assert [hit.text for hit in index.search([1, 0])] == ["lost"]
            index.set_meta("f", None)
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    assert [hit.text for hit in index.search([1, 0])] == ["new"]
    assert index.get_meta("f") == {"sha256": "abc"}
    index.add(["later"], [[1, 0]])
    assert [hit.text for hit in index.search([1, 0])] == ["later", "new"]


def test_a_failed_call_inside_a_transaction_undoes_only_itself(index):
    with index.transaction():
        index.add(["a"], [[1, 0]], ids=["a"])
        with pytest.raises(GemIndexError):
            index.add(["b", "a"], [[1, 0], [1, 1]], ids=["b", "a"])
    assert [hit.id for hit in index.search([1, 0])] == ["a"]


def test_meta_values(index):
    assert index.get_meta("none") is None
    assert index.get_meta("none", 3) == 3
    index.set_meta("k", [1, "zwei"])
    assert index.get_meta("k") == [1, "zwei"]
    index.set_meta("k", None)
    assert index.get_meta("k") is None


def test_it_opens_again_as_it_was(tmp_path):
    index, _ = filled(200, tmp_path, fingerprint="model-1")
    before = index.search(clustered(1, seed=9)[0], k=20)
    index.close()
    with GemIndex(tmp_path, create=False) as again:
        assert again.search(clustered(1, seed=9)[0], k=20) == before
        info = again.info()
    assert (info.count, info.dim, info.fingerprint, info.kind) == (200, DIM, "model-1", "flat")
    assert info.bytes > 200 * DIM * 4
    assert info.path == tmp_path
    for call in (again.count, again.info, lambda: again.delete(["1"]), lambda: again.search([1.0])):
        with pytest.raises(GemIndexError, match="closed"):
            call()


# Approximate kinds


@pytest.fixture
def small_limit(monkeypatch):
    """Above this many matches approximate kinds no longer search exactly."""
    monkeypatch.setattr(ann, "FLAT_LIMIT", 500)


@pytest.mark.usefixtures("small_limit")
@pytest.mark.parametrize("kind", ["flat", "hnsw", "ivf", "auto"])
def test_k_results_come_whenever_k_match(kind):
    index, vectors = filled(kind=kind)
    assert index.info().kind == ("ivf" if kind == "auto" else kind)
    query = clustered(1, seed=5)[0]
    truth = cosines(vectors, query)
    for where, matches in [
        ({"n": {"$in": [5, 700, 2999]}}, [5, 700, 2999]),
        ({"tenth": 3}, range(3, 3000, 10)),
        ({"even": True}, range(0, 3000, 2)),
        ({"n": {"$ne": 0}}, range(1, 3000)),
        (None, range(3000)),
    ]:
        for k in (1, 10, 1000):
            hits = index.search(query, k=k, where=where)
            found = [int(hit.id) for hit in hits]
            assert len(found) == len(set(found)) == min(k, len(matches))
            assert set(found) <= set(matches)
            np.testing.assert_allclose([hit.score for hit in hits], truth[found], atol=1e-6)
            best = sorted(matches, key=lambda n: -truth[n])[:k]
            exact = kind == "flat" or len(matches) <= 500
            assert len(set(found) & set(best)) >= (1.0 if exact else 0.8) * len(best)


@pytest.mark.usefixtures("small_limit")
@pytest.mark.parametrize("kind", ["hnsw", "ivf"])
def test_approximate_kinds_follow_changes_and_deletions(kind):
    index, _ = filled(kind=kind)
    query = clustered(1, seed=5)[0]
    nearest = [hit.id for hit in index.search(query, k=20)]
    index.delete(nearest[:10])
    after = [hit.id for hit in index.search(query, k=10)]
    assert not set(after) & set(nearest[:10])
    assert after[0] == nearest[10]
    index.upsert(["moved"], [query], ids=["2999"])
    assert index.search(query, k=1)[0].text == "moved"
    index.delete(where={"n": {"$lt": 2000}})  # so many that it is built afresh
    hits = index.search(query, k=990)
    assert len(hits) == 990
    assert all(int(hit.id) >= 2000 for hit in hits)
    assert index.delete(where={}).missing == []
    assert index.search(query) == []


@pytest.mark.usefixtures("small_limit")
def test_auto_changes_kind_as_it_grows():
    index, _ = filled(400)
    query = clustered(1, seed=5)[0]
    index.search(query)
    assert index.info().kind == "flat"
    index.add([""] * 2000, clustered(2000, seed=8))
    assert len(index.search(query, k=2400)) == 2400
    assert index.info().kind == "ivf"


@pytest.mark.usefixtures("small_limit")
def test_large_indexes_open_from_their_faiss_file(tmp_path, monkeypatch):
    index, _ = filled(path=tmp_path)
    query = clustered(1, seed=5)[0]
    before = index.search(query, k=30)
    index.close()
    assert (tmp_path / "vectors.faiss").exists()
    monkeypatch.setattr(ann.VectorIndex, "build", None)  # building afresh would fail
    with GemIndex(tmp_path) as again:
        assert again.search(query, k=30) == before
        again.delete([before[0].id])
        again.add(["late"], [query])
        assert [hit.text for hit in again.search(query, k=2)] == ["late", before[1].text]
    with GemIndex(tmp_path) as again:
        assert [hit.text for hit in again.search(query, k=2)] == ["late", before[1].text]


def truncate(file):
    file.write_bytes(file.read_bytes()[:-1000])


def empty(file):
    file.write_bytes(b"")


def flip(file):
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.write_bytes(data)


def foreign(file):
    file.write_bytes(b"something else entirely" * 100)


def remove(file):
    file.unlink()


def directory(file):
    file.unlink()
    file.mkdir()


@pytest.mark.usefixtures("small_limit")
@pytest.mark.parametrize("kind", ["hnsw", "ivf"])
@pytest.mark.parametrize("damage", [truncate, empty, flip, foreign, remove, directory])
def test_a_damaged_faiss_file_is_repaired(tmp_path, damage, kind):
    index, vectors = filled(path=tmp_path, kind=kind)
    index.close()
    damage(tmp_path / "vectors.faiss")
    with GemIndex(tmp_path) as again:
        hits = again.search(vectors[7], k=10)
        assert hits[0].id == "7"
        assert len(hits) == 10


@pytest.mark.usefixtures("small_limit")
def test_a_faiss_file_of_another_index_is_not_used(tmp_path):
    ours, vectors = filled(path=tmp_path / "ours")
    ours.close()
    theirs = GemIndex(tmp_path / "theirs")
    theirs.add([f"their {n}" for n in range(3000)], clustered(3000, seed=77))
    theirs.close()
    shutil.copy(tmp_path / "theirs/vectors.faiss", tmp_path / "ours/vectors.faiss")
    with GemIndex(tmp_path / "ours") as again:
        assert again.search(vectors[7], k=1)[0].text == "text 7"


@pytest.mark.usefixtures("small_limit")
def test_a_restored_backup_does_not_use_the_newer_faiss_file(tmp_path):
    index, vectors = filled(path=tmp_path / "index")
    index.close()
    shutil.copytree(tmp_path / "index", tmp_path / "backup")
    with GemIndex(tmp_path / "index") as newer:
        newer.upsert(["replaced"], [-vectors[7]], ids=["7"])
        newer.checkpoint()
    shutil.copy(tmp_path / "backup/index.sqlite", tmp_path / "index/index.sqlite")
    with GemIndex(tmp_path / "index") as restored:
        restored.add(["another history"], [vectors[0]], ids=["new"])
        hit = restored.search(vectors[7], k=1)[0]
        assert (hit.text, hit.score) == ("text 7", pytest.approx(1))


# Other models, other files


def test_another_models_fingerprint_is_refused(tmp_path):
    GemIndex(tmp_path, fingerprint="model-1").close()
    with pytest.raises(GemIndexError, match=r"model-1.*model-2"):
        GemIndex(tmp_path, fingerprint="model-2")
    with GemIndex(tmp_path) as index:
        index.add(["a"], [[1, 0]])
        assert index.search([1, 0], fingerprint="model-1")
        for search in (index.search, index.mmr):
            with pytest.raises(GemIndexError, match=r"model-1.*model-2"):
                search([1, 0], fingerprint="model-2")


def test_a_fingerprint_is_not_attributed_to_vectors_of_unknown_origin(tmp_path):
    with GemIndex(tmp_path) as index:
        index.add(["a"], [[1, 0]])
    with pytest.raises(GemIndexError, match="does not say which model"):
        GemIndex(tmp_path, fingerprint="model-1")


def test_an_empty_index_can_be_claimed_and_belongs_to_that_model_then(tmp_path):
    with GemIndex(tmp_path) as index:
        index.claim("model-1", DIM)
        index.claim("model-1")
        with pytest.raises(GemIndexError, match=r"'model-1'.*'model-2'"):
            index.claim("model-2")
        index.add(["text"], clustered(1))
    with GemIndex(tmp_path, fingerprint="model-1") as again:
        assert len(again.search(clustered(1)[0], fingerprint="model-1")) == 1
    unknown, _ = filled(3)
    with pytest.raises(GemIndexError, match="does not say which model"):
        unknown.claim("model-1")


def test_another_dimension_is_refused(tmp_path):
    GemIndex(tmp_path, dim=8).close()
    with pytest.raises(GemIndexError, match=r"8 numbers, not 9"):
        GemIndex(tmp_path, dim=9)
    with GemIndex(tmp_path) as index, pytest.raises(GemIndexError, match="8 numbers, not 2"):
        index.add(["a"], [[1, 0]])


def test_a_missing_index_is_not_created_when_not_wanted(tmp_path):
    with pytest.raises(GemIndexError, match="no index"):
        GemIndex(tmp_path / "none", create=False)
    assert not (tmp_path / "none").exists()


def test_a_foreign_sqlite_file_is_refused_and_untouched(tmp_path):
    file = tmp_path / "index.sqlite"
    with sqlite3.connect(file) as other:
        other.execute("CREATE TABLE chunks (id TEXT)")
    other.close()
    before = file.read_bytes()
    with pytest.raises(GemIndexError, match="another program"):
        GemIndex(tmp_path)
    assert file.read_bytes() == before
    assert list(tmp_path.iterdir()) == [file]


def test_a_file_that_is_not_sqlite_is_refused(tmp_path):
    (tmp_path / "index.sqlite").write_text("hello, I am a text file " * 1000)
    with pytest.raises(GemIndexError, match="no SQLite file"):
        GemIndex(tmp_path)
    with pytest.raises(GemIndexError, match="is a file"):
        GemIndex(tmp_path / "index.sqlite")


def test_a_newer_schema_is_refused(tmp_path):
    GemIndex(tmp_path).close()
    with sqlite3.connect(tmp_path / "index.sqlite") as connection:
        connection.execute("PRAGMA user_version = 99")
    connection.close()
    with pytest.raises(GemIndexError, match=r"version 99.*upgrade"):
        GemIndex(tmp_path)


@pytest.mark.parametrize("lost", [1, 1000, 16384, 20_000, 50_000])
def test_a_truncated_database_is_an_error(tmp_path, lost):
    filled(500, tmp_path)[0].close()
    file = tmp_path / "index.sqlite"
    file.write_bytes(file.read_bytes()[:-lost])
    with pytest.raises(GemIndexError, match="damaged"):
        GemIndex(tmp_path).search(clustered(1)[0])


def test_an_unknown_kind_is_refused():
    with pytest.raises(GemIndexError, match="hnsw"):
        GemIndex(kind="best")


# Threads and processes


def test_threads_share_an_index(tmp_path):
    index, vectors = filled(300, tmp_path)
    errors = []

    def work(number):
        try:
            for n in range(15):
                name = f"{number}-{n}"
                index.add([name], [vectors[n] + number], ids=[name])
                assert len(index.search(vectors[n], k=10)) == 10
                assert index.get([name])[0].text == name
        except Exception as error:
            errors.append(error)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    assert index.count() == 300 + 6 * 15
    index.close()


WRITER = """
import sys
from gem_rag.index import GemIndex
with GemIndex(sys.argv[1]) as index:
    for line in sys.stdin:
        exec(line)
        print("done", flush=True)
"""


@pytest.fixture
def writer(tmp_path):
    process = subprocess.Popen(
        [sys.executable, "-c", WRITER, str(tmp_path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        bufsize=1,
    )

    def write(command):
        process.stdin.write(command + "\n")
        assert process.stdout.readline() == "done\n"

    yield write
    process.stdin.close()
    assert process.wait() == 0
    process.stdout.close()


def test_a_reader_sees_each_commit_of_another_process(tmp_path, writer):
    writer("index.add(['a', 'b'], [[1, 0], [0, 1]], ids=['a', 'b'])")
    with GemIndex(tmp_path) as reader:
        assert [hit.id for hit in reader.search([1, 0])] == ["a", "b"]
        for n in range(20):
            writer(f"index.add(['x'], [[1, {n} / 100]], [{{'n': {n}}}], ['x{n}'])")
            assert f"x{n}" in {hit.id for hit in reader.search([1, n / 100], k=50)}
            assert reader.search([1, 0], where={"n": n})[0].id == f"x{n}"
        writer("index.delete(where={'n': {'$lt': 19}})")
        assert [hit.id for hit in reader.search([1, 0])] == ["a", "x19", "b"]
        writer("index.upsert(['A'], [[0, -1]], ids=['a'])")
        assert reader.search([0, -1], k=1)[0].text == "A"
        writer("t = index.transaction(); t.__enter__(); index.delete(['b'])")
        assert reader.count() == 3
        writer("t.__exit__(None, None, None)")
        assert reader.count() == 2


def test_a_second_writer_waits_and_then_gets_a_clear_error(tmp_path, writer):
    writer("index.add(['a'], [[1, 0]])")
    with GemIndex(tmp_path, timeout=0.2) as second:
        writer("t = index.transaction(); t.__enter__(); index.add(['b'], [[0, 1]])")
        with pytest.raises(GemIndexError, match=r"writing for more than 0\.2 s"):
            second.add(["c"], [[1, 1]])
        assert [hit.text for hit in second.search([1, 0])] == ["a"]
        writer("t.__exit__(None, None, None)")
        second.add(["c"], [[1, 1]])
        assert {hit.text for hit in second.search([1, 0])} == {"a", "b", "c"}


def test_many_processes_may_create_and_write_at_once(tmp_path):
    code = (
        "import sys; from gem_rag.index import GemIndex\n"
        "with GemIndex(sys.argv[1], fingerprint='m') as index:\n"
        "    for n in range(10): index.add(['x'], [[1, n]], ids=[f'{sys.argv[2]}-{n}'])"
    )
    folder = str(tmp_path / "new" / "index")
    writers = [subprocess.Popen([sys.executable, "-c", code, folder, str(n)]) for n in range(5)]
    assert [writer.wait() for writer in writers] == [0] * 5
    with GemIndex(folder, fingerprint="m") as index:
        assert len(index.search([1, 0], k=100)) == index.count() == 50


def test_importing_the_index_does_not_import_faiss():
    code = "import sys, gem_rag.index; sys.exit('faiss' in sys.modules or 'torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
