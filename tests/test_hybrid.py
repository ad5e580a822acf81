"""Searching by vectors, by words, by both: what is found, what is said of it, what keeps step."""

import random
import subprocess
import sys
import textwrap
import warnings

import numpy as np
import pytest

from gem_rag.errors import GemIndexError
from gem_rag.index import GemIndex
from gem_rag.index.fulltext import FullText
from gem_rag.index.records import Passage
from gem_rag.index.words import asked, words

TEXTS = {
    "kettle": "the kettle boils water",
    "toaster": "the toaster burns bread",
    "tea": "tea needs boiling water",
    "car": "an engine with four cylinders",
}
VECTORS = {"kettle": [1, 0, 0], "toaster": [0, 1, 0], "tea": [0.8, 0.6, 0], "car": [0, 0, 1]}


@pytest.fixture(params=["memory", "disk"])
def index(request, tmp_path):
    with GemIndex(tmp_path / "index" if request.param == "disk" else None) as index:
        yield index


@pytest.fixture
def kitchen(index):
    meta = [{"hot": name != "car"} for name in TEXTS]
    index.add(list(TEXTS.values()), list(VECTORS.values()), meta, list(TEXTS))
    return index


def ids(hits):
    return [hit.id for hit in hits]


def put(index, source, *texts, vectors=None, metadata=None):
    whole, passages, at = "\n".join(texts), [], 0
    for text in texts:
        passages.append(Passage(text, at, at + len(text), metadata=metadata or {}))
        at += len(text) + 1
    index.documents.put(source, whole, "hash", passages, vectors)
    return whole


def test_what_is_given_decides(kitchen):
    by_vector = kitchen.search([0, 0, 1], k=1)[0]
    assert (by_vector.id, by_vector.score) == ("car", pytest.approx(1))
    assert (by_vector.word_score, by_vector.fused_score) == (None, None)
    by_words = kitchen.search(text="toaster", k=1)[0]
    assert (by_words.id, by_words.score, by_words.fused_score) == ("toaster", None, None)
    assert 0 < by_words.word_score <= 1
    both = kitchen.search([0, 0, 1], text="toaster", k=2)
    assert set(ids(both)) == {"car", "toaster"}
    assert None not in [both[0].score, both[0].word_score, both[0].fused_score]


def test_a_mode_uses_what_it_needs_of_what_is_given(kitchen):
    both = {"vector": [0, 0, 1], "text": "toaster"}
    assert ids(kitchen.search(**both, mode="words")) == ["toaster"]
    assert ids(kitchen.search(**both, mode="vector", k=1)) == ["car"]
    assert kitchen.search(**both, mode="vector")[0].word_score is None
    [hit] = kitchen.search(**both, mode="words")
    assert hit.score == pytest.approx(0)  # known, and not what it was found by


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({}, "got neither"),
        ({"text": "x", "mode": "vector"}, "needs a vector"),
        ({"text": "x", "mode": "hybrid"}, "needs a vector"),
        ({"vector": [1, 0, 0], "mode": "words"}, "needs a text"),
        ({"vector": [1, 0, 0], "mode": "hybrid"}, "needs a text"),
        ({"text": "x", "mode": "magic"}, "'magic'.*hybrid, vector, words"),
        ({"text": "x", "min_score": 0.5}, "min_score.*needs a vector"),
        ({"vector": [1, 0, 0], "text": "x", "alpha": 1.5}, "alpha is 1.5"),
        ({"text": "x", "k": 0}, "k is 0"),
        ({"text": 5}, "text to search for is 5"),
        ({"vector": [1, 0], "text": "kettle"}, "3 numbers, not 2"),
        ({"vector": [1, 0], "text": "kettle", "mode": "words"}, "3 numbers, not 2"),
    ],
)
def test_what_is_missing_or_wrong_is_said(kitchen, arguments, message):
    with pytest.raises(GemIndexError, match=message):
        kitchen.search(**arguments)


def test_a_batch_gives_what_single_searches_give(kitchen):
    vectors, texts = [[1, 0, 0], [0, 0, 1]], ["bread", "water"]
    for mode in ("hybrid", "words", "vector"):
        together = kitchen.search_batch(vectors, 3, texts=texts, mode=mode)
        alone = [
            kitchen.search(v, 3, text=t, mode=mode) for v, t in zip(vectors, texts, strict=True)
        ]
        assert together == alone
    assert [ids(hits) for hits in kitchen.search_batch(texts=["bread", "cylinders"])] == [
        ["toaster"],
        ["car"],
    ]
    assert kitchen.search_batch(texts=[]) == []
    with pytest.raises(GemIndexError, match="2 vectors and 1 texts"):
        kitchen.search_batch(vectors, texts=["one"])
    with pytest.raises(GemIndexError, match="one string"):
        kitchen.search_batch(texts="bread")


