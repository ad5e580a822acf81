"""Ingest, retrieve, rank, answer, on a tiny model whose likelihoods mean little: mechanics only."""

import asyncio
import datetime as dt
import json
import os
from dataclasses import replace
from pathlib import Path

import pytest
from tiny import TEXTS, make_base

from gem_rag.cli.chat import Chat
from gem_rag.cli.screens import screen_for
from gem_rag.documents import Document, load_file
from gem_rag.errors import GemError
from gem_rag.index import GemIndex
from gem_rag.model import create
from gem_rag.rag import EMPTY_INDEX, NOTHING_FOUND, GemRAG, in_context


@pytest.fixture
def docs(tmp_path):
    folder = tmp_path / "docs"
    folder.mkdir()
    (folder / "kettle.md").write_text("# Kettle\n\nThe kettle has a warranty of seven years.\n")
    (folder / "rivers.txt").write_text("Rivers run to the sea. " * 30)
    return folder


@pytest.fixture
def rag(gem):
    return GemRAG(gem, threshold=None, chunk_tokens=40)


def test_an_index_opened_by_hand_becomes_the_models(gem, docs, tmp_path):
    with GemIndex(tmp_path / "index") as index:
        GemRAG(gem, index, threshold=None).add(docs)
    with GemIndex(tmp_path / "index") as index:
        assert GemRAG(gem, index, threshold=None).retrieve("kettle")
        assert index.info().fingerprint == gem.fingerprint


def test_metadata_that_cannot_be_stored_skips_its_document_alone(rag):
    day = Document("Bought on a Monday.", "bill.txt", {"lasts": dt.timedelta(days=1)})
    mixed = Document("Bought on a Monday.", "mixed.txt", {1: "a", "b": "c"})
    report = rag.add([day, mixed, Document("Rivers run to the sea.", "river.txt")])
    assert report.added == ["river.txt"]
    assert [name for name, _ in report.skipped] == ["bill.txt", "mixed.txt"]
    assert "JSON" in report.skipped[0][1]
    assert [c.source for c in rag.retrieve("Monday")] == ["river.txt"]


def test_add_indexes_files_with_their_places(rag, docs):
    report = rag.add(docs)
    assert len(report.added) == 2
    assert report.chunks == rag.index.count() > 3
    for citation in rag.retrieve("kettle", k=20):
        text = Path(citation.source).read_text(encoding="utf-8")
        assert text[citation.start : citation.end] == citation.text
    kettle = next(c for c in rag.retrieve("kettle", k=20) if c.source.endswith("kettle.md"))
    assert kettle.heading == "Kettle"


def test_unchanged_files_are_not_read_again_changed_ones_replaced(rag, docs, monkeypatch):
    rag.add(docs)
    embedded = []
    embed = rag.store.embed
    monkeypatch.setattr(
        rag.store, "embed", lambda texts, *rest: embedded.extend(texts) or embed(texts, *rest)
    )
    assert len(rag.add(docs).unchanged) == 2
    assert embedded == []
    (docs / "kettle.md").write_text("The kettle has no warranty.")
    report = rag.add(docs)
    assert [len(report.replaced), len(report.unchanged)] == [1, 1]
    texts = [c.text for c in rag.retrieve("kettle", k=50)]
    assert "The kettle has no warranty." in texts
    assert not any("seven" in t for t in texts)


def test_removed_files_are_dropped_on_request(rag, docs):
    rag.add(docs)
    (docs / "kettle.md").unlink()
    assert rag.add(docs).removed == []
    assert any("kettle" in c.source for c in rag.retrieve("kettle", k=50))
    report = rag.add(docs, remove_missing=True)
    assert [r.endswith("kettle.md") for r in report.removed] == [True]
    assert not any("kettle" in c.source for c in rag.retrieve("kettle", k=50))
    assert rag.add(docs, remove_missing=True).removed == []


