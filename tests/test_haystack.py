"""Haystack's components: in pipelines, written to files and read back, streamed and awaited."""

import json

import numpy as np
import pytest
from haystack import Document, Pipeline
from haystack.components.builders import ChatPromptBuilder
from haystack.components.retrievers.in_memory import InMemoryEmbeddingRetriever
from haystack.components.writers import DocumentWriter
from haystack.dataclasses import ChatMessage, ImageContent, ToolCall
from haystack.document_stores.in_memory import InMemoryDocumentStore
from haystack.tools import Tool
from haystack.utils import ComponentDevice
from pydantic import BaseModel

from gem_rag.errors import GemError, GenerationTimeout, OptionError
from gem_rag.model import GemModel

TEXTS = ["The kettle has a warranty of seven years.", "Rivers run to the sea.", "A grey horse!"]
DOCUMENTS = [Document(content=text, meta={"title": f"T{i}"}) for i, text in enumerate(TEXTS)]
PROMPT = "{% for d in documents %}{{ d.content }} {% endfor %}{{ question }}"
CPU = ComponentDevice.from_str("cpu")
heard = []


def listen(chunk):
    heard.append(chunk)


@pytest.fixture(scope="module")
def parts(placed):
    """The components, imported from the installed wheel."""
    from haystack_integrations.components.embedders.gem_rag import (
        GemDocumentEmbedder,
        GemTextEmbedder,
    )
    from haystack_integrations.components.generators.gem_rag.chat import GemChatGenerator
    from haystack_integrations.components.rankers.gem_rag import GemRanker

    return GemDocumentEmbedder, GemTextEmbedder, GemRanker, GemChatGenerator


@pytest.fixture
def generator(parts, tiny_checkpoint):
    return lambda **more: parts[3](
        tiny_checkpoint, **{"generation_kwargs": {"max_tokens": 12}, **more}
    )


@pytest.fixture(scope="module")
def served(tiny_checkpoint):
    return GemModel.from_pretrained(tiny_checkpoint)


def test_documents_and_questions_are_embedded_as_the_model_does(parts, tiny_checkpoint, served):
    embedded = parts[0](model=tiny_checkpoint, progress_bar=False).run(DOCUMENTS)
    vectors = [document.embedding for document in embedded["documents"]]
    np.testing.assert_allclose(vectors, served.embed_documents(TEXTS), atol=1e-5)
    assert DOCUMENTS[0].embedding is None  # the caller's own are left alone
    found = parts[1](model=tiny_checkpoint).run("Where do rivers run?")
    np.testing.assert_allclose(
        found["embedding"], served.embed_query("Where do rivers run?"), atol=1e-5
    )
    assert found["meta"]["model"] == tiny_checkpoint


def test_metadata_is_embedded_before_the_content(parts, tiny_checkpoint, served):
    component = parts[0](tiny_checkpoint, meta_fields_to_embed=["title", "none"])
    (document,) = component.run(DOCUMENTS[:1])["documents"]
    expected = served.embed_documents([f"T0\n{TEXTS[0]}"])[0]
    np.testing.assert_allclose(document.embedding, expected, atol=1e-5)


def test_what_is_no_document_or_no_question_is_refused(parts, tiny_checkpoint):
    with pytest.raises(TypeError, match="GemTextEmbedder"):
        parts[0](tiny_checkpoint).run("Who wrote it?")
    with pytest.raises(TypeError, match="GemDocumentEmbedder"):
        parts[1](tiny_checkpoint).run(DOCUMENTS)


def test_documents_are_ranked_as_the_model_does(parts, tiny_checkpoint, served):
    ranked = parts[2](tiny_checkpoint, top_k=2).run("Who rides?", [*DOCUMENTS, DOCUMENTS[0]])
    expected = served.rank("Who rides?", TEXTS)[:2]
    assert [d.content for d in ranked["documents"]] == [TEXTS[r.index] for r in expected]
    assert [d.score for d in ranked["documents"]] == pytest.approx(
        [r.score for r in expected], abs=1e-4
    )


def test_a_ranker_keeps_what_it_is_asked_to_keep(parts, tiny_checkpoint):
    ranker = parts[2](tiny_checkpoint)
    best = ranker.run("Who rides?", DOCUMENTS)["documents"]
    assert len(best) == 3
    least = best[1].score
    assert ranker.run("Who rides?", DOCUMENTS, score_threshold=least)["documents"] == best[:2]
    assert ranker.run("Who rides?", DOCUMENTS, top_k=1)["documents"] == best[:1]
    assert ranker.run(" ", DOCUMENTS)["documents"] == DOCUMENTS
    assert ranker.run("Who rides?", [])["documents"] == []
    with pytest.raises(ValueError, match="at least 1"):
        ranker.run("Who rides?", DOCUMENTS, top_k=0)