def test_all_scores_are_known_whatever_found_it(index):
    """Of 300 chunks those that words find are far, and those that are near have no word."""
    vectors = np.random.default_rng(0).normal(size=(300, 8))
    index.add([f"filler {n}" for n in range(299)] + ["rare needle"], vectors)
    far = -vectors[299]
    hits = index.search(far, 5, text="needle", alpha=0.2)
    found = {hit.text: hit for hit in hits}
    assert found["rare needle"].score == pytest.approx(-1, abs=1e-5)
    assert found["rare needle"].word_score > 0.3
    for hit in hits:
        assert hit.fused_score is not None
        assert (hit.word_score > 0) == ("needle" in hit.text)
    assert hits == sorted(hits, key=lambda hit: -hit.fused_score)


def test_alpha_goes_from_words_to_vectors(kitchen):
    both = {"vector": [0, 0, 1], "text": "kettle boils"}
    assert ids(kitchen.search(**both, alpha=1))[0] == "car"
    assert ids(kitchen.search(**both, alpha=0))[0] == "kettle"
    assert kitchen.search(**both, alpha=1)[0].fused_score == pytest.approx(1)


@pytest.mark.parametrize("mode", ["hybrid", "vector", "words"])
def test_k_come_whenever_k_match_the_filter(index, mode):
    count = 700
    vectors = np.random.default_rng(1).normal(size=(count, 8))
    index.add(
        [f"common {n}" for n in range(count)],
        vectors,
        [{"rare": n % 70 == 0} for n in range(count)],
    )
    hits = index.search(
        None if mode == "words" else vectors[1],
        10,
        text=None if mode == "vector" else "common",
        where={"rare": True},
    )
    assert len(hits) == 10
    assert all(hit.metadata["rare"] for hit in hits)


def test_min_score_is_a_cosine_in_every_mode(index):
    index.add(
        ["word word word", "word and more", "word once among many others here", "none"],
        [[-1, 0], [0, 1], [1, 0.1], [1, 0]],
        ids=["against", "across", "along", "none"],
    )
    assert set(ids(index.search([1, 0], text="word", min_score=0.5))) == {"along", "none"}
    assert ids(index.search([1, 0], 1, text="word", mode="words", min_score=0.5)) == ["along"]
    assert set(ids(index.search([1, 0], min_score=0.5))) == {"along", "none"}


def test_chunks_without_vectors_are_found_by_words(index):
    index.add(["a plain kettle", "another thing"], None, ids=["kettle", "thing"])
    assert (index.info().vectors, index.info().dim, index.info().count) == (0, None, 2)
    assert index.search([1, 0]) == []
    [hit] = index.search([1, 0], text="kettle")
    assert (hit.id, hit.score) == ("kettle", None)
    index.add(["a vector"], [[1, 0]], ids=["vector"])
    assert set(ids(index.search([1, 0], text="kettle"))) == {"kettle", "vector"}
    assert ids(index.search([1, 0])) == ["vector"]
    assert [record.id for record in index.without_vectors()] == ["kettle", "thing"]
    assert {r.id: r.vector is None for r in index.iterate(vectors=True)} == {
        "kettle": True,
        "thing": True,
        "vector": False,
    }


def test_vectors_that_come_later_are_seen_by_all(tmp_path):
    with GemIndex(tmp_path) as one, GemIndex(tmp_path) as other:
        one.add(["kettle", "toaster"], None, [{"n": 1}, None], ["k", "t"])
        assert other.search([1, 0]) == []
        one.set_vectors(["k", "nobody", "t"], [[1, 0], [1, 1], [0, 1]])
        assert ids(other.search([1, 0], 1)) == ["k"]
        assert ids(other.search(text="kettle")) == ["k"]
        one.set_vectors(["k"], [[0, 1]])
        assert other.search([0, 1], 1, where={"n": 1})[0].score == pytest.approx(1)
        assert other.count() == 2
        with pytest.raises(GemIndexError, match="given twice"):
            one.set_vectors(["k", "k"], [[1, 0], [0, 1]])