def test_one_bad_file_is_reported_and_the_rest_indexed(rag, docs):
    (docs / "bad.txt").write_bytes(bytes(range(256)))
    report = rag.add(docs)
    assert [s.endswith("bad.txt") for s, _ in report.skipped] == [True]
    assert len(report.added) == 2


def test_a_file_that_may_not_be_read_is_skipped(rag, docs, monkeypatch):
    import gem_rag.rag.ingest.plan as module

    def refuse(path):
        if path.name == "kettle.md":
            raise PermissionError(13, "Permission denied", str(path))
        return load_file(path)

    monkeypatch.setattr(module, "load_file", refuse)
    report = rag.add(docs)
    assert len(report.added) == 1
    ((source, reason),) = report.skipped
    assert source.endswith("kettle.md")
    assert "Permission denied" in reason
    with pytest.raises(GemError, match="question is empty"):
        rag.answer(" ")


def test_documents_and_metadata_filters(rag):
    rag.add([Document(t, f"doc{i}", {"year": 2000 + i}) for i, t in enumerate(TEXTS) if t])
    found = rag.retrieve("kettle", where={"year": {"$gte": 2003}})
    assert {c.source for c in found} == {"doc3", "doc4"}
    assert rag.add(Document(TEXTS[0], "doc0", {"year": 2000})).unchanged == ["doc0"]
    assert rag.add(Document(TEXTS[0], "doc0", {"year": 1})).replaced == ["doc0"]
    assert {c.source for c in rag.retrieve("sea", where={"year": 1})} == {"doc0"}


def test_documents_of_one_source_make_it_up_together(rag, monkeypatch):
    monkeypatch.setattr("gem_rag.rag.ingest.write.COMMIT_CHUNKS", 2)
    pages = [f"Page {i} tells of kettle number {i}." for i in range(7)]
    report = rag.add(Document(page, "manual.pdf") for page in pages)  # any iterable
    assert (report.added, report.chunks) == (["manual.pdf"], 7)
    assert {r.text for r in rag.index} == set(pages)
    assert rag.add([Document(page, "manual.pdf") for page in pages]).unchanged == ["manual.pdf"]
    rag.add([Document(page, "manual.pdf") for page in pages[:3]])
    assert {r.text for r in rag.index} == set(pages[:3])


def test_what_is_no_unicode_is_skipped_and_the_rest_is_indexed(rag, tmp_path):
    odd = os.fsdecode(bytes(tmp_path) + b"/caf\xe9.txt")
    try:
        Path(odd).write_text("A file whose name is in another encoding.")
    except OSError:
        pytest.skip("this file system takes Unicode names only")
    report = rag.add([Document("broken \ud800 text", "broken"), Document("Fine.", "fine"), odd])
    assert [name for name, _ in report.skipped] == ["broken"]
    assert report.added == ["fine", str(tmp_path / "caf\\udce9.txt")]
    assert json.dumps(report.added, ensure_ascii=False).encode()


def test_only_files_that_are_gone_are_removed(rag, docs, monkeypatch):
    hidden = docs / ".notes"
    hidden.write_text("A hidden file that was named.")
    rag.add([hidden, docs])
    next(docs.glob("*.md")).unlink()
    monkeypatch.setenv("HOME", str(docs.parent))
    report = rag.add(f"~/{docs.name}", remove_missing=True)
    assert len(report.removed) == 1
    assert report.removed[0].endswith(".md")


def test_ranking_orders_by_rank_score_and_can_be_left_out(rag, docs):
    rag.add(docs)
    ranked = rag.retrieve("Who wrote it?")
    assert [c.rank_score for c in ranked] == sorted((c.rank_score for c in ranked), reverse=True)
    plain = rag.retrieve("Who wrote it?", rank=False)
    assert all(c.rank_score is None for c in plain)
    assert [c.score for c in plain] == sorted((c.score for c in plain), reverse=True)
    assert len(rag.retrieve("Who?", k=2)) == 2


