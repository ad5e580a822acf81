"""The command line, as scripts and people use it, on a tiny checkpoint."""

import io
import json
import re
import signal
import subprocess
import sys
import time
import types
from pathlib import Path

import pytest

from gem_rag import cli
from gem_rag.cli.console import excerpt
from gem_rag.index import GemIndex


@pytest.fixture(scope="module")
def checkpoint(gem, tmp_path_factory):
    return str(gem.save_pretrained(tmp_path_factory.mktemp("cli") / "checkpoint"))


@pytest.fixture
def docs(tmp_path):
    folder = tmp_path / "docs"
    folder.mkdir()
    (folder / "kettle.md").write_text("# Kettle\n\nThe kettle has a warranty of seven years.\n")
    (folder / "rivers.txt").write_text("Rivers run to the sea.\n")
    return folder


@pytest.fixture
def run(monkeypatch, capsys, checkpoint):
    """Call the entry point in this process: (exit code, stdout, stderr)."""

    def call(*args, model=True):
        extra = ["--model", checkpoint] if model else []
        monkeypatch.setattr(sys, "argv", ["gem-rag", *map(str, args), *extra])
        with pytest.raises(SystemExit) as stop:
            cli.main()
        out, err = capsys.readouterr()
        return stop.value.code or 0, out, err

    return call


@pytest.fixture(autouse=True)
def _answer_always(monkeypatch, tmp_path):
    """A random model's likelihoods mean nothing, so no threshold on them either."""
    import gem_rag.rag as rag

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(
        rag.GemRAG.__init__,
        "__kwdefaults__",
        {
            **rag.GemRAG.__init__.__kwdefaults__,
            "threshold": None,
        },
    )


def test_ask_as_json_has_the_promised_fields(run, docs):
    code, out, err = run("ask", "kettle?", "--docs", docs, "--json", "--max-tokens", 4)
    assert code == 0
    assert err == ""
    answer = json.loads(out)
    assert {"answer", "citations", "timings", "usage"} <= answer.keys()
    (citation,) = answer["citations"]
    assert {"source", "start", "end", "score", "rank_score", "text"} <= citation.keys()
    source = Path(citation["source"]).read_text()
    assert source[citation["start"] : citation["end"]] == citation["text"]
    assert all(isinstance(v, float) for v in answer["timings"].values())


def test_ask_prints_the_answer_and_its_sources(run, docs):
    code, out, _ = run("ask", "kettle?", "--docs", docs, "--max-tokens", 4)
    assert code == 0
    assert "[1]" in out


def test_index_then_search_then_ask(run, docs, tmp_path):
    folder = tmp_path / "index"
    code, out, _ = run("index", docs, "--index", folder, "--json")
    assert code == 0
    assert json.loads(out)["total_chunks"] == 2
    assert len(json.loads(run("index", docs, "--index", folder, "--json")[1])["unchanged"]) == 2
    code, out, _ = run("search", "kettle", "--index", folder, "--json", "-k", 1)
    assert code == 0
    assert set(json.loads(out)[0]) >= {"source", "start", "end", "score", "rank_score", "text"}
    assert run("ask", "kettle?", "--index", folder, "--max-tokens", 2)[0] == 0
    code, out, _ = run("info", "--index", folder, "--json")
    assert json.loads(out)["index"]["count"] == 2
    assert json.loads(out)["model"]["special_tokens"] == 3


def test_remove_takes_paths_or_a_filter(run, docs, tmp_path):
    folder = tmp_path / "index"
    run("index", docs, "--index", folder)
    code, out, err = run("remove", docs / "kettle.md", "nowhere", "--index", folder, model=False)
    assert (code, f"removed {docs / 'kettle.md'}\n" in out, "1 chunks in" in out) == (0, True, True)
    assert "not in the index nowhere" in err
    assert len(list((folder / "readings").iterdir())) == 1
    code, out, err = run("remove", "nowhere", "--index", folder, "--json", model=False)
    facts = {"removed": [], "changed": [], "missing": ["nowhere"], "chunks": 0, "total_chunks": 1}
    assert (code, json.loads(out), err) == (1, facts, "")
    where = json.dumps({"$source": str(docs / "rivers.txt")})
    code, out, _ = run("remove", "--where", where, "--index", folder, "--json", model=False)
    assert json.loads(out)["removed"] == [str(docs / "rivers.txt")]
    assert list((folder / "readings").iterdir()) == []
    report = json.loads(run("index", docs, "--index", folder, "--json")[1])
    assert (len(report["added"]), report["total_chunks"]) == (2, 2)


