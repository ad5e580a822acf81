"""`gem-rag chat` in a real terminal: what is seen there."""

import re
import sys
from contextlib import contextmanager

import pytest
from rich.console import Console
from terminal import CTRL_D, TAB, UP, Terminal, pyte

from gem_rag.cli.markdown import Growing

# A random model's likelihoods mean nothing, so no threshold on them either.
CHAT = """
import sys
from gem_rag import cli
from gem_rag.rag import GemRAG
GemRAG.__init__.__kwdefaults__["threshold"] = None
sys.argv = ["gem-rag", "chat", *sys.argv[1:]]
cli.main()
"""
SENTENCE = "The kettle has a warranty of seven years."
KETTLE = f"# Kettle\n\n## Warranty\n\nIt boils water. {SENTENCE} Keep the receipt.\n"


@pytest.fixture(scope="module")
def notes(tmp_path_factory):
    folder = tmp_path_factory.mktemp("notes")
    (folder / "kettle.md").write_text(KETTLE)
    (folder / "rivers.txt").write_text("Rivers run to the sea.\n")
    return folder


@contextmanager
def chatting(notes, checkpoint, home, *options):
    """The command in a terminal, when it has prompted."""
    command = [sys.executable, "-c", CHAT, "--docs", str(notes), "--model", checkpoint]
    finding = ["--mode", "words", "--no-rank"]  # as little does what it ranks by
    terminal = Terminal(*command, *finding, *options, XDG_STATE_HOME=str(home), PAGER="cat")
    try:
        terminal.at_prompt()
        yield terminal
    finally:
        terminal.close()


@pytest.fixture(scope="module")
def running(notes, tiny_checkpoint, tmp_path_factory):
    home = tmp_path_factory.mktemp("home")
    with chatting(notes, tiny_checkpoint, home, "--max-tokens", "6") as terminal:
        yield terminal


@pytest.fixture
def talk(running):
    """A new conversation."""
    running.say("/clear")
    return running


def test_it_says_what_there_is_and_where_help_is(talk):
    assert "2 documents, 2 passages. /help names the commands." in talk.text
    assert re.search(r"^/open N +one passage of it", talk.say("/help"), re.M)


def test_an_answer_has_numbered_sources_below_it(talk):
    seen = talk.say("How long is the warranty of the kettle?")
    assert re.search(r" \[1\]\n", seen)
    assert "[1] kettle.md  Kettle > Warranty" in seen
    assert "[1] " in talk.say("/sources")


def test_a_passage_is_opened_with_its_sentence_stressed(talk):
    talk.say("How long is the warranty of the kettle?")
    seen = talk.say("/open 1")
    assert "kettle.md  Kettle > Warranty" in seen
    assert "Keep the receipt." in seen
    assert talk.stressed("brown").replace(SENTENCE, "").strip() == ""  # and nothing else
    assert SENTENCE in talk.stressed("brown")


def test_documents_are_added_and_listed(talk, notes, tmp_path):
    (tmp_path / "the lid.md").write_text("The lid is replaced within three days.\n")
    assert "1 added" in talk.say(f"/add {tmp_path}/the lid.md")
    seen = talk.say("/docs")
    assert "the lid.md" in seen
    assert "3 documents, 3 passages" in seen


def test_it_is_saved_and_asked_again(talk, tmp_path):
    talk.say("How long is the warranty?")
    assert "How long is the warranty?" in talk.say("/retry")
    assert "saved in" in talk.say(f"/save {tmp_path / 'said.md'}")
    assert (tmp_path / "said.md").read_text().count("\n## ") == 1


def test_what_cannot_be_done_is_one_line(talk):
    assert "error: there is no /nothing" in talk.say("/nothing")
    assert "error: there are no passages yet" in talk.say("/open 3")
    assert "error: no file or folder" in talk.say("/add /nowhere")