def test_what_was_read_to_embed_is_ranked_without_reading(parts, tiny_checkpoint, tmp_path):
    parts[0](tiny_checkpoint, readings=tmp_path).run(DOCUMENTS)
    kept = {file.name: file.stat().st_mtime_ns for file in tmp_path.iterdir()}
    assert len(kept) == 3
    asked = "Who rides?", DOCUMENTS
    known = parts[2](tiny_checkpoint, readings=tmp_path).run(*asked)["documents"]
    afresh = parts[2](tiny_checkpoint).run(*asked)["documents"]
    # On disk a reading is kept in bfloat16.
    assert [d.score for d in known] == pytest.approx([d.score for d in afresh], abs=2e-3)
    assert {file.name for file in tmp_path.iterdir()} == kept.keys()


def test_a_pipeline_is_written_to_a_file_and_answers_the_same_when_read_back(
    parts, tiny_checkpoint, tmp_path
):
    embedder, asker, ranker, generator = parts
    store = InMemoryDocumentStore(embedding_similarity_function="cosine")
    filling = Pipeline()
    filling.add_component("embed", embedder(tiny_checkpoint, device=CPU))
    filling.add_component("write", DocumentWriter(store))
    filling.connect("embed.documents", "write.documents")
    Pipeline.loads(filling.dumps())  # every component can be written
    filling.run({"embed": {"documents": DOCUMENTS}})

    asking = Pipeline()
    asking.add_component("embed", asker(tiny_checkpoint, device=CPU))
    asking.add_component("find", InMemoryEmbeddingRetriever(store, top_k=3))
    asking.add_component("rank", ranker(tiny_checkpoint, device=CPU, top_k=2))
    asking.add_component("say", ChatPromptBuilder([ChatMessage.from_user(PROMPT)]))
    asking.add_component(
        "answer", generator(tiny_checkpoint, device=CPU, generation_kwargs={"max_tokens": 8})
    )
    asking.connect("embed.embedding", "find.query_embedding")
    asking.connect("find.documents", "rank.documents")
    asking.connect("rank.documents", "say.documents")
    asking.connect("say.prompt", "answer.messages")
    asked = "How long is the warranty?"
    inputs = {"embed": {"text": asked}, "rank": {"query": asked}, "say": {"question": asked}}
    (reply,) = asking.run(inputs)["answer"]["replies"]
    assert reply.meta["usage"]["completion_tokens"] <= 8

    again = Pipeline.loads(asking.dumps())
    again.get_component("find").document_store = store
    (same,) = again.run(inputs)["answer"]["replies"]
    assert same.text == reply.text


def test_every_setting_survives_a_file(parts, tiny_checkpoint, tmp_path, monkeypatch):
    monkeypatch.setenv("HAYSTACK_DESERIALIZATION_ALLOWLIST", "*test_haystack*")  # our functions
    more = {"device": CPU, "dtype": "float32", "revision": None}
    listed = {"meta_fields_to_embed": ["title"], "embedding_separator": " "}
    kept = {"readings": str(tmp_path)}
    made = [
        parts[0](tiny_checkpoint, progress_bar=False, **listed, **kept, **more),
        parts[1](tiny_checkpoint, **more),
        parts[2](tiny_checkpoint, top_k=3, score_threshold=-1.5, **listed, **kept, **more),
        parts[3](
            tiny_checkpoint,
            generation_kwargs={"temperature": 0.5, "stop": ["\n"]},
            timeout=60,
            streaming_callback=listen,
            tools=[kettle()],
            **more,
        ),
    ]
    for component in made:
        written = component.to_dict()
        assert type(component).from_dict(component.to_dict()).to_dict() == written


def test_a_loaded_model_is_taken_and_written_by_its_name(parts, served, tiny_checkpoint):
    component = parts[1](served)
    assert component.run("Who wrote it?")["embedding"]
    assert component.to_dict()["init_parameters"]["model"] == tiny_checkpoint


def test_an_answer_has_text_reason_and_counts(generator, served):
    (reply,) = generator().run("Who wrote it?")["replies"]
    expected = served.generate("Who wrote it?", max_new_tokens=12)
    assert (reply.text or "") == expected.text
    assert reply.meta["finish_reason"] == expected.finish_reason
    assert reply.meta["usage"]["total_tokens"] == expected.usage.total_tokens
    assert generator().run([])["replies"] == []