@pytest.mark.parametrize(
    ("args", "code", "says"),
    [
        ([], 2, "either PATH... or --where"),
        (["a", "--where", "{}"], 2, "either PATH... or --where"),
        (["--where", "{"], 2, "no JSON"),
        (["--where", "[]"], 2, "takes an object"),
        (["--where", '{"$start": 1}'], 1, "$source"),
        (["a"], 1, "no index"),
    ],
)
def test_what_remove_cannot_do_is_said_in_one_line(run, tmp_path, args, code, says):
    folder = tmp_path / "index"
    if says != "no index":
        GemIndex(folder).close()
    found, out, err = run("remove", *args, "--index", folder, model=False)
    assert (found, out, len(err.splitlines())) == (code, "", 1)
    assert says in err


def test_an_index_that_may_only_be_read_is_searched_and_asked(run, docs, tmp_path, monkeypatch):
    from gem_rag import store
    from gem_rag.index import connection

    folder = tmp_path / "index"
    run("index", docs, "--index", folder, "--no-readings")
    monkeypatch.setattr(connection, "_is_writable", lambda _: False)
    monkeypatch.setattr(store, "_is_writable", lambda _: False)
    assert len(json.loads(run("search", "kettle", "--index", folder, "--json")[1])) == 2
    assert run("ask", "kettle?", "--index", folder, "--max-tokens", 2)[0] == 0
    assert run("info", "--index", folder)[0] == 0
    assert not (folder / "readings").exists()
    for change in (["index", docs], ["remove", docs]):
        code, out, err = run(*change, "--index", folder, model=change[0] == "index")
        assert (code, out, "can only be read" in err) == (1, "", True)


def test_what_is_found_can_be_filtered(run, docs, tmp_path, monkeypatch):
    import io

    folder = tmp_path / "index"
    run("index", docs, "--index", folder)
    rivers = str(docs / "rivers.txt")
    where = ["--index", folder, "--where", json.dumps({"$source": rivers}), "--json"]
    (found,) = json.loads(run("search", "kettle", *where)[1])
    assert (found["source"], found["metadata"]) == (rivers, {})
    answer = json.loads(run("ask", "kettle?", "--max-tokens", 2, *where)[1])
    monkeypatch.setattr(sys, "stdin", io.StringIO("kettle?\n"))
    chatted = json.loads(run("chat", "--max-tokens", 2, *where)[1])
    assert [a["citations"][0]["source"] for a in (answer, chatted)] == [rivers, rivers]


def test_moved_and_missing_files_are_reported(run, docs, tmp_path):
    folder = tmp_path / "index"
    run("index", docs, "--index", folder)
    new = docs.rename(tmp_path / "papers")
    (new / "rivers.txt").unlink()
    assert run("index", docs, "--index", folder)[0] == 1
    code, out, _ = run("index", docs, new, "--index", folder, "--remove-missing", "--json")
    report = json.loads(out)
    assert report["moved"] == [[str(docs / "kettle.md"), str(new / "kettle.md")]]
    assert (code, report["removed"]) == (0, [str(docs / "rivers.txt")])
    (new / "kettle.md").rename(new / "boiler.md")
    assert "1 moved\n" in run("index", new, "--index", folder)[1]


def test_a_mistyped_path_makes_no_index_with_remove_missing(run, docs, tmp_path):
    code, _, err = run("index", "dosc", "--index", tmp_path / "index", "--remove-missing")
    assert (code, "no file or folder" in err) == (1, True)
    assert not (tmp_path / "index").exists()


