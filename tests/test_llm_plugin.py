"""The plugin for `llm`: from its command line and from Python, as its users have it."""

import json

import numpy as np
import pytest
from click.testing import CliRunner

from gem_rag.model import GemModel


@pytest.fixture(scope="module", autouse=True)
def home(placed, tiny_checkpoint, tmp_path_factory):
    """`llm`'s own folder, the tiny checkpoint registered in it."""
    folder = tmp_path_factory.mktemp("llm")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LLM_USER_PATH", str(folder))
        assert "gem-rag/tiny is" in run("gem-rag", "register", tiny_checkpoint)
        yield folder


def run(*words, fails=False, **options):
    from llm.cli import cli

    result = CliRunner().invoke(cli, list(words), catch_exceptions=False, **options)
    assert (result.exit_code != 0) is fails, result.output
    return result.output


@pytest.fixture(scope="module")
def served(tiny_checkpoint):
    return GemModel.from_pretrained(tiny_checkpoint)


@pytest.fixture
def model():
    import llm

    return llm.get_model("gem-rag/tiny")


def test_the_command_line_answers_and_logs_what_it_took(served):
    said = run("-m", "gem-rag/tiny", "Who wrote it?", "-o", "max_tokens", "8")
    expected = served.generate("Who wrote it?", max_new_tokens=8)
    assert said == expected.text + "\n"
    (logged,) = json.loads(run("logs", "-n", "1", "--json"))
    assert logged["model"] == "gem-rag/tiny"
    assert logged["input_tokens"] == expected.usage.prompt_tokens
    assert logged["output_tokens"] == expected.usage.completion_tokens
    assert (
        run("-m", "gem-rag/tiny", "Who wrote it?", "-o", "max_tokens", "8", "--no-stream") == said
    )


def test_models_are_listed_registered_and_forgotten(tiny_checkpoint):
    listed = run("models")
    assert "gem-rag: gem-rag\n" in listed
    assert "gem-rag: gem-rag/tiny" in listed
    run("gem-rag", "register", tiny_checkpoint, "--as", "mine")
    assert f"gem-rag/mine: {tiny_checkpoint}" in run("gem-rag", "list")
    run("gem-rag", "forget", "gem-rag/mine")
    assert "gem-rag/mine" not in run("gem-rag", "list")
    assert "there are: gem-rag/tiny" in run("gem-rag", "forget", "gem-rag/mine", fails=True)


def test_a_conversation_goes_on_and_a_system_prompt_stands_before_it(model, served):
    talk = model.conversation()
    first = talk.prompt("Who wrote it?", system="Be brief.", max_tokens=6)
    said = first.text()
    second = talk.prompt("And when?", max_tokens=6)
    told = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "Who wrote it?"},
        {"role": "assistant", "content": said},
        {"role": "user", "content": "And when?"},
    ]
    assert second.text() == served.generate(told, max_new_tokens=6).text


def test_an_answer_comes_piece_by_piece(model, served):
    pieces = list(model.prompt("Who wrote it?", max_tokens=12))
    assert len(pieces) > 1
    assert "".join(pieces) == served.generate("Who wrote it?", max_new_tokens=12).text


async def test_awaited_is_the_same_as_called(model):
    import llm

    twin = llm.get_async_model("gem-rag/tiny")
    answer = twin.prompt("Who wrote it?", max_tokens=12)
    assert await answer.text() == model.prompt("Who wrote it?", max_tokens=12).text()
    assert (await answer.usage()).output > 0
    whole = twin.prompt("Who wrote it?", max_tokens=12, stream=False)
    assert await whole.text() == await answer.text()


def test_options_are_honoured_or_named(model, served):
    drawn = [
        model.prompt("Who wrote it?", temperature=1.0, seed=seed, max_tokens=12).text()
        for seed in (3, 3, 4)
    ]
    assert drawn[0] == drawn[1] != drawn[2]
    whole = served.generate("Who wrote it?", max_new_tokens=12).text
    stop = whole[3:5]
    cut = model.prompt("Who wrote it?", max_tokens=12, stop=stop).text()
    assert cut == whole[: whole.index(stop)]
    with pytest.raises(Exception, match="max_tokens"):
        model.prompt("Who wrote it?", max_tokens=0)
    assert "Error" in run("-m", "gem-rag/tiny", "Hi", "-o", "temprature", "1", fails=True)


def test_attachments_are_refused(model):
    import llm

    picture = llm.Attachment(type="image/png", content=b"x")
    with pytest.raises(ValueError, match="does not support attachments"):
        model.prompt("What is this?", attachments=[picture])


def test_a_schema_is_filled(model):
    schema = {"type": "object", "properties": {"good": {"type": "boolean"}}, "required": ["good"]}
    answer = model.prompt("Is it good?", schema=schema, max_tokens=32)
    assert isinstance(json.loads(answer.text())["good"], bool)


def test_tools_are_called_and_their_results_read(model, served):
    import llm

    called = []

    def warranty(good: bool) -> str:
        """How long the warranty of a product is."""
        called.append(good)
        return "seven years"

    asked = {"tools": [warranty], "tool_choice": "any", "max_tokens": 64}
    first = model.prompt("How long is the warranty?", **asked)
    (call,) = first.tool_calls()
    second = first.reply(max_tokens=4, tool_choice="none")  # makes the calls that were asked for
    assert called == [call.arguments["good"]]
    told = [
        {"role": "user", "content": "How long is the warranty?"},
        {
            "role": "assistant",
            "content": first.text(),
            "tool_calls": [{"name": "warranty", "arguments": call.arguments}],
        },
        {"role": "tool", "name": "warranty", "content": "seven years"},
    ]
    assert second.text() == served.generate(told, max_new_tokens=4).text
    with pytest.raises(llm.ModelError, match="came to nothing"):
        model.prompt("How long is the warranty?", **{**asked, "max_tokens": 4}).text()


def test_documents_and_questions_are_embedded_as_the_model_does(served):
    import llm

    texts = ["Rivers run to the sea.", "A grey horse!"]
    documents = list(llm.get_embedding_model("gem-rag/tiny").embed_multi(texts))
    np.testing.assert_allclose(documents, served.embed_documents(texts), atol=1e-5)
    question = llm.get_embedding_model("gem-rag/tiny-query").embed("Who rides?")
    np.testing.assert_allclose(question, served.embed_query("Who rides?"), atol=1e-5)
    with pytest.raises(ValueError, match="binary"):
        llm.get_embedding_model("gem-rag/tiny").embed(b"bytes")


def test_a_collection_is_filled_and_searched_from_the_command_line(tmp_path):
    for name, text in {"kettle": "A warranty of seven years.", "river": "It runs."}.items():
        (tmp_path / f"{name}.md").write_text(text)
    run("embed-multi", "docs", "-m", "gem-rag/tiny", "--files", str(tmp_path), "*.md", "--store")
    found = json.loads(run("similar", "docs", "-c", "A warranty of seven years.").split("\n")[0])
    assert found["id"] == "kettle.md"
    assert found["score"] == pytest.approx(1.0, abs=1e-4)
