"""Processes that fork with a model loaded: each script really forks, and may not hang."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap

import pytest

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="this system does not fork")

START = """
import faulthandler, os, signal, sys
faulthandler.register(signal.SIGALRM, chain=True)
import torch
from gem_rag import ChatGem, GemEmbeddings, GemIndex, GemModel, GemRetriever, GemVectorStore
from gem_rag.errors import GemError
folder, scratch = sys.argv[1:]
model = GemModel.from_pretrained(folder)
chat, embeddings = ChatGem(model, max_tokens=6), GemEmbeddings(model)
texts = [f"The kettle of year {i} has a warranty of seven years. " * 8 for i in range(8)]

def in_child(use):
    pid = os.fork()
    if pid == 0:
        try:
            signal.alarm(30)  # shows where it hangs, and ends it
            use()
            os._exit(0)
        except BaseException as error:
            print(type(error).__name__, error, file=sys.stderr, flush=True)
            os._exit(1)
    assert os.waitpid(pid, 0)[1] == 0

def same(use):
    expected = use()
    def check():
        assert use() == expected, (use(), expected)
    return check
"""


def run(script, gem, tmp_path):
    """Run a script that forks; what it and its children said."""
    folder = gem.save_pretrained(tmp_path / "checkpoint")
    done = subprocess.run(
        [sys.executable, "-c", START + textwrap.dedent(script), str(folder), str(tmp_path)],
        capture_output=True,
        text=True,
        timeout=100,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


def test_a_child_of_a_parent_that_only_loaded_answers_and_ends_what_it_cannot_go_on_with(
    gem, tmp_path
):
    script = """
    torch.set_num_threads(2)
    def use():
        assert chat.invoke("Who?").text is not None
        assert len(embeddings.embed_documents(texts)) == 8
    in_child(use)
    use()

    # What is being generated meanwhile fails in the child, and goes on in the parent.
    stream = model.stream("Who?", max_new_tokens=60)
    first, future = next(stream), model.submit("Which?", max_new_tokens=60)
    def go_on():
        try:
            list(stream)
        except GemError as error:
            assert "forked" in str(error)
        else:
            raise AssertionError("it came to an end")
    in_child(go_on)
    assert first + "".join(stream) == model.generate("Who?", max_new_tokens=60).text
    assert future.result().text
    """
    run(script, gem, tmp_path)


def test_children_compute_what_their_parent_did_before_with_several_threads(gem, tmp_path):
    script = """
    import asyncio, faiss, multiprocessing, numpy
    torch.set_num_threads(2)
    vectors = numpy.random.default_rng(0).random((20000, 32), dtype=numpy.float32)
    index = faiss.IndexFlatIP(32)
    index.add(vectors)
    def answers():
        return (
            chat.invoke("Who?").text,
            [a.text for a in chat.batch(["Who?", "Which?"])],
            "".join(c.text for c in chat.stream("Who?")),
            asyncio.run(chat.ainvoke("Which?")).text,
            [r.index for r in model.rank("How long?", texts[:3])],
        )
    def by_this_thread():  # whose OpenMP threads stay in the parent
        a = torch.ones(700, 700)
        return float((a @ a).sum()), index.search(vectors[:64], 3)[1].tolist()
    checks = same(answers), same(by_this_thread)
    def use():
        for check in checks:
            check()
        seen = []
        look = lambda ids, logits: seen.append(torch.get_num_threads()) or logits
        model.generate("Who?", logits_hook=look, max_new_tokens=1)
        assert seen == [2], seen  # as fast as the parent
    in_child(use)
    in_child(lambda: in_child(use))  # and a child's own children
    def asked_for_less():
        torch.set_num_threads(1)
        seen = []
        look = lambda ids, logits: seen.append(torch.get_num_threads()) or logits
        model.generate("Who?", logits_hook=look, max_new_tokens=1)
        assert seen == [1], seen
    in_child(asked_for_less)
    with multiprocessing.get_context("fork").Pool(2) as pool:
        for found in pool.map(embeddings.embed_query, ["Who?"] * 4):
            assert found == embeddings.embed_query("Who?")
    use()
    """
    run(script, gem, tmp_path)


def test_children_are_forked_while_others_are_answered(gem, tmp_path):
    script = """
    import threading
    stop = threading.Event()
    store = GemVectorStore.from_texts(texts, embeddings, path=scratch + "/index")
    def work():
        while not stop.is_set():
            chat.invoke("Who? " * 20)
            store.similarity_search("warranty", k=2)
    chat.invoke("Who?"), store.similarity_search("warranty")  # everything is imported
    threads = [threading.Thread(target=work, daemon=True) for _ in range(3)]
    for thread in threads:
        thread.start()
    for _ in range(4):
        in_child(lambda: (chat.invoke("Which?"), store.similarity_search("kettle", k=2)))
    stop.set()
    for thread in threads:
        thread.join()
    """
    run(script, gem, tmp_path)


def test_an_index_on_disk_is_shared_and_one_in_memory_is_the_childs_own(gem, tmp_path):
    script = """
    store = GemVectorStore.from_texts(
        texts, embeddings, ids=list("abcdefgh"), path=scratch + "/index"
    )
    retriever = GemRetriever(vectorstore=store, k=2)
    check = same(lambda: [d.id for d in retriever.invoke("How long is the warranty?")])
    def use():
        check()
        store.add_texts(["written by the child"], ids=["child"])
        store.delete(["a"])
    in_child(use)
    assert [d.page_content for d in store.get_by_ids(["child"])] == ["written by the child"]
    assert not store.get_by_ids(["a"])
    store.add_texts(["written by the parent"], ids=["parent"])
    in_child(lambda: len(store.get_by_ids(["child", "parent"])) == 2 or 1 / 0)

    # What a child has open is safe while its parent closes: no lock is only believed in.
    ready, go_on = os.pipe(), os.pipe()
    pid = os.fork()
    if pid == 0:
        signal.alarm(30)
        assert store.get_by_ids(["child"])
        os.write(ready[1], b"x")
        os.read(go_on[0], 1)
        store.add_texts(["written when the parent had closed"], ids=["late"])
        os._exit(0)
    os.read(ready[0], 1)
    store.index.close()
    assert GemIndex(scratch + "/index").count() == 9
    os.write(go_on[1], b"x")
    assert os.waitpid(pid, 0)[1] == 0
    assert GemIndex(scratch + "/index").get(["late"])

    held = GemVectorStore.from_texts(texts, embeddings)
    check = same(lambda: [d.id for d in held.similarity_search("warranty", k=3)])
    def empty():
        check()
        held.delete()
        assert held.index.count() == 0
    in_child(empty)
    check()
    """
    run(script, gem, tmp_path)
