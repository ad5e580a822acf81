"""The server as its page sees it."""

import json
import time
from dataclasses import fields

import pytest

pytest.importorskip("fastapi")

from serving import events, running, settings_for, until

from gem_rag.rag.citation import Citation

KETTLE = "# Kettle\n\nThe kettle has a warranty of seven years.\n"


@pytest.fixture
def notes(tmp_path):
    folder = tmp_path / "notes"
    folder.mkdir()
    (folder / "kettle.md").write_text(KETTLE)
    return folder


@pytest.fixture
def settings(tmp_path, tiny_checkpoint, notes):
    return settings_for(tmp_path / "home", tiny_checkpoint, paths=[notes])


@pytest.fixture
def server(settings):
    with running(settings) as found:
        found.all_ready(1)
        yield found


# Asking


def test_an_answer_comes_as_sources_then_words_then_all_that_is_known(server, notes):
    (sources, *tokens, done) = server.ask("How long is the warranty?")
    assert (sources[0], done[0], {name for name, _ in tokens}) == ("sources", "done", {"token"})
    (cited,) = sources[1]
    assert {field.name for field in fields(Citation)} <= cited.keys()
    assert cited["source"] == str(notes / "kettle.md")
    assert KETTLE[cited["start"] : cited["end"]] == cited["text"]
    assert "".join(data["text"] for _, data in tokens).strip() == done[1]["answer"]
    (again,) = done[1]["citations"]  # what carries the answer is known when it is whole
    known = cited.keys() - {"quote", "quote_start", "quote_end"}
    assert {name: again[name] for name in known} == {name: cited[name] for name in known}
    assert done[1]["finish_reason"] == "length"
    assert done[1]["usage"]["completion_tokens"] == 8
    assert {"retrieve", "rank", "first_token", "generate", "total"} == done[1]["timings"].keys()
    assert {"quote_start", "quote_end", "document", "name"} <= cited.keys()


def test_where_nothing_is_relevant_no_source_is_named(server):
    events = server.ask("How long is the warranty?", threshold=99.0)
    assert events[0] == ("sources", [])
    assert (events[-1][1]["finish_reason"], events[-1][1]["citations"]) == ("nothing_found", [])


def test_what_is_asked_is_honoured(server, notes):
    (notes / "rivers.txt").write_text("Rivers run to the sea.\n")
    server.all_ready(2)
    rivers = str(notes / "rivers.txt")
    asked = server.ask("kettle", where={"$source": rivers}, mode="words", rank=False, k=3)
    assert [one["source"] for one in asked[0][1]] in ([rivers], [])
    both = server.ask("kettle and rivers", context=2, max_tokens=2)
    assert {one["name"] for one in both[0][1]} == {"kettle.md", "rivers.txt"}
    drawn = [server.ask("kettle", temperature=1.5, seed=s)[-1][1]["answer"] for s in (1, 1, 2)]
    assert drawn[0] == drawn[1] != drawn[2]


@pytest.mark.parametrize(
    ("wrong", "param"),
    [
        ({"question": ""}, "question"),
        ({"question": "  "}, "question"),
        ({"mode": "telepathy"}, "mode"),
        ({"context": 0}, "context"),
        ({"colour": "red"}, "colour"),
        ({"history": [{"role": "user", "content": "a"}], "conversation": "c_1"}, "history"),
        ({"replaces": "m_1"}, "replaces"),
    ],
)
def test_what_is_wrong_with_a_question_is_said_by_name(server, wrong, param):
    answer = server.http.post("/api/ask", json={"question": "Who?", **wrong})
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, param)


def test_a_filter_that_is_none_and_a_conversation_that_is_not_there(server):
    answer = server.http.post("/api/ask", json={"question": "a", "where": {"$start": 1}})
    assert (answer.status_code, "$source" in answer.json()["error"]["message"]) == (400, True)
    answer = server.http.post("/api/ask", json={"question": "a", "conversation": "c_0"})
    assert (answer.status_code, answer.json()["error"]["code"]) == (404, "not_found")


def test_search_finds_without_answering(server, notes):
    found = server.http.post("/api/search", json={"question": "warranty", "k": 1}).json()
    assert [one["name"] for one in found["citations"]] == ["kettle.md"]
    assert found["timings"]["total"] > 0


# Documents


