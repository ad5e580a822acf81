"""Rows made of texts: questions out of sentences, passages that look right, people's answers."""

from random import Random

import pytest

from gem_rag_train.data.answering import as_answer, as_sentence, first_marked, search_question
from gem_rag_train.data.asked import Asked, holding
from gem_rag_train.data.echo import echo, echoes
from gem_rag_train.data.ranking import NEGATIVES, Questioned, with_negatives
from gem_rag_train.data.spans import spans

BUILT = "The old mill was built in 1984 by Anna Berg."


@pytest.mark.parametrize(
    ("sentence", "found"),
    [
        (BUILT, {"year": "1984", "name": "Anna Berg"}),
        ("It opened on 3 May 1999 in Rome.", {"date": "3 May 1999", "name": "Rome"}),
        ("They paid $3,000 for the small wooden house.",
         {"number": "$3,000", "noun": "the small wooden house"}),
        ("About 20% of them left.", {"number": "20%"}),
    ],
)  # fmt: skip
def test_what_can_be_asked_for_is_found(sentence, found):
    assert {s.kind: sentence[s.start : s.end] for s in spans(sentence)} == found


@pytest.mark.parametrize(
    ("sentence", "answer", "questions"),
    [
        (BUILT, "1984", {"In what year was the old mill built by Anna Berg?",
                         "When was the old mill built by Anna Berg?"}),
        ("Anna Berg built the first mill of the town.", "Anna Berg",
         {"Who built the first mill of the town?", "What built the first mill of the town?"}),
        ("The town needed 300 workers for the mill.", "300",
         {"The town needed how many workers for the mill?"}),
        ("The mill was sold to Norsk Papir in spring.", "Norsk Papir",
         {"To what was the mill sold in spring?", "To who was the mill sold in spring?"}),
    ],
)  # fmt: skip
def test_a_question_asks_for_a_part_of_a_sentence(sentence, answer, questions):
    (span,) = [s for s in spans(sentence) if sentence[s.start : s.end] == answer]
    made = {echo(sentence, span, Random(seed)).question for seed in range(20)}
    assert made <= questions


def test_questions_stand_alone_and_their_answers_in_the_text():
    text = (
        "He was born in 1950 in a small town. Oslo, Bergen and Tromsø lie by the sea. "
        '"The mill closed in 1990," said Anna. The mill of Dr. Berg was closed in 1990 by the king.'
    )
    made = echoes(text, Random(0), 10)
    assert made
    for one in made:
        assert one.sentence == "The mill of Dr. Berg was closed in 1990 by the king."
        assert one.answer in text
        assert one.answer not in one.question
        assert one.question.endswith("?")
    assert echoes(text, Random(0), 10) == made
    assert len(echoes(text, Random(0), 1)) == 1


def test_wrong_passages_are_near_ones_without_the_answer():
    kettle = "The kettle was made in Norway and holds two litres of water."
    near = (
        "The kettle has a warranty of seven years.",
        "A kettle was made in norway as well.",
        "Salt is mined in the south.",
    )
    other = Questioned("Where is the pan from?", "The pan is from Spain.", ("Spain",), ())
    question = Questioned("Where was the kettle made?", kettle, ("Norway",), near)
    rows = dict(with_negatives([question, other]))
    assert rows[question] == (near[0], near[2], other.passage)
    assert all(len(negatives) <= NEGATIVES for negatives in rows.values())


def test_peoples_answers_become_answers():
    assert as_answer(" the sea. ") == "The sea"
    assert as_sentence("it rained") == "It rained."
    assert search_question("is salt wet ") == "Is salt wet?"
    marked = ("In May, she left for good, In May, she left, she left",)
    assert first_marked(Asked("In May, she left for good and wept.", "", marked)) == (
        "In May, she left for good"
    )
    assert holding(["A kettle.", "The seven years, it says"], ["Seven years."]) == [1]