def test_readings_are_bounded_or_not_kept_and_info_counts_them(run, docs, tmp_path):
    folder = tmp_path / "index"

    def readings():
        facts = json.loads(run("info", "--index", folder, "--json")[1])["index"]
        files = list(folder.rglob("*.safetensors"))
        assert facts["readings_bytes"] == sum(f.stat().st_size for f in files)
        assert (facts["documents"], facts["count"], facts["vectors"]) == (2, 2, 2)
        assert 0 < facts["bytes"] < 1_000_000
        return facts["readings_bytes"]

    run("index", docs, "--index", folder, "--no-readings")
    run("search", "kettle", "--index", folder)
    assert readings() == 0
    run("index", docs, "--index", folder, "--readings-mb", 1)
    run("search", "kettle", "--index", folder)
    assert 0 < readings() <= 1_000_000
    code, _, err = run("index", docs, "--index", folder, "--no-readings", "--readings-mb", 1)
    assert (code, "keeps none" in err) == (2, True)


def test_readings_are_kept_in_the_format_that_is_asked_for(run, docs, tmp_path):
    sizes = {}
    for name in ("float32", "bfloat16", "int8"):
        run("index", docs, "--index", tmp_path / name, "--readings-format", name)
        sizes[name] = sum(f.stat().st_size for f in (tmp_path / name).rglob("*.safetensors"))
    assert sizes["float32"] > sizes["bfloat16"] > sizes["int8"] > 0
    code, _, err = run("index", docs, "--index", tmp_path / "x", "--readings-format", "int7")
    assert (code, "int8" in err) == (2, True)


def test_chat_reads_lines_until_they_end(run, docs, monkeypatch):
    import io

    monkeypatch.setattr(sys, "stdin", io.StringIO("kettle?\n/sources\n\nand rivers?\n/quit\n"))
    code, out, _ = run("chat", "--docs", docs, "--max-tokens", 3)
    assert code == 0
    assert "docs/" in out


def test_chat_asks_the_model_nothing_that_looks_like_a_command(run, docs, monkeypatch):
    import io

    monkeypatch.setattr(sys, "stdin", io.StringIO("/sources\n/halp\n/help\n"))
    code, out, err = run("chat", "--docs", docs, "--max-tokens", 3)
    assert (code, out) == (0, "no sources yet\n")
    assert "there is no /halp; the commands are /sources" in err
    assert re.search(r"^/add PATH +index a file or folder$", err, re.M)


def test_chat_goes_on_after_an_answer_that_was_stopped(run, docs, monkeypatch):
    import io

    from gem_rag.model import GemModel

    rank = GemModel.rank
    stopped = []

    def once(self, *args, **options):
        if not stopped:
            stopped.append(True)
            raise KeyboardInterrupt
        return rank(self, *args, **options)

    monkeypatch.setattr(GemModel, "rank", once)
    monkeypatch.setattr(sys, "stdin", io.StringIO("kettle?\n/sources\nkettle?\n/sources\n"))
    code, out, _ = run("chat", "--docs", docs, "--max-tokens", 3)
    assert code == 0
    assert out.startswith("no sources yet\n")
    assert "docs/" in out


def test_chat_as_json_prints_each_answer_on_a_line(run, docs, monkeypatch):
    import io

    monkeypatch.setattr(sys, "stdin", io.StringIO("kettle?\n/sources\n/clear\nrivers?\n/sources\n"))
    code, out, err = run("chat", "--docs", docs, "--max-tokens", 3, "--json")
    assert (code, err) == (0, "")
    first, sources, second, last = map(json.loads, out.splitlines())
    assert {"answer", "citations", "timings", "usage"} <= first.keys()
    assert sources == first["citations"]
    assert last == second["citations"]


@pytest.fixture
def chat(run, docs, monkeypatch):
    """Say lines to `gem-rag chat` over a pipe: (code, stdout, stderr)."""

    def call(*lines, options=()):
        monkeypatch.setattr(sys, "stdin", io.StringIO("".join(f"{line}\n" for line in lines)))
        return run("chat", "--docs", docs, "--max-tokens", 3, *options)

    return call


def test_chat_lists_documents_and_adds_more(chat, docs, tmp_path):
    more = tmp_path / "more notes"
    more.mkdir()
    (more / "lid.md").write_text("The lid is replaced within three days.\n")
    code, out, err = chat("/docs", f"/add {more}", "/docs", "/add nowhere", "/add", "/add 'a")
    assert (code, out.count("kettle.md"), out.count("lid.md")) == (0, 2, 1)
    assert "1 added" in out
    assert "no file or folder" in err
    assert "expected a file or folder" in err
    assert "No closing quotation" in err