def test_uploads_are_indexed_shown_and_deleted(server, settings):
    answer = server.upload(
        ("trips/rivers.txt", b"Rivers run to the sea.\n"), ("sound.mp3", b"noise")
    )
    assert answer.status_code == 202
    (taken,) = answer.json()["documents"]
    (refused,) = answer.json()["refused"]
    assert (taken["name"], taken["folder"], refused["name"]) == (
        "trips/rivers.txt",
        None,
        "sound.mp3",
    )
    server.all_ready(2)
    one = server.http.get(f"/api/documents/{taken['id']}").json()
    assert (one["text"], one["state"], one["chunks"]) == ("Rivers run to the sea.\n", "ready", 1)
    (passage,) = one["passages"]
    assert one["text"][passage["start"] : passage["end"]] == "Rivers run to the sea."
    file = settings.uploads / "trips" / "rivers.txt"
    assert file.read_text() == "Rivers run to the sea.\n"
    server.upload(("trips/rivers.txt", b"Rivers run to the lake.\n"))
    address = f"/api/documents/{taken['id']}"
    until(lambda: "lake" in (server.http.get(address).json()["text"] or ""))
    assert server.http.delete(address).status_code == 204
    assert [d["name"] for d in server.documents()] == ["kettle.md"]
    assert (file.exists(), file.parent.exists()) == (False, False)
    assert server.http.get(address).status_code == 404
    assert "rivers" not in json.dumps(server.ask("Where do rivers run?")[0][1]).lower()


def test_a_file_that_cannot_be_read_is_failed_with_its_reason(server):
    server.upload(("broken.pdf", b"this is no PDF"))
    (failed,) = until(lambda: server.documents(state="failed"))
    assert failed["name"] == "broken.pdf"
    assert failed["error"].startswith("cannot be read as .pdf")
    again = server.http.post("/api/documents/reindex", json={"failed": True})
    assert (again.status_code, again.json()) == (202, {"queued": 1})
    until(lambda: server.documents(state="failed"))
    assert server.http.delete(f"/api/documents/{failed['id']}").status_code == 204
    assert server.documents(state="failed") == []


def test_documents_are_found_by_name_a_page_at_a_time(server):
    server.upload(*((f"{number}.txt", b"Words.") for number in range(5)))
    server.all_ready(6)
    answer = server.http.get("/api/documents", params={"q": ".TXT", "offset": 2, "limit": 2})
    assert [one["name"] for one in answer.json()] == ["2.txt", "3.txt"]
    assert answer.headers["x-total-count"] == "5"


def test_a_document_of_a_folder_is_left_out_until_it_is_indexed_again(server, settings, notes):
    (document,) = server.documents()
    assert server.http.delete(f"/api/documents/{document['id']}").status_code == 204
    (notes / "kettle.md").write_text(KETTLE + "More.\n")
    (notes / "other.txt").write_text("Words.\n")
    until(lambda: [d["name"] for d in server.documents()] == ["other.txt"])
    server.end()
    with running(settings) as again:
        assert [d["name"] for d in again.all_ready(1)] == ["other.txt"]
        until(lambda: [f["state"] for f in again.http.get("/api/folders").json()] == ["watching"])
        assert [d["name"] for d in again.documents()] == ["other.txt"]
    assert (notes / "kettle.md").exists()


def test_a_document_is_indexed_again_on_request(server):
    (document,) = server.documents()
    answer = server.http.post(f"/api/documents/{document['id']}/reindex")
    assert (answer.status_code, answer.json()["name"]) == (202, "kettle.md")
    server.all_ready(1)
    assert server.http.post("/api/documents/reindex", json={}).json() == {"queued": 1}
    server.all_ready(1)


# Folders


def test_folders_are_followed_added_and_removed(server, settings, notes, tmp_path):
    more = tmp_path / "more"
    (more / "deep").mkdir(parents=True)
    (more / "deep" / "a.txt").write_text("Ants are small.\n")
    answer = server.http.post("/api/folders", json={"path": str(more)})
    assert (answer.status_code, answer.json()["path"]) == (201, str(more))
    names = {d["name"]: d["folder"] for d in server.all_ready(2)}
    assert names["deep/a.txt"] == answer.json()["id"]
    (notes / "kettle.md").rename(notes / "teapot.md")
    (more / "b.txt").write_text("Bees are busy.\n")
    until(lambda: {d["name"] for d in server.documents()} == {"teapot.md", "deep/a.txt", "b.txt"})
    (more / "deep" / "a.txt").unlink()
    until(lambda: {d["name"] for d in server.documents()} == {"teapot.md", "b.txt"})
    server.all_ready(2)
    server.end()
    with running(settings) as again:  # what was added over HTTP is remembered
        shown = {f["path"]: f["documents"] for f in again.http.get("/api/folders").json()}
        assert shown == {str(notes): 1, str(more): 1}
        (more / "b.txt").write_text("Bees are lazy.\n")
        (bees,) = again.documents(q="b.txt")
        address = f"/api/documents/{bees['id']}"
        until(lambda: "lazy" in (again.http.get(address).json()["text"] or ""))
        folder = f"/api/folders/{answer.json()['id']}"
        assert again.http.delete(folder).status_code == 204
        assert [d["name"] for d in again.documents()] == ["teapot.md"]
        assert again.http.delete(folder).status_code == 404
    assert (more / "b.txt").exists()