def test_an_answer_cites_what_it_was_generated_after(rag, docs, gem):
    rag.add(docs)
    answer = rag.answer("Who wrote it?", max_new_tokens=8)
    assert len(answer.citations) == 1
    assert answer.usage.cached_tokens > 0
    assert set(answer.timings) == {"retrieve", "rank", "first_token", "generate", "total"}
    reading = gem.read([answer.citations[0].text])[0]
    assert answer.usage.cached_tokens == len(reading)
    stream = rag.stream("Who wrote it?", max_new_tokens=8)
    assert stream.citations == answer.citations
    assert "".join(stream).strip() == answer.answer == stream.answer.answer


@pytest.mark.parametrize("join", [False, True])
def test_several_passages_together_or_joined(gem, docs, join):
    (docs / "horse.txt").write_text("A young child is riding a grey horse!")
    rag = GemRAG(gem, threshold=None, chunk_tokens=30, context=3, join_readings=join)
    rag.add(docs)
    answer = rag.answer("Who wrote it?", max_new_tokens=4)
    assert len(answer.citations) == 3
    assert (answer.usage.cached_tokens > 0) == join


def test_nothing_relevant_is_said_not_invented(gem, docs):
    rag = GemRAG(gem, threshold=1e9)
    assert rag.answer("Who?").answer == EMPTY_INDEX
    rag.add(docs)
    answer = rag.answer("Who?")
    assert (answer.answer, answer.citations, answer.finish_reason) == (
        NOTHING_FOUND,
        [],
        "nothing_found",
    )
    assert "".join(rag.stream("Who?")) == NOTHING_FOUND


def test_a_follow_up_is_retrieved_in_the_light_of_the_history(rag, docs):
    history = [
        {"role": "user", "content": "Tell me of the kettle."},
        {"role": "assistant", "content": "It boils."},
    ]
    assert in_context("How long?", history) == "Tell me of the kettle. How long?"
    assert in_context("How long?", []) == "How long?"
    rag.add(docs)
    chat = rag.chat("How long?", history[:1], max_new_tokens=4)  # nothing was answered
    alone = rag.answer("Tell me of the kettle. How long?", max_new_tokens=4)
    assert chat.citations == alone.citations


def test_an_index_on_disk_keeps_readings_and_hashes(gem, docs, tmp_path):
    with GemIndex(tmp_path / "index", fingerprint=gem.fingerprint, dim=gem.dim) as index:
        GemRAG(gem, index, threshold=None).add(docs)
    with GemIndex(tmp_path / "index") as index:
        rag = GemRAG(gem, index, threshold=None)
        assert len(rag.add(docs).unchanged) == 2
        assert rag.store.info().on_disk > 0
        assert rag.answer("Who?", max_new_tokens=2).citations


def test_another_models_index_is_refused(gem, docs, tmp_path):
    index = GemIndex(tmp_path / "index", fingerprint="somebody-else", dim=gem.dim)
    with index, pytest.raises(GemError, match="somebody-el"):
        GemRAG(gem, index)


def test_scope_embedding_answers_by_reading_afresh(docs, tmp_path):
    model = create(make_base(tmp_path / "base"), adapter_scope="embedding")
    rag = GemRAG(model, threshold=None)
    rag.add(docs)
    answer = rag.answer("Who?", max_new_tokens=2)
    assert answer.usage.cached_tokens == 0
    assert answer.citations


async def test_async_twins(rag, docs):
    assert (await rag.aadd(docs)).added
    assert await rag.aretrieve("Who?", k=1)
    assert (await rag.aanswer("Who?", max_new_tokens=2)).citations
    history = [{"role": "user", "content": "Where?"}]
    chatted = await rag.achat("Who?", history, max_new_tokens=2)
    assert chatted.answer == rag.chat("Who?", history, max_new_tokens=2).answer