def test_chat_adds_paths_as_a_terminal_writes_them(chat, tmp_path):
    for name in ("a b.md", "c.md"):
        (tmp_path / name).write_text(f"About {name}.\n")
    _, out, _ = chat(f"/add {tmp_path}/a\\ b.md '{tmp_path}/c.md'")
    assert "2 added" in out


def test_chat_opens_one_of_the_passages(chat, docs):
    _, out, err = chat("/open 1", "kettle?", "/open 1", "/open", "/open 2", "/open x")
    assert "there are no passages yet" in err
    assert out.count(f"[1] {docs}/") == 2
    assert "/open 2: expected a number from 1 to 1" in err
    assert "/open x: expected a number from 1 to 1" in err


def test_chat_opens_the_nearest_where_nothing_answers(chat, docs, never):
    _, out, _ = chat("Who made the kettle?", "/open 2")
    shown = out.rpartition("[2] ")[2]
    assert shown.startswith(str(docs))
    assert shown.rstrip().endswith(("seven years.", "to the sea."))


def test_chat_asks_again_in_the_place_of_the_last_answer(chat, tmp_path):
    file = tmp_path / "said.json"
    lines = ("/retry", "kettle?", "and rivers?", "/retry", f"/save {file}")
    _, out, err = chat(*lines, options=["--json"])
    error, *answers, saved = map(json.loads, out.splitlines())
    assert (error, len(answers), saved) == (
        {"error": "nothing was asked yet"},
        3,
        {"saved": str(file)},
    )
    messages = json.loads(file.read_text())["messages"]
    asked = [m["content"] for m in messages if m["role"] == "user"]
    assert asked == ["kettle?", "and rivers?"]
    assert messages[-1]["content"] == answers[-1]["answer"]
    assert messages[-1]["citations"] == answers[-1]["citations"]
    assert err == ""


def test_chat_saves_as_markdown_and_overwrites_nobodys_file(chat, tmp_path):
    file, other = tmp_path / "said.md", tmp_path / "mine.md"
    other.write_text("Mine.\n")
    lines = ("/save said.md", "kettle?", "/save said.txt", f"/save {other}")
    _, _, err = chat(*lines, f"/save {file}", "rivers?", f"/save {file}")
    text = file.read_text()
    assert text.startswith("# kettle?\n\n## kettle?\n")
    assert "## rivers?" in text
    assert "kettle.md" in text
    assert other.read_text() == "Mine.\n"
    assert "nothing was answered yet" in err
    assert "expected a FILE that ends in .md or .json" in err
    assert f"{other} is there already" in err


def test_chat_as_json_answers_every_line(chat, tmp_path):
    (tmp_path / "lid.md").write_text("The lid is replaced within three days.\n")
    lines = ("kettle?", "/open", "/docs", f"/add {tmp_path / 'lid.md'}", "/help", "/nothing")
    code, out, err = chat(*lines, options=["--json"])
    answer, opened, documents, added, helped, wrong = map(json.loads, out.splitlines())
    assert (code, err) == (0, "")
    assert opened == answer["citations"][0]
    assert [d["chunks"] for d in documents] == [1, 1]
    assert len(added["added"]) == 1
    assert "/open N" in helped
    assert "there is no /nothing" in wrong["error"]


def test_pull_prints_one_line_whatever_the_path(run, tmp_path, monkeypatch):
    from gem_rag.checkpoints import embedded

    folder = tmp_path / f"a [bold] folder with a long name {'x' * 100}"
    folder.mkdir()
    (folder / "model.safetensors").write_bytes(b"weights")
    monkeypatch.setattr("gem_rag.checkpoints.folder.load_parts", lambda folder: None)
    monkeypatch.setattr(embedded, "embedded_base", lambda: folder)
    code, out, err = run("pull", model=False)
    assert (code, err) == (0, "")
    assert out == f"smollm2-135m-instruct is ready: 0.0 MB in {folder}\n"
    facts = json.loads(run("pull", "--json", model=False)[1])
    assert facts == {"model": "smollm2-135m-instruct", "path": str(folder), "bytes": 7}


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no such permissions")
def test_pull_opens_an_older_model_to_others(run, tmp_path, monkeypatch):
    from gem_rag.checkpoints import embedded

    weights = tmp_path / "model.safetensors"
    weights.write_bytes(b"weights")
    weights.chmod(0o600)
    tmp_path.chmod(0o755)
    monkeypatch.setattr("gem_rag.checkpoints.folder.load_parts", lambda folder: None)
    monkeypatch.setattr(embedded, "embedded_base", lambda: tmp_path)
    assert run("pull", model=False)[0] == 0
    assert weights.stat().st_mode & 0o777 == 0o644