def test_a_folder_that_is_away_keeps_its_documents(server, notes):
    notes.rename(notes.with_name("elsewhere"))
    until(lambda: [f["state"] for f in server.http.get("/api/folders").json()] == ["away"])
    assert [d["name"] for d in server.documents()] == ["kettle.md"]
    notes.with_name("elsewhere").rename(notes)
    until(lambda: [f["state"] for f in server.http.get("/api/folders").json()] == ["watching"])


def test_a_folder_may_be_given_up_and_its_documents_kept(server):
    (folder,) = server.http.get("/api/folders").json()
    server.http.delete(f"/api/folders/{folder['id']}", params={"keep": True})
    assert server.http.get("/api/folders").json() == []
    assert [d["folder"] for d in server.documents()] == [None]


# Conversations


def test_a_conversation_keeps_questions_and_answers(server, settings):
    new = server.http.post("/api/conversations", json={}).json()
    done = server.ask("How long is the warranty?", conversation=new["id"])[-1][1]
    server.ask("And of the lid?", conversation=new["id"])
    kept = server.http.get(f"/api/conversations/{new['id']}").json()
    assert kept["title"] == "How long is the warranty?"
    assert [m["role"] for m in kept["messages"]] == ["user", "assistant"] * 2
    first = kept["messages"][1]
    assert (first["id"], first["content"]) == (done["answer_id"], done["answer"])
    assert (first["finish_reason"], first["citations"]) == ("length", done["citations"])
    listed = server.http.get("/api/conversations", params={"q": "LID"})
    assert [(c["id"], c["count"]) for c in listed.json()] == [(new["id"], 4)]
    assert listed.headers["x-total-count"] == "1"
    assert server.http.get("/api/conversations", params={"q": "%"}).json() == []
    server.end()
    with running(settings) as again:
        assert again.http.get(f"/api/conversations/{new['id']}").json() == kept
        address = f"/api/conversations/{new['id']}"
        renamed = again.http.patch(address, json={"title": "Warranties"}).json()
        assert renamed["title"] == "Warranties"
        assert again.http.delete(address).status_code == 204
        assert again.http.get(address).status_code == 404
        assert again.http.get("/api/conversations").json() == []


def test_a_follow_up_is_asked_in_the_light_of_the_conversation(server, monkeypatch):
    seen = []
    rag = type(server.service.loaded.rag)
    stream = rag.stream

    def noting(self, question, *, history=(), **options):
        seen.append([said["content"] for said in history])
        return stream(self, question, history=history, **options)

    monkeypatch.setattr(rag, "stream", noting)
    new = server.http.post("/api/conversations", json={"title": "T"}).json()["id"]
    answer = server.ask("How long is the warranty?", conversation=new)[-1][1]
    server.ask("And of the lid?", conversation=new)
    server.ask("Of the pot?", conversation=new, replaces=answer["question_id"])
    first = ["How long is the warranty?", answer["answer"]]
    assert seen == [[], first, []]
    kept = server.http.get(f"/api/conversations/{new}").json()["messages"]
    assert [m["content"] for m in kept if m["role"] == "user"] == ["Of the pot?"]


def test_a_question_that_cannot_be_asked_is_not_kept(server):
    new = server.http.post("/api/conversations", json={}).json()["id"]
    body = {"question": "Who?", "conversation": new, "where": {"$start": 1}}
    assert server.http.post("/api/ask", json=body).status_code == 400
    assert server.http.get(f"/api/conversations/{new}").json()["messages"] == []


