"""Whether the documents answer: a probability, and the nearest passages where they do not."""

import dataclasses
import json

import numpy as np
import pytest

from gem_rag.config import CONFIG_FILE, AnswerableWeights, GemConfig
from gem_rag.documents import Document
from gem_rag.errors import GemError
from gem_rag.index import GemIndex
from gem_rag.model import GemModel
from gem_rag.rag import EMPTY_INDEX, NOTHING_FOUND, GemRAG
from gem_rag.rag.relevance import confidence
from gem_rag_train.evaluation.answerable import CONFIDENCE, RANK_SCORE, decided, tried
from gem_rag_train.evaluation.kept import KeptAnswers
from gem_rag_train.evaluation.sets import Question, Retrieval

PAGES = {
    "kettle.md": "The Zephyr kettle has a warranty of seven years and a red lid.",
    "rivers.md": "All rivers run to the sea, yet the sea is not full.",
    "shop.md": "The shop is open from nine to five, except on Sundays.",
    "horse.md": "A young child is riding a grey horse.",
    "bread.md": "The bread rises for two hours before it is baked.",
}


def documents():
    return [Document(text, name) for name, text in PAGES.items()]


@pytest.fixture
def pages(gem):
    """Documents, and a threshold that nothing reaches."""
    rag = GemRAG(gem, threshold=1.1)
    rag.add(documents())
    return rag


# The index: which of the question's words a chunk holds


def covered(index, text, **options):
    return {hit.id: hit.covered for hit in index.search(text=text, **options)}


def texts(*chunks):
    index = GemIndex()
    index.add(chunks, None, ids=[str(i) for i in range(len(chunks))])
    return index


def test_a_hit_says_which_part_of_the_questions_words_it_holds():
    index = texts("The kettle boils water.", "Kettles, kettles, kettles.", "The sea.")
    found = covered(index, "Does the kettle boil water?")
    assert found["0"] == pytest.approx(1)  # stems count as the word, "does" and "the" not at all
    assert 0 < found["1"] < 0.5  # a word counts once, however often it is there
    assert "2" not in found


def test_a_rare_word_counts_for_more_than_a_common_one():
    common = [f"water {i}" for i in range(500)]
    found = covered(texts(*common, "zephyr sea", "water sea"), "zephyr water", k=1000)
    assert found["500"] > 0.5 > found["501"]
    assert found["500"] + found["501"] == pytest.approx(1)


def test_in_a_small_index_one_missing_word_does_not_outweigh_all_others():
    found = covered(texts("The kettle boils water."), "How fast does the kettle boil water?")
    assert found["0"] > 0.7


def test_it_is_known_however_it_was_found_where_there_are_words():
    index = GemIndex()
    index.add(["kettle"], np.ones((1, 4), np.float32), ids=["0"])
    vector = np.ones(4, np.float32)
    assert index.search(vector, text="kettle", mode="vector")[0].covered == 1
    assert index.search(vector)[0].covered is None
    assert index.search(vector, text="?!")[0].covered is None


# The probability


def test_confidence_rises_with_what_is_explained_and_covered_and_stays_a_probability():
    weights = AnswerableWeights()
    likely = [confidence(share, share, share, weights) for share in (-1e9, 0, 0.3, 0.6, 1e9)]
    assert likely == sorted(likely)
    assert (likely[0], likely[-1]) == (0, 1)
    usual = confidence(0.3, weights.usual_covered, weights.usual_cosine, weights)
    assert confidence(0.3, None, None, weights) == usual


def test_passages_say_how_likely_they_answer_where_they_were_ranked(pages):
    for mode in ("hybrid", "vector", "words"):
        found = pages.retrieve("How long is the warranty of the kettle?", mode=mode)
        assert all(0 < c.confidence < 1 for c in found)
    assert all(c.confidence is None for c in pages.retrieve("the kettle", rank=False))


def test_a_checkpoint_carries_its_weights_and_an_older_one_has_the_defaults(gem, tmp_path):
    weights = AnswerableWeights(bias=-1.0, threshold=0.4)
    folder = gem.save_pretrained(tmp_path / "checkpoint")
    file = folder / CONFIG_FILE
    changed = dataclasses.replace(gem.config, answerable=weights)
    file.write_text(changed.to_json())
    assert GemConfig.from_folder(folder).answerable == weights
    assert GemRAG(GemModel.from_pretrained(folder)).threshold == 0.4
    older = json.loads(file.read_text())
    del older["answerable"]
    file.write_text(json.dumps(older))
    assert GemConfig.from_folder(folder).answerable == AnswerableWeights()