def test_lines_are_recalled_and_commands_completed(talk, tmp_path):
    talk.say("How long is the warranty?")
    talk.type(UP)
    talk.until(lambda text: text.endswith("> How long is the warranty?"))
    talk.begin_again()
    (tmp_path / "some long name.md").write_text("Steam.")
    talk.type(f"/add {tmp_path}/som")
    talk.type(TAB)
    talk.until(lambda text: "some long name.md" in text.rpartition("\n>")[2])
    talk.begin_again()
    talk.type("/so")
    talk.until(lambda text: text.endswith("what the last answer rests on"))
    talk.type(TAB)
    talk.until(lambda text: text.rpartition("\n>")[2].startswith(" /sources"))
    talk.begin_again()


def test_questions_are_recalled_the_next_time(notes, tiny_checkpoint, tmp_path):
    with chatting(notes, tiny_checkpoint, tmp_path, "--max-tokens", "2") as terminal:
        terminal.say("Who wrote it?")
        terminal.type(CTRL_D)
        assert terminal.end() == 0
    with chatting(notes, tiny_checkpoint, tmp_path, "--max-tokens", "2") as terminal:
        terminal.type(UP)
        terminal.until(lambda text: text.endswith("> Who wrote it?"))
    (kept,) = tmp_path.rglob("questions")
    assert kept.stat().st_mode & 0o777 == 0o600


def test_ctrl_c_stops_the_answer_and_keeps_the_conversation(notes, tiny_checkpoint, tmp_path):
    with chatting(notes, tiny_checkpoint, tmp_path, "--max-tokens", "900") as terminal:
        terminal.type("How long is the warranty?\r")
        terminal.until(lambda text: len(text.partition("warranty?")[2].split()) > 5)
        terminal.begin_again()
        assert "\nstopped\n" in terminal.text
        assert "Traceback" not in terminal.text
        assert "kettle.md" in terminal.say("/sources")


# -- Markdown while it grows

MARKDOWN = """# Kettle

A paragraph that **wraps**, since it goes on for a while, <b>as it stands</b>, and
breaks. ![a picture](https://example.org/x.png)

- one
- two
  - three

1. first
2. second

| part | days |
|---|---:|
| lid | 3 |

```python
print(1)
```

> quoted

[1]: https://example.org/

""" + "\n".join(f"- item {i} of a list that is longer than the screen" for i in range(25))


def drawn(step, text=MARKDOWN, mark=" [1]", rows=20, columns=60):
    """What is on a terminal after a text was written in pieces of so many characters."""
    import io

    file, screen = io.StringIO(), pyte.HistoryScreen(columns, rows, history=5000)
    console = Console(file=file, force_terminal=True, width=columns, height=rows)
    with Growing(console) as growing:
        for start in range(0, len(text), step):
            growing.write(text[start : start + step])
        growing.end(mark)
    pyte.Stream(screen).feed(file.getvalue().replace("\n", "\r\n"))
    past = ["".join(line[x].data for x in range(columns)) for line in screen.history.top]
    return "\n".join(line.rstrip() for line in [*past, *screen.display]).rstrip()


@pytest.mark.parametrize("step", [4, 50])
def test_an_answer_looks_the_same_however_it_came(step):
    assert drawn(step) == drawn(len(MARKDOWN))


def test_nothing_of_an_answer_is_hidden():
    seen = drawn(len(MARKDOWN))
    words = " ".join(seen.split())
    assert "<b>as it stands</b>, and breaks. !a picture (https://example.org/x.png)" in words
    assert "[1]: https://example.org/" in seen
    assert [seen.count(f"item {i} ") for i in range(25)] == [1] * 25


def test_the_number_stands_behind_the_last_words_or_below_code():
    assert drawn(5, "Seven years.\n") == "Seven years. [1]"
    assert drawn(5, "```\ncode\n```").splitlines()[-1] == "[1]"
    assert drawn(5, "", mark="") == ""


def test_what_would_command_the_terminal_is_shown_instead(monkeypatch):
    from gem_rag.cli import console

    monkeypatch.setattr(console, "out", Console(force_terminal=True))
    assert console.tame("a\x1b]0;owned\x07b\r\n\tc\x9b1m") == "a␛]0;owned␇b \n\tc\ufffd1m"
