"""Who says hello, or nothing at all, is answered as such: nothing is searched, nothing invented."""

import json

import pytest
from typer.testing import CliRunner

from gem_rag.cli import app
from gem_rag.documents import Document
from gem_rag.rag import GemRAG
from gem_rag.rag.talk import small_talk


@pytest.fixture
def rag(gem):
    rag = GemRAG(gem, threshold=None)
    rag.add(Document("The kettle has a warranty of seven years.", "kettle.md"))
    return rag


@pytest.mark.parametrize(
    "utterance",
    [
        *(
            "Hello",
            "hello!",
            "HI THERE",
            "Hey :)",
            "Good morning.",
            "Hi! How are you?",
            "hello, hi",
        ),
        *("Thanks!", "thank you very much", "Thanks a lot 🙏", "ok, thanks", "Great, thank you!"),
        *("Bye", "good night", "Thanks, bye!", "Ok.", "I see..."),
        *("Hallo", "Vielen Dank!", "Grüß Gott", "Merci beaucoup", "¡Hola!", "¿Qué tal?", "Grazie"),
        *("obrigado", "Dzień dobry", "Привет", "спасибо!", "你好！", "ありがとう。", "감사합니다"),
        *("شكرا", "नमस्ते", "Hej då", "ça va ?"),
        *("?", "...", "?!", "…", "👍", "-", "¿?", "。", "_"),
    ],
)
def test_what_asks_nothing_is_small_talk(rag, utterance):
    assert small_talk(utterance) is not None
    answer = rag.answer(utterance)
    assert (answer.finish_reason, answer.citations) == ("small_talk", [])
    assert answer.usage.total_tokens == 0
    assert "".join(rag.stream(utterance)) == answer.answer


@pytest.mark.parametrize(
    "question",
    [
        "Hello, when is the shop open?",
        "Thanks! And how long is the warranty?",
        "Hi, kettle",
        "What does hello mean?",
        "Who said goodbye?",
        "thank you notes",
        "fine",  # what is to be paid
        "Nice",  # the town
        "kettle?",
        "7",
        "水",
        "why?",
        "ok google",
    ],
)
def test_what_may_be_a_question_is_searched(rag, question):
    assert small_talk(question) is None
    assert rag.answer(question, max_new_tokens=2).finish_reason != "small_talk"


def test_each_is_answered_in_its_kind_and_says_what_can_be_asked(rag):
    assert rag.answer("Hello").answer.startswith("Hello!")
    assert "documents" in rag.answer("Hello").answer
    assert "welcome" in rag.answer("Thanks, great!").answer
    assert rag.answer("Thanks, bye").answer == "Goodbye!"
    assert "no words" in rag.answer("???").answer


def test_nothing_is_searched(rag, monkeypatch):
    def searched(*_, **__):
        raise AssertionError("searched")

    monkeypatch.setattr(rag.index, "search", searched)
    assert rag.answer("Hello").finish_reason == "small_talk"


async def test_awaited_it_is_the_same(rag):
    assert (await rag.aanswer("Thanks!")).answer == rag.answer("Thanks!").answer


def test_options_are_looked_at_all_the_same(rag):
    with pytest.raises(TypeError, match="max_new_token"):
        rag.answer("Hello", max_new_tokns=3)


def test_the_command_line_says_hello_too(gem, tmp_path):
    gem.save_pretrained(tmp_path / "model")
    (tmp_path / "kettle.md").write_text("The kettle has a warranty of seven years.")
    where = ["--docs", str(tmp_path / "kettle.md"), "--model", str(tmp_path / "model")]
    where += ["--index", str(tmp_path / "index")]
    runner = CliRunner()
    asked = runner.invoke(app, ["ask", "Hello", *where])
    assert asked.exit_code == 0, asked.output
    assert "Hello!" in asked.output
    assert "kettle.md:" not in asked.output  # no sources
    lines = runner.invoke(app, ["chat", "--json", *where], input="Thanks!\n/sources\n").output
    thanked, sources = [json.loads(x) for x in lines.splitlines() if x.startswith(("{", "["))]
    assert (thanked["finish_reason"], sources) == ("small_talk", [])