# What is said


def test_where_nothing_answers_the_nearest_passages_are_offered(pages):
    answer = pages.answer("How long is the warranty of the kettle?")
    assert (answer.answer, answer.finish_reason) == (NOTHING_FOUND, "nothing_found")
    assert answer.citations == []
    ranked = pages.retrieve("How long is the warranty of the kettle?", k=1)
    assert answer.nearest[0] == ranked[0]
    assert len(answer.nearest) == 3
    scores = [c.rank_score for c in answer.nearest]
    assert scores == sorted(scores, reverse=True)


def test_what_is_answered_offers_nothing_else(pages):
    pages.threshold = None
    stream = pages.stream("How long is the warranty of the kettle?", max_new_tokens=2)
    assert stream.nearest == []
    list(stream)
    assert stream.answer.nearest == []
    assert stream.answer.citations


async def test_streams_offer_them_too(pages):
    stream = pages.stream("Who won?")
    assert len(stream.nearest) == 3
    assert "".join(stream) == NOTHING_FOUND
    awaited = pages.astream("Who won?")
    assert [piece async for piece in awaited] == [NOTHING_FOUND]
    assert awaited.nearest == stream.nearest == awaited.answer.nearest


def test_no_more_are_offered_than_there_are(gem):
    rag = GemRAG(gem, threshold=1.1)
    rag.add(documents()[:1])
    assert [c.source for c in rag.answer("Who won?").nearest] == ["kettle.md"]
    nothing = rag.answer("Who won?", where={"$source": "elsewhere.md"})
    assert (nothing.finish_reason, nothing.nearest) == ("nothing_found", [])


def test_an_empty_index_says_so_without_asking_the_model(gem, monkeypatch):
    rag = GemRAG(gem, threshold=None)
    for name in ("embed_query", "rank", "stream"):
        monkeypatch.setattr(type(gem), name, None)
    answer = rag.answer("Who?", rank=False)
    assert (answer.answer, answer.finish_reason) == (EMPTY_INDEX, "empty_index")
    assert (answer.citations, answer.nearest) == ([], [])
    assert "".join(rag.stream("Who?")) == EMPTY_INDEX
    assert rag.retrieve("Who?") == []
    with pytest.raises(GemError, match="question is empty"):
        rag.answer(" ")


def test_an_index_that_was_emptied_is_empty(pages):
    pages.remove(list(PAGES))
    assert pages.answer("Who?").finish_reason == "empty_index"


# How it is measured


@pytest.fixture
def asked():
    questions = [
        Question("How long is the warranty of the kettle?", 0, ()),
        Question("Where do rivers run?", 1, ()),
        Question("When is the shop open?", 2, ()),
    ]
    return Retrieval(list(PAGES.values()), questions)


def test_every_question_is_asked_with_its_passage_and_without(gem, asked, tmp_path, monkeypatch):
    kept = KeptAnswers(tmp_path / "kept.jsonl")
    found = tried(gem, asked, kept, max_length=256, show_progress=False)
    assert found.known.shape == (3, 2, 4)
    own, without = found.known[:, 0, 1], found.known[:, 1, 1]
    assert own.max() == 1  # a question's own passage holds its words, the others do not
    assert without.max() == 0
    words = AnswerableWeights(explained=0.0, covered=9.0, cosine=0.0)
    own, without = found.by(CONFIDENCE, words)
    assert own.max() > without.max()
    assert found.answered(CONFIDENCE, words, 0.95).value == 0
    assert (found.by(RANK_SCORE, AnswerableWeights())[0] == found.known[:, 0, 3]).all()
    monkeypatch.setattr(type(gem), "rank", None)
    again = tried(gem, asked, KeptAnswers(tmp_path / "kept.jsonl"), max_length=256)
    assert (again.known == found.known).all()


def test_the_report_has_the_default_and_both_rules(gem, asked, tmp_path):
    measures = decided(gem, "pages", asked, tmp_path, max_length=256, show_progress=False)
    metrics = [m.metric for m in measures]
    assert metrics[:2] == ["answerable answered, default", "unanswerable answered, default"]
    assert "unanswerable answered, 80% kept by confidence" in metrics
    assert "unanswerable answered, 80% kept by rank score" in metrics
    assert {m.items for m in measures} == {3}