def test_a_conversation_is_given_out_as_a_file(server):
    new = server.http.post("/api/conversations", json={}).json()["id"]
    answer = server.ask("How long\nis the warranty?", conversation=new)[-1][1]["answer"]
    address = f"/api/conversations/{new}/export"
    markdown = server.http.get(address)
    assert markdown.text.startswith(
        f"# How long is the warranty?\n\n## How long is the warranty?\n\n{answer}\n\n1. kettle.md"
    )
    assert "attachment" in markdown.headers["content-disposition"]
    assert markdown.headers["content-type"].startswith("text/markdown")
    as_json = server.http.get(address, params={"format": "json"}).json()
    assert as_json["messages"][1]["content"] == answer


def test_a_conversation_that_is_left_in_the_middle_keeps_what_came(server):
    new = server.http.post("/api/conversations", json={}).json()["id"]
    body = {"question": "Who?", "threshold": None, "max_tokens": 900, "conversation": new}
    with server.http.stream("POST", "/api/ask", json=body) as response:
        lines = response.iter_lines()
        assert [name for name, _ in (next(events(lines)) for _ in range(3))] == [
            "sources",
            "token",
            "token",
        ]

    def kept():
        message = server.http.get(f"/api/conversations/{new}").json()["messages"][1]
        return message if message["finish_reason"] == "cancelled" else None

    assert until(kept)["content"]


# What is going on


def test_events_say_what_is_being_indexed(server, notes):
    seen = []
    with server.http.stream("GET", "/api/events") as response:
        for name, data in events(response.iter_lines()):
            seen.append((name, data))
            if {"state", "indexing", "documents", "folders"} == {kind for kind, _ in seen}:
                break
        assert response.headers["cache-control"] == "no-store, no-transform"
    last = dict(seen)
    assert last["state"] == {"state": "ready"}
    assert last["documents"] == {"ready": 1, "queued": 0, "failed": 0}
    assert {"state", "done", "total", "failed", "seconds_left", "current"} == last[
        "indexing"
    ].keys()
    with server.http.stream("GET", "/api/events") as response:
        (notes / "new.txt").write_text("Words.\n")
        states = []
        for name, data in events(response.iter_lines()):
            if name == "indexing":
                states.append(data["state"])
            if states[-2:] == ["indexing", "idle"]:
                break


def test_settings_say_what_there_is(server, settings):
    said = server.http.get("/api/settings").json()
    assert (said["key_needed"], said["state"], said["model"]["name"]) == (False, "ready", "tiny")
    assert said["defaults"] == {
        "k": 16,
        "context": 1,
        "mode": "hybrid",
        "rank": True,
        "temperature": 0.0,
        "max_tokens": 256,
        "threshold": server.service.loaded.rag.threshold,
    }
    assert said["folders"] == {"allowed": True, "roots": []}
    assert (said["index"], said["documents"], said["passages"]) == (str(settings.home), 1, 1)


def test_metrics_count_requests_by_route(server):
    server.ask()
    server.http.get("/api/documents/d_0")
    until(lambda: 'route="/api/ask",status="200"' in server.http.get("/metrics").text)
    text = server.http.get("/metrics").text
    assert 'route="/api/documents/{document}",status="404"' in text
    assert "gem_rag_ready 1.0" in text
    assert "gem_rag_engine_tokens " in text


def test_the_page_and_its_reference_are_served(server):
    page = server.http.get("/")
    assert (page.status_code, page.headers["content-type"]) == (200, "text/html; charset=utf-8")
    assert "default-src 'self'" in page.headers["content-security-policy"]
    reference = server.http.get("/docs").text
    assert "/v1/chat/completions" in reference
    assert "<script" not in reference
    assert server.http.get("/openapi.json").json()["paths"]["/api/ask"]
    missing = server.http.get("/nothing")
    assert (missing.status_code, missing.json()["error"]["code"]) == (404, "not_found")
    assert server.http.put("/api/ask").json()["error"]["code"] == "method_not_allowed"


def test_ready_means_the_model_is_loaded(settings, monkeypatch):
    from gem_rag.model import GemModel

    load = GemModel.from_pretrained

    def slow(*args, **options):
        time.sleep(1)
        return load(*args, **options)

    monkeypatch.setattr(GemModel, "from_pretrained", slow)
    with running(settings, ready=False) as server:
        assert server.http.get("/healthz").status_code == 200
        for answer in (server.http.get("/readyz"), server.http.get("/v1/models")):
            assert (answer.status_code, answer.json()["error"]["code"]) == (503, "loading")
            assert int(answer.headers["retry-after"]) > 0
        assert server.http.get("/api/settings").json()["state"] == "loading"
        until(lambda: server.http.get("/readyz").status_code == 200)