def test_words_keep_step_with_every_change(index):
    index.add(["old words", "others"], None, ids=["a", "b"])
    index.upsert(["new words"], None, ids=["a"])
    assert index.search(text="old") == []
    assert ids(index.search(text="new")) == ["a"]
    index.set_vectors(["a"], [[1, 0]])
    assert ids(index.search(text="new")) == ["a"]
    index.delete(["a"])
    assert index.search(text="new words") == []

    def fail():
        with index.transaction():
            index.delete(where={})
            index.add(["never seen"], None)
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    assert index.search(text="never seen") == []
    assert ids(index.search(text="others")) == ["b"]
    index.delete(where={})
    assert index.search(text="others") == []


VOCABULARY = ["kettle", "rover", "C++", "v2.1.3", "京都", "foo_bar", "E10-B", "nul\0cup"]


def change(index, rng):
    """Any change that there is, at random."""
    known = [record.id for record in index]
    some = rng.sample(known, min(2, len(known)))
    text = " ".join(rng.choices(VOCABULARY, k=3))
    source = rng.choice(["one.md", "two.md", "three.md"])
    rng.choice(
        [
            lambda: index.add([text, text], rng.choice([None, [[1, 0], [0, 1]]])),
            lambda: index.upsert([text] * len(some), None, ids=some),
            lambda: index.set_vectors(some, [[1, 1]] * len(some)),
            lambda: index.delete(some),
            lambda: put(index, source, text, text, vectors=rng.choice([None, [[1, 0], [0, 1]]])),
            lambda: index.documents.remove([source]),
        ]
    )()


def test_after_any_changes_words_find_just_what_is_there(tmp_path):
    rng = random.Random(0)
    with GemIndex(tmp_path) as one, GemIndex(tmp_path) as other:
        for step in range(120):
            change(rng.choice([one, other]), rng)
            if step % 10:
                continue
            for word in VOCABULARY:
                found = set(ids(one.search(text=word, k=1000)))
                assert found >= {record.id for record in other if word in record.text}
                wanted = set(asked(word))
                assert found == {r.id for r in other if wanted & set(words(r.text))}


def test_words_of_a_vector_of_another_model_are_refused(tmp_path):
    with GemIndex(tmp_path, fingerprint="ours") as index:
        index.add(["kettle"], [[1, 0]])
        for mode in ("hybrid", "words", "vector"):
            with pytest.raises(GemIndexError, match=r"'ours'.*'theirs'"):
                index.search([1, 0], text="kettle", mode=mode, fingerprint="theirs")
        assert index.search(text="kettle")


def test_a_copy_has_the_words_too(index, tmp_path):
    put(index, "kettle.md", "The kettle.", "Its warranty.", vectors=[[1, 0], [0, 1]])
    index.delete([index.search(text="kettle")[0].id])
    index.add(["a teapot"], None, ids=["teapot"])
    with GemIndex(index.save(tmp_path / "copy")) as copy:
        assert [hit.text for hit in copy.search(text="warranty kettle")] == ["Its warranty."]
        copy.delete(["teapot"])
        assert copy.search(text="teapot") == []
        assert ids(index.search(text="teapot")) == ["teapot"]


def test_two_processes_see_each_others_words(tmp_path):
    with GemIndex(tmp_path) as index:
        index.add(["ours"], None, ids=["ours"])
        code = """
            import sys
            from gem_rag.index import GemIndex
            with GemIndex(sys.argv[1]) as index:
                assert [h.id for h in index.search(text="ours")] == ["ours"]
                index.add(["theirs"], None, ids=["theirs"])
                index.delete(["ours"])
        """
        subprocess.run([sys.executable, "-c", textwrap.dedent(code), tmp_path], check=True)
        assert ids(index.search(text="ours theirs")) == ["theirs"]


def test_a_process_that_dies_leaves_words_and_chunks_in_step(tmp_path):
    code = """
        import os, sys
        from gem_rag.index import GemIndex
        index = GemIndex(sys.argv[1])
        index.add(["kept"], None, ids=["kept"])
        with index.transaction():
            index.delete(["kept"])
            index.add(["lost"], None)
            os._exit(9)
    """
    subprocess.run([sys.executable, "-c", textwrap.dedent(code), tmp_path], check=False)
    with GemIndex(tmp_path) as index:
        assert ids(index.search(text="kept lost")) == ["kept"]