async def test_an_awaited_answer_comes_in_the_same_pieces(rag, docs):
    rag.add(docs)
    stream = rag.astream("Who?", max_new_tokens=4)
    pieces = [piece async for piece in stream]
    assert pieces == list(rag.stream("Who?", max_new_tokens=4))
    assert stream.citations == stream.answer.citations != []


async def test_leaving_an_awaited_answer_stops_it(rag, docs):
    rag.add(docs)
    stream = rag.astream("Who?", max_new_tokens=200)
    async for _ in stream:
        break
    stream.close()
    assert stream.answer.usage.completion_tokens < 200


def test_an_interrupted_ingest_leaves_whole_sources(gem, docs, monkeypatch):
    import gem_rag.rag.ingest.write as module

    monkeypatch.setattr(module, "COMMIT_CHUNKS", 1)
    rag = GemRAG(gem, threshold=None)
    commit = module.Ingest._commit

    def interrupted(self, pending, report, advance):
        if report.chunks:
            raise KeyboardInterrupt
        commit(self, pending, report, advance)

    monkeypatch.setattr(module.Ingest, "_commit", interrupted)
    with pytest.raises(KeyboardInterrupt):
        rag.add(docs)
    monkeypatch.setattr(module.Ingest, "_commit", commit)
    report = rag.add(docs)
    assert [len(report.unchanged), len(report.added)] == [1, 1]


@pytest.mark.parametrize("threshold", [None, 1e9])
async def test_awaited_answers_are_the_same(gem, docs, threshold):
    def timeless(answer):
        return replace(answer, timings=dict.fromkeys(answer.timings))

    rag = GemRAG(gem, threshold=threshold, chunk_tokens=40)
    rag.add(docs)
    options = {"max_new_tokens": 6, "rank": True, "temperature": 1.0, "seed": 2, "stop": "q"}
    history = [{"role": "user", "content": "Where is the kettle?"}]
    where = {"heading": "Kettle"}
    awaited = await rag.aanswer("Who?", where=where, **options)
    assert timeless(awaited) == timeless(rag.answer("Who?", where=where, **options))
    chatted = await rag.achat("Who?", history, **options)
    assert timeless(chatted) == timeless(rag.chat("Who?", history, **options))
    with pytest.raises(GemError, match="question is empty"):
        await rag.aanswer(" ")


async def test_cancelling_an_awaited_answer_stops_it(rag, docs):
    rag.add(docs)
    tokens = 0

    def count(_, logits):
        nonlocal tokens
        tokens += 1
        return logits

    for call in (rag.aanswer, rag.achat):
        tokens = 0
        task = asyncio.create_task(call("Who?", max_new_tokens=800, logits_hook=count))
        while tokens < 3:
            await asyncio.sleep(0.001)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await asyncio.sleep(0.1)  # a token under way ends
        after = tokens
        await asyncio.sleep(0.1)
        assert tokens == after < 800


def test_history_of_any_form_is_taken_as_words():
    parts = [{"type": "text", "text": "Tell me of the kettle."}]
    history = [{"role": "user", "content": parts}, {"role": "user"}]
    assert in_context("How long?", history) == "Tell me of the kettle. How long?"
    assert in_context("How long?", [{"role": "user", "content": None}]) == "How long?"


@pytest.mark.filterwarnings("ignore::gem_rag.errors.TruncationWarning")
def test_a_conversation_outlives_a_question_that_fails(rag, docs, capsys):
    rag.add(docs)
    long = "sea " * 2000
    plain = Chat(rag, screen_for(as_json=False), max_new_tokens=3)
    plain.take(long)
    assert capsys.readouterr().err.startswith("error: ")
    machine = Chat(rag, screen_for(as_json=True), max_new_tokens=3)
    machine.take(long)
    assert "room" in json.loads(capsys.readouterr().out)["error"]
    for chat in (plain, machine):
        chat.take("Who?")
        assert capsys.readouterr().out.strip()