def test_options_are_honoured_or_named(generator):
    stopping = generator(generation_kwargs={"max_tokens": 12, "temperature": 1.0, "seed": 3})
    (first,) = stopping.run("Who wrote it?")["replies"]
    (second,) = stopping.run("Who wrote it?", generation_kwargs={"seed": 4})["replies"]
    (again,) = stopping.run("Who wrote it?", generation_kwargs={"seed": 3})["replies"]
    assert first.text == again.text != second.text
    with pytest.raises(OptionError, match="did you mean 'temperature'"):
        generator(generation_kwargs={"temprature": 1})
    with pytest.raises(GenerationTimeout):
        generator(timeout=1e-6, generation_kwargs={"max_tokens": 900}).run("Who wrote it?")


def test_chunks_are_the_answer_and_the_last_says_how_it_ended(generator):
    heard.clear()
    (reply,) = generator(streaming_callback=listen).run("Who wrote it?")["replies"]
    assert "".join(chunk.content for chunk in heard) == (reply.text or "")
    assert [chunk.start for chunk in heard[:-1]] == [True] + [False] * (len(heard) - 2)
    assert heard[-1].finish_reason == reply.meta["finish_reason"]
    assert heard[-1].meta["usage"] == reply.meta["usage"]
    assert heard[0].component_info.type.endswith("GemChatGenerator")


async def test_awaited_is_the_same_as_called(parts, generator, tiny_checkpoint):
    (called,) = generator().run("Who wrote it?")["replies"]
    (awaited,) = (await generator().run_async("Who wrote it?"))["replies"]
    pieces = []

    async def hear(chunk):
        pieces.append(chunk.content)

    (streamed,) = (await generator().run_async("Who wrote it?", hear))["replies"]
    assert called.text == awaited.text == streamed.text == ("".join(pieces) or None)
    embedded = await parts[0](tiny_checkpoint).run_async(DOCUMENTS)
    question = await parts[1](tiny_checkpoint).run_async("Who wrote it?")
    ranked = await parts[2](tiny_checkpoint).run_async("Who wrote it?", embedded["documents"])
    assert len(question["embedding"]) == len(ranked["documents"][0].embedding) == 32


def warranty(product: str) -> str:
    """How long the warranty of a product is."""
    return f"{product}: seven years"


def kettle():
    parameters = {"type": "object", "properties": {"product": {"enum": ["kettle", "horse"]}}}
    parameters["required"] = ["product"]
    return Tool(
        name="warranty", description="A warranty.", parameters=parameters, function=warranty
    )


def test_tools_are_called_with_arguments_that_fit_and_their_results_are_read(generator):
    calling = generator(generation_kwargs={"max_tokens": 64, "tool_choice": "any"})
    heard.clear()
    question = ChatMessage.from_user("How long is the warranty?")
    (reply,) = calling.run([question], listen, tools=[kettle()])["replies"]
    (call,) = reply.tool_calls
    assert call.tool_name == "warranty"
    assert call.arguments["product"] in {"kettle", "horse"}
    assert reply.meta["finish_reason"] == heard[-1].finish_reason == "tool_calls"
    told = [chunk.tool_calls[0] for chunk in heard if chunk.tool_calls]
    assert (told[0].tool_name, told[0].id) == ("warranty", call.id)
    assert json.loads("".join(piece.arguments for piece in told)) == call.arguments
    result = ChatMessage.from_tool(kettle().invoke(**call.arguments), origin=call)
    (end,) = generator(tools=[kettle()]).run([question, reply, result])["replies"]
    assert end.meta["usage"]["prompt_tokens"] > reply.meta["usage"]["prompt_tokens"]


class Answer(BaseModel):
    good: bool


def test_an_answer_fits_its_schema_also_after_a_file(parts, generator):
    asking = generator(generation_kwargs={"max_tokens": 32, "response_format": Answer})
    for component in (asking, parts[3].from_dict(asking.to_dict())):
        (reply,) = component.run("Is it good?")["replies"]
        assert isinstance(Answer.model_validate_json(reply.text), Answer)


def test_pictures_are_refused(generator):
    picture = ImageContent("aGk=", mime_type="image/png", validation=False)
    message = ChatMessage.from_user(content_parts=["What is this?", picture])
    with pytest.raises(GemError, match="text only"):
        generator().run([message])
    call = ToolCall(tool_name="look", arguments={})
    with pytest.raises(GemError, match="text only"):
        generator().run([ChatMessage.from_tool([picture], origin=call)])