@pytest.mark.parametrize("mode", ["hybrid", "vector", "words"])
def test_twelve_copies_count_once_with_all_their_sources(index, mode):
    copied = "the kettle has a warranty of seven years"
    for n in range(12):
        put(index, f"copy{n}.txt", copied, vectors=[[1, 0.001 * n]], metadata={"old": n < 5})
    other = "a warranty of another kettle, and more about what it can boil and why"
    put(index, "other.txt", other, vectors=[[0.9, 0.4]])
    query = {
        "vector": None if mode == "words" else [1, 0],
        "text": None if mode == "vector" else "kettle warranty",
        "mode": mode,
    }
    assert len({hit.text for hit in index.search(**query, k=3)}) == 1
    first, second = index.search(**query, k=3, distinct=True)
    assert first.text == copied
    assert first.sources == tuple(f"copy{n}.txt" for n in range(12))
    assert first.source in first.sources
    assert (second.source, second.sources) == ("other.txt", ("other.txt",))
    [allowed] = index.search(**query, k=3, distinct=True, where={"old": True})
    assert allowed.sources == tuple(f"copy{n}.txt" for n in range(5))
    [one] = index.search(**query, k=1, distinct=True)
    assert one.text == copied


def test_copies_without_documents_have_no_sources(index):
    index.add(["same", "same", "other"], [[1, 0], [1, 0], [0.9, 0.1]])
    first, second = index.search([1, 0], distinct=True)
    assert (first.text, first.sources, second.text) == ("same", (), "other")


@pytest.mark.parametrize("mode", ["hybrid", "vector", "words"])
def test_mmr_takes_first_what_a_search_of_the_mode_finds_best(kitchen, mode):
    query = {"vector": [0.8, 0.6, 0], "text": "toaster burns water", "mode": mode}
    best = kitchen.search(**query, k=3)
    assert kitchen.mmr(**query, k=1) == best[:1]
    assert kitchen.mmr(**query, k=3, lambda_mult=1) == best


def test_mmr_by_words_alone_does_not_repeat_itself(index):
    index.add(
        ["kettle kettle", "kettle kettle", "kettle and toaster"],
        [[1, 0], [1, 0], [0, 1]],
        ids=["one", "copy", "other"],
    )
    assert ids(index.mmr(text="kettle", k=2, lambda_mult=0.3)) == ["one", "other"]
    index.add(["kettle without a vector"], None, ids=["bare"])
    assert "bare" in ids(index.mmr(text="kettle", k=4))
    assert index.mmr(text="nowhere") == []


def test_many_chunks_without_vectors_do_not_decide_how_vectors_are_searched(monkeypatch):
    monkeypatch.setattr("gem_rag.index.ann.FLAT_LIMIT", 5)
    monkeypatch.setattr("gem_rag.index.ann.IVF_MINIMUM", 6)
    with GemIndex() as index:
        index.add([f"word {n}" for n in range(50)], None)
        index.add(["vector"], [[1, 0]])
        assert ids(index.search([1, 0])) == ids(index.search(text="vector"))
        assert index.info().kind == "flat"


# An SQLite without full-text search


def test_without_fts5_vectors_do_with_one_warning(tmp_path, monkeypatch):
    monkeypatch.setattr(FullText, "is_available", False)
    with GemIndex(tmp_path) as index:
        index.add(["kettle", "toaster"], [[1, 0], [0, 1]], ids=["k", "t"])
        assert not index.info().words
        with pytest.warns(UserWarning, match=r"vectors alone.*FTS5"):
            assert ids(index.search([1, 0], text="toaster")) == ["k", "t"]
        with warnings.catch_warnings(action="error"):  # once is enough
            assert ids(index.search([1, 0], text="toaster", mode="hybrid")) == ["k", "t"]
        with pytest.raises(GemIndexError, match="FTS5"):
            index.search(text="toaster")
        index.upsert(["new kettle"], [[1, 0]], ids=["k"])
        index.delete(["t"])
        assert index.count() == 1


def test_words_come_back_with_fts5(tmp_path, monkeypatch):
    with GemIndex(tmp_path) as index:
        index.add(["kettle", "toaster"], None, ids=["k", "t"])
    with monkeypatch.context() as patched:
        patched.setattr(FullText, "is_available", False)
        with GemIndex(tmp_path) as index:
            index.delete(["k"])
            index.add(["teapot"], None, ids=["p"])
    with GemIndex(tmp_path) as index:
        with pytest.raises(GemIndexError, match="next change"):
            index.search(text="teapot")
        index.add(["cup"], None, ids=["c"])
        assert ids(index.search(text="teapot")) == ["p"]
        assert ids(index.search(text="toaster cup kettle")) == ["t", "c"]
        assert index.info().words