def test_places_stay_on_their_line(run, tmp_path):
    folder = tmp_path / ("long name " * 12)
    folder.mkdir()
    (folder / "rivers.txt").write_text("Rivers run to the sea.\n")
    index = tmp_path / "index [1]" / ("y" * 100)
    out = run("index", folder, "--index", index)[1]
    assert f"1 chunks in {index}\n" in out
    out = run("search", "rivers", "--index", index)[1]
    assert f"[1] {folder / 'rivers.txt'}:0-" in out


def test_bad_files_are_reported_and_the_rest_indexed(run, docs, tmp_path):
    (docs / "bad.txt").write_bytes(bytes(range(256)))
    code, out, err = run("index", docs, "--index", tmp_path / "index")
    assert code == 0
    assert "2 added" in out
    assert "bad.txt" in err


@pytest.mark.parametrize(
    ("args", "code", "says"),
    [
        (["ask", "q", "--docs", "/no/such/place"], 1, "no file or folder"),
        (["search", "q", "--index", "/no/such/index"], 1, "no index"),
        (["ask", "q"], 2, "--docs PATH or --index DIR"),
        (["ask", " ", "--docs", "."], 2, "it is empty"),
        (["search", "", "--index", "."], 2, "it is empty"),
        (["search", "q", "--index", ".", "-k", "0"], 2, "-k"),
        (["index", "/no/such/place", "--index", "unused"], 1, "no file or folder"),
    ],
)
def test_errors_are_one_line_with_an_exit_code(run, args, code, says):
    found, out, err = run(*args)
    assert found == code
    assert out == ""
    assert says in err
    assert len(err.splitlines()) == 1
    assert "Traceback" not in err
    assert not Path("unused").exists()


