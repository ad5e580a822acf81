"""Follow-ups and changes of subject: from which passage a conversation goes on."""

import pytest

from gem_rag.documents import Document
from gem_rag.rag import NOTHING_FOUND, Citation, GemRAG, in_context
from gem_rag.rag.conversation import MARGIN, find_in_context
from gem_rag.rag.question import found_by, stands_alone
from gem_rag.rag.retrieve import Found

KETTLE = [
    {"role": "user", "content": "How long is the warranty of the kettle?"},
    {"role": "assistant", "content": "The kettle has a warranty of seven years."},
]


def test_small_talk_is_no_question_to_come_back_to():
    history = [*KETTLE, {"role": "user", "content": "Thanks!"}]
    history.append({"role": "assistant", "content": "You are welcome."})
    asked = "How long is the warranty of the kettle? Who pays?"
    assert in_context("Who pays?", history) == asked
    assert "welcome" not in found_by("Who pays?", history)


def test_a_follow_up_is_searched_by_what_the_last_answer_spoke_of():
    searched = found_by("Who pays?", KETTLE)
    assert searched == f"{KETTLE[0]['content']} {KETTLE[1]['content']} Who pays?"
    silent = [KETTLE[0], {"role": "assistant", "content": NOTHING_FOUND}]
    assert found_by("Who pays?", silent) == f"{KETTLE[0]['content']} Who pays?"
    assert found_by("Who pays?", []) == "Who pays?"
    long = [KETTLE[0], {"role": "assistant", "content": "word " * 5000}]
    assert len(found_by("Who pays?", long)) < 300


@pytest.mark.parametrize(
    ("question", "alone"),
    [
        ("Which colours does the toaster come in?", True),
        ("toaster colours", True),
        ("How long is it?", False),
        ("Does he like the toaster?", False),
        ("Are there other colours?", False),
        ("Why?", False),
        ("And the toaster?", False),
        ("", False),
    ],
)
def test_what_points_back_or_says_little_does_not_stand_alone(question, alone):
    assert stands_alone(question) == alone


class Passages:
    """A search that gives each question its best passage with a score, and records what is asked.

    Args:
        scores: Of passages, by what is asked.
    """

    def __init__(self, **scores: dict[str, float]) -> None:
        self._scores = {name.replace("_", " "): found for name, found in scores.items()}
        self.asked: list[str] = []

    def __call__(self, question, /, *, searched=None, only=None):
        self.asked.append(question)
        known = next(v for name, v in self._scores.items() if question.startswith(name))
        best = sorted(known, key=lambda p: -known[p]) if only is None else [only]
        cited = [
            Citation("", 0, 0, 0.0, known[p], "", id=p, confidence=known[p])
            for p in best
            if p in known
        ]
        return Found(cited, [], [], 0.0)


TOASTER = "Which colours does the toaster come in?"


def chosen(passages, question=TOASTER, history=KETTLE, threshold=0.4):
    found, asked = find_in_context(passages, question, history, threshold)
    return found.citations[0].id, asked


def test_a_new_subject_is_asked_without_the_old_one():
    passages = Passages(
        How_long={"kettle": 1.2, "toaster": 0.9}, Which={"toaster": 0.9, "kettle": 0.1}
    )
    assert chosen(passages) == ("toaster", TOASTER)


def test_what_the_conversation_leads_to_stays_unless_the_other_says_more():
    close = Passages(
        How_long={"kettle": 1.2, "toaster": 0.9}, Which={"toaster": 0.9, "kettle": 0.9 - MARGIN / 2}
    )
    assert chosen(close) == ("kettle", in_context(TOASTER, KETTLE))


def test_what_points_back_is_looked_for_once_in_the_light_of_the_conversation():
    passages = Passages(How_long={"kettle": 1.2}, Who={"toaster": 9.0})
    assert chosen(passages, "Who pays for it?")[0] == "kettle"
    assert len(passages.asked) == 1


def test_a_new_question_that_nothing_answers_is_not_answered_from_the_old_passage():
    passages = Passages(How_long={"kettle": 1.2}, Which={"kettle": 0.1, "toaster": 0.2})
    found, asked = find_in_context(passages, TOASTER, KETTLE, 0.4)
    assert asked == TOASTER
    assert found.citations[0].confidence < 0.4


def test_without_ranking_or_without_a_passage_the_conversation_leads():
    class Unranked(Passages):
        def __call__(self, question, /, *, searched=None, only=None):
            return Found([Citation("", 0, 0, 0.5, None, "", id="kettle")], [], [], 0.0)

    assert chosen(Unranked())[0] == "kettle"
    passages = Passages(How_long={"kettle": 1.2}, Which={})
    assert chosen(passages)[0] == "kettle"


def test_the_first_question_of_a_conversation_is_asked_as_it_is():
    passages = Passages(Which={"toaster": 0.9})
    assert chosen(passages, history=[]) == ("toaster", TOASTER)
    assert len(passages.asked) == 1


def test_a_conversation_about_chunks_in_an_index(gem):
    """The tiny model's likelihoods mean little; that every way through works, and is timed."""
    rag = GemRAG(gem, threshold=None)
    rag.add([Document(f"The {what} is red.", f"{what}.md") for what in ("kettle", "toaster")])
    for mode in ("hybrid", "words", "vector"):
        for rank in (True, False):
            answer = rag.chat(TOASTER, KETTLE, max_new_tokens=2, mode=mode, rank=rank)
            assert answer.citations
            parts = answer.timings["retrieve"] + answer.timings["rank"]
            assert parts <= answer.timings["total"]


MANUALS = [
    Document(
        "# Kettle\n\nThe kettle has a warranty of seven years. It boils a litre of water in two "
        "minutes and switches itself off. Its plug fits sockets in Britain.",
        "kettle.md",
        markdown=True,
    ),
    Document(
        "# Toaster\n\nThe toaster comes in red, green and cream. It has two slots and a tray for "
        "crumbs, which is emptied once a week.",
        "toaster.md",
        markdown=True,
    ),
    Document(
        "# Opening hours\n\nThe shop is open from nine to five on weekdays and closed on Sundays.",
        "shop.md",
        markdown=True,
    ),
]


@pytest.fixture(scope="module")
def manuals(default_model):
    rag = GemRAG(default_model)
    rag.add(MANUALS)
    return rag


@pytest.mark.model
def test_toaster_after_kettle(manuals):
    answer = manuals.chat(TOASTER, KETTLE, max_new_tokens=32)
    assert answer.citations[0].source == "toaster.md"
    assert "red" in answer.answer.lower()


@pytest.mark.model
@pytest.mark.parametrize("question", ["How fast does it boil water?", "Where does its plug fit?"])
def test_what_points_back_stays_with_the_kettle(manuals, question):
    answer = manuals.chat(question, KETTLE, max_new_tokens=32)
    assert answer.citations[0].source == "kettle.md"


@pytest.mark.model
def test_nothing_in_the_documents_is_said_in_a_conversation_too(manuals):
    answer = manuals.chat("Who composed the opera about Carmen?", KETTLE, max_new_tokens=32)
    assert (answer.finish_reason, answer.citations) == ("nothing_found", [])
