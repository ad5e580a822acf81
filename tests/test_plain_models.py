"""A base without a checkpoint reads, ranks, answers and finds by words; to embed it is trained."""

import shutil
import warnings

import numpy as np
import pytest
from langchain_core.messages import HumanMessage
from tiny import make_base

from gem_rag import ChatGem, GemEmbeddings, GemRetriever, GemVectorStore
from gem_rag.documents import Document
from gem_rag.errors import CheckpointError, GemError
from gem_rag.index import GemIndex
from gem_rag.model import GemModel, create
from gem_rag.rag import GemRAG

DOCUMENTS = [
    Document("The kettle has a warranty of seven years.", "kettle.md"),
    Document("Rivers run to the sea.", "rivers.md"),
    Document("Error ERR_CONN_42 means that the server hung up.", "errors.md"),
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return make_base(tmp_path_factory.mktemp("plain") / "tiny-base")


@pytest.fixture(scope="module")
def plain(folder):
    return GemModel.from_base(folder)


@pytest.fixture(scope="module")
def trained(folder, tmp_path_factory):
    saved = create(folder, num_special_tokens=2).save_pretrained(
        tmp_path_factory.mktemp("trained") / "checkpoint"
    )
    return GemModel.from_pretrained(saved)


@pytest.fixture
def rag(plain):
    rag = GemRAG(plain, threshold=None)
    rag.add(DOCUMENTS)
    return rag


def sources(citations):
    return [citation.source for citation in citations]


def test_it_reads_ranks_and_answers(plain):
    assert not plain.embeds
    [reading] = plain.read(["The kettle."])
    assert {ranked.index for ranked in plain.rank("kettle?", ["The kettle.", reading])} == {0, 1}
    assert plain.generate("Hello", max_new_tokens=2).usage.completion_tokens > 0
    assert plain.generate(" Why?", after=reading, max_new_tokens=2).text is not None


@pytest.mark.parametrize(
    "embed",
    [
        lambda model: model.embed_query("x"),
        lambda model: model.embed_queries(["x"]),
        lambda model: model.embed_documents(["x"]),
        lambda model: model.embed_readings(model.read(["x"])),
        lambda model: model.embed_spans(model.read(["x y z"])[0], [(0, 1)]),
        lambda model: model.read(["x"])[0].embed(),
        lambda model: GemEmbeddings(model).embed_query("x"),
        lambda model: GemEmbeddings(model).embed_documents(["x"]),
    ],
)
def test_embedding_says_what_to_do(plain, embed):
    with pytest.raises(CheckpointError, match="gem-rag train"):
        embed(plain)


def test_it_is_no_checkpoint_to_be_saved(plain, tmp_path):
    with pytest.raises(CheckpointError, match="gem-rag train"):
        plain.save_pretrained(tmp_path / "saved")
    assert not (tmp_path / "saved").exists()


def test_from_pretrained_takes_it_with_one_warning(folder, plain):
    with pytest.warns(UserWarning, match=r"plain model.*gem-rag train") as warned:
        loaded = GemModel.from_pretrained(folder)
    assert len(warned) == 1
    assert loaded is plain
    with warnings.catch_warnings(action="error"):
        assert GemModel.from_base(folder) is plain


def test_a_checkpoint_and_a_folder_of_something_else_are_told_apart(trained, tmp_path):
    assert trained.embeds
    with pytest.raises(GemError, match=str(tmp_path)):
        GemModel.from_base(tmp_path)
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(GemError), warnings.catch_warnings(action="ignore"):
        GemModel.from_pretrained(tmp_path)


def test_it_finds_by_words_and_answers(rag):
    assert sources(rag.retrieve("ERR_CONN_42?", rank=False)) == ["errors.md"]
    [citation] = rag.retrieve("Which warranty?")
    assert (citation.source, citation.score) == ("kettle.md", None)
    assert citation.word_score > 0
    assert citation.rank_score is not None
    answer = rag.answer("How long is the warranty?", max_new_tokens=2)
    assert sources(answer.citations) == ["kettle.md"]
    with pytest.raises(CheckpointError, match="gem-rag train"):
        rag.retrieve("warranty", mode="vector")


def test_its_index_belongs_to_no_model(rag):
    info = rag.index.info()
    assert (info.fingerprint, info.dim, info.vectors, info.count) == (None, None, 0, 3)
    assert len(rag.add(DOCUMENTS).unchanged) == 3


def test_a_trained_model_embeds_what_has_no_vectors(rag, trained, plain):
    """Also of documents that have not changed, at its next `add`, of whatever."""
    later = GemRAG(trained, rag.index, threshold=None)
    assert later.index.info().fingerprint == trained.fingerprint
    report = later.add(Document("A new one.", "new.md"))
    assert (report.added, report.chunks) == (["new.md"], 1)
    assert (later.index.info().vectors, later.index.count()) == (4, 4)
    assert all(document.is_whole for document in later.index.documents.all())
    found = {record.words: record.vector for record in later.index.iterate(vectors=True)}
    expected = trained.embed_documents(list(found))
    np.testing.assert_allclose(list(found.values()), expected, atol=1e-5)
    assert sources(later.retrieve("warranty", k=9, mode="vector"))
    assert len(later.add(DOCUMENTS).unchanged) == 3
    # And the plain model goes on finding by words in it.
    assert sources(GemRAG(plain, rag.index).retrieve("warranty", rank=False)) == ["kettle.md"]


def test_what_a_plain_model_adds_to_a_trained_ones_index_waits_for_it(trained, plain):
    index = GemIndex()
    GemRAG(trained, index).add(DOCUMENTS[0])
    GemRAG(plain, index).add(DOCUMENTS[1])
    assert index.info().vectors == 1
    assert sources(GemRAG(trained, index, threshold=None).retrieve("rivers", rank=False))[0] == (
        "rivers.md"
    )
    GemRAG(trained, index).add([])
    assert index.info().vectors == 2


def test_a_chunk_that_was_deleted_comes_back_with_the_next_add(rag):
    text = " ".join(f"Sentence number {n} about rivers." for n in range(60))
    rag.chunk_tokens = 40
    rag.add(Document(text, "long.md"))
    chunks = [record for record in rag.index if record.source == "long.md"]
    assert len(chunks) > 3
    assert rag.add(Document(text, "long.md")).unchanged == ["long.md"]
    rag.index.delete([chunks[1].id])
    assert rag.index.documents.get("long.md").state == "changed"
    assert rag.add(Document(text, "long.md")).replaced == ["long.md"]
    again = [record.text for record in rag.index if record.source == "long.md"]
    assert again == [chunk.text for chunk in chunks]
    assert rag.index.documents.text("long.md") == text


def test_langchains_classes_over_it(plain, rag, trained):
    assert ChatGem(model=plain, max_tokens=2).invoke([HumanMessage("Hi")]).content is not None
    store = GemVectorStore(GemEmbeddings(plain), index=rag.index)
    [more] = store.add_texts(["A teapot is no samovar."])
    assert store.search("samovar", "hybrid")[0].id == more  # found by words
    assert GemRetriever(vectorstore=store).invoke("samovar")[0].id == more
    with pytest.raises(CheckpointError, match="gem-rag train"):
        store.similarity_search("warranty")
    [document] = GemRetriever(vectorstore=store).invoke("warranty")
    assert document.metadata["source"] == "kettle.md"
    assert document.metadata["rank_score"] is not None
    [document] = store.as_retriever(search_type="words").invoke("warranty")
    assert document.metadata["source"] == "kettle.md"
    assert rag.index.info().fingerprint is None  # or no trained model could go on with it
    GemVectorStore(GemEmbeddings(trained), index=rag.index)


def test_a_base_that_is_moved_is_still_one(folder, tmp_path):
    moved = shutil.copytree(folder, tmp_path / "moved")
    assert GemModel.from_base(str(moved)).path == moved