def test_a_closed_pipe_is_no_error(checkpoint, docs, tmp_path):
    command = [sys.executable, "-m", "gem_rag.cli", "search", "kettle", "--docs", str(docs)]
    for extra in ([], ["--json"]):
        process = subprocess.Popen(
            [*command, "--model", checkpoint, *extra],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        process.stdout.close()
        assert process.stderr.read() == b""
        assert process.wait(120) == 0


def test_an_excerpt_shows_what_the_question_is_about():
    text = "# Commands\n\nChat talks and talks.\nPull fetches the model. It takes a minute."
    assert excerpt(text, "What does pull do?") == "... Pull fetches the model. It takes a minute."
    assert excerpt(text, "What talks?").startswith("... Chat talks and talks.")
    assert excerpt(text, "zebra") == " ".join(text.split())
    assert len(excerpt("word " * 100, "word")) < 250


def test_the_version_is_the_packages(run):
    from importlib.metadata import version

    assert run("--version", model=False) == (0, version("gem-rag") + "\n", "")


def test_a_folder_without_text_is_an_error(run, tmp_path):
    (tmp_path / "empty.txt").write_text("")
    code, out, err = run("ask", "q", "--docs", tmp_path)
    assert (code, out) == (1, "")
    assert "no text in" in err
    assert len(err.splitlines()) == 1


def test_usage_errors_exit_with_two(run):
    assert run("ask", model=False)[0] == 2
    assert run("nothing", model=False)[0] == 2
    assert run("train", "default", "--set", "steps", model=False)[0] == 2


@pytest.mark.parametrize("kept", [True, False])
def test_adapt_shows_both_numbers_and_what_to_use(run, docs, tmp_path, monkeypatch, kept):
    from gem_rag_train import adapt
    from gem_rag_train.adapt import Adapted, Found, Verdict

    def fake(paths, output, **options):
        assert (paths, options["steps"], options["seed"]) == ([docs], 3, 7)
        gain = 0.2 if kept else -0.1
        return Adapted(
            kept=kept,
            checkpoint="new" if kept else "old",
            verdict=Verdict(Found(0.5, 0.6), Found(0.5 + gain, 0.6 + gain), gain, gain, gain),
            chunks=30,
            held_out_chunks=6,
            held_out_questions=12,
            questions_written=60,
            questions_used=50,
            steps=3,
            candidate=None if kept else "attempt",
            skipped=(("a.pdf", "is damaged"),),
        )

    monkeypatch.setattr(adapt, "adapt", fake)
    arguments = ["adapt", docs, "--output", tmp_path / "new", "--steps", 3, "--seed", 7]
    code, out, err = run(*arguments)
    assert code == 0
    assert "a.pdf" in err
    assert ("--model new" if kept else "not better") in " ".join(out.split())
    assert "0.600" in out
    code, out, _ = run(*arguments, "--json")
    facts = json.loads(out)
    assert (facts["kept"], facts["before"]["recall1"]) == (kept, 0.5)
    assert run(*arguments, "--minutes", 1)[0] == 2


def test_adapt_says_how_many_chunks_it_needs(run, docs, tmp_path):
    code, _, err = run("adapt", docs, "--output", tmp_path / "new")
    assert code == 1
    assert "adapting needs 20" in " ".join(err.split())
    assert not (tmp_path / "new").exists()


def test_train_skill_shows_what_was_measured_and_names_broken_rows(run, tmp_path):
    rows = [
        {"context": f"The kettle has {i} years.", "question": "How long?", "answer": f"{i} years"}
        for i in range(6)
    ]
    file = tmp_path / "rows.jsonl"
    file.write_text("\n".join(map(json.dumps, rows)))
    arguments = ["train-skill", "short", file, "--output", tmp_path / "new", "--steps", 2]
    arguments += ["--set", "heldout=0.5", "--set", "rank=2"]
    code, out, _ = run(*arguments)
    assert code == 0
    words = " ".join(out.split())
    assert "on 3 rows about passages held out from training" in words
    assert "contains" in words
    assert "skill short in checkpoint" in words
    assert (tmp_path / "new" / "skills" / "short" / "report.html").is_file()
    code, out, _ = run(*arguments, "--json")  # in the other's place
    facts = json.loads(out)
    assert code == 0
    assert (facts["name"], facts["steps"], facts["heldout_rows"]) == ("short", 2, 3)
    assert facts["before"].keys() == facts["after"].keys()
    file.write_text('{"context": "a"}\n')
    code, _, err = run(*arguments)
    assert code == 1
    assert "rows.jsonl:1: found the fields ['context']" in " ".join(err.split())


def test_unknown_recipes_and_models_are_named(run):
    code, _, err = run("train", "nosuch", model=False)
    assert code == 1
    assert "nosuch" in err
    code, _, err = run("info", "--model", "nobody/nothing", model=False)
    assert code == 1
    assert "nobody/nothing" in err


def test_another_models_index_is_refused(run, tmp_path):
    GemIndex(tmp_path / "index", fingerprint="somebody-else", dim=8).close()
    code, _, err = run("search", "q", "--index", tmp_path / "index")
    assert code == 1
    assert "somebody-else" in err


def test_ctrl_c_leaves_a_sound_index(checkpoint, tmp_path):
    docs = tmp_path / "docs"
    docs.mkdir()
    for i in range(1000):  # far more than are indexed before the signal
        (docs / f"{i}.txt").write_text(f"Rivers run to the sea {i}. " * 60)
    folder = tmp_path / "index"
    unhurried = (  # a pause after each commit, so that the signal always comes in time
        # Where the tests themselves run in the background, children would be deaf to it.
        "import signal, time; signal.signal(signal.SIGINT, signal.default_int_handler);"
        "from gem_rag import cli; from gem_rag.rag.ingest import write;"
        "commit = write.Ingest._commit;"
        "write.Ingest._commit = lambda *a: (commit(*a), time.sleep(0.2)); cli.main()"
    )
    command = [sys.executable, "-c", unhurried, "index", str(docs), "--index", str(folder)]
    process = subprocess.Popen(
        [*command, "--model", checkpoint], stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and process.poll() is None:
        if (folder / "index.sqlite").exists():
            with GemIndex(folder) as index:
                if index.count():
                    break
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    try:
        _, err = process.communicate(timeout=180)
    finally:
        process.kill()
    assert process.returncode == 130
    assert "interrupted" in err
    assert "Traceback" not in err
    with GemIndex(folder) as index:
        sources = {r.source for r in index}
        assert len(sources) == len(index.documents.all()) > 0


def test_import_and_help_load_no_torch():
    code = (
        "import sys, gem_rag, gem_rag.cli;"
        "sys.exit(any(m in sys.modules for m in ('torch', 'transformers', 'faiss', 'peft', "
        "'langchain_core', 'numpy')))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_the_commands_page_names_every_command_and_option():
    import typer

    page = (Path(__file__).parent.parent / "docs" / "cli.md").read_text()
    group = typer.main.get_command(cli.app)
    for name, command in group.commands.items():
        section = re.search(rf"^## `{name}`$(.*?)(?=^## |\Z)", page, re.M | re.S)
        assert section, f"docs/cli.md lacks {name}"
        for parameter in command.params:
            for option in parameter.opts:
                if option.startswith("-") and option != "--help":
                    assert f"`{option}" in section[1], f"docs/cli.md lacks {name} {option}"


def test_the_demo_finds_the_documentation():
    from gem_rag.cli.ask import own_docs

    assert (own_docs() / "how-it-works.md").is_file()


def test_what_looks_like_an_emoji_is_shown_as_it_stands(run, docs):
    (docs / "keys.md").write_text("A key is user:id:key, and a:x:b is another.")
    code, out, _ = run("search", "key", "--docs", docs)
    assert code == 0
    assert "user:id:key, and a:x:b" in out


def test_with_json_a_chat_prompts_on_stderr(monkeypatch, capsys):
    from gem_rag.cli import screens

    monkeypatch.setattr("sys.stdin", types.SimpleNamespace(isatty=lambda: True))
    monkeypatch.setattr("builtins.input", lambda *_: "Who?")
    assert screens.prompt(screens.err) == "Who?"
    shown = capsys.readouterr()
    assert shown.out == ""
    assert "> " in shown.err


@pytest.mark.model
def test_the_demo_answers_from_its_own_documentation(default_model, run):
    code, out, _ = run("demo", model=False)
    assert code == 0
    assert "fetches and converts the default model" in out
    assert "cli.md:" in out


@pytest.fixture
def never(monkeypatch):
    """A threshold that nothing reaches."""
    import gem_rag.rag as rag

    defaults = {**rag.GemRAG.__init__.__kwdefaults__, "threshold": 1.1}
    monkeypatch.setattr(rag.GemRAG.__init__, "__kwdefaults__", defaults)


def test_where_nothing_answers_the_nearest_passages_are_printed(run, docs, never):
    code, out, _ = run("ask", "kettle?", "--docs", docs)
    assert code == 0
    answer, _, offered = out.partition("\n\nNearest passages:\n")
    assert answer == "I found nothing about this in the documents."
    assert f"{docs / 'kettle.md'}:" in offered
    assert "The kettle has a warranty of seven years." in offered
    told = json.loads(run("ask", "kettle?", "--docs", docs, "--json")[1])
    assert (told["citations"], told["finish_reason"]) == ([], "nothing_found")
    sources = {str(docs / "kettle.md"), str(docs / "rivers.txt")}
    assert {c["source"] for c in told["nearest"]} == sources


def test_a_conversation_offers_them_too(run, docs, never, monkeypatch):
    monkeypatch.setattr(sys, "stdin", io.StringIO("kettle?\n/sources\n"))
    _, out, _ = run("chat", "--docs", docs)
    assert "Nearest passages:\n[1] " in out
    assert out.endswith("no sources yet\n")


def test_an_empty_index_says_that_it_is(run, tmp_path):
    GemIndex(tmp_path / "index").close()
    code, out, _ = run("ask", "kettle?", "--index", tmp_path / "index")
    assert (code, out.startswith("There are no documents in the index yet")) == (0, True)
