"""Hand-written questions: that they are sound, that the judge tells right from wrong."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import pytest

from gem_rag.compute.skill import Skill
from gem_rag.config import SkillConfig
from gem_rag.errors import GemError
from gem_rag.rag import ASK
from gem_rag_train.evaluation.cases import (
    BATCH,
    KINDS,
    Reference,
    answered,
    documents,
    hand_written,
    is_right,
    two_passages,
)

CASES, PAIRS, DOCUMENTS = hand_written(), two_passages(), documents()
ALL = [pytest.param(case, id=case.id) for case in (*CASES, *PAIRS)]


def test_there_are_a_hundred_cases_of_eight_kinds_and_sixty_that_need_two_passages():
    kinds = Counter(case.kind for case in CASES)
    assert len(CASES) == 100
    assert set(kinds) == set(KINDS)
    assert max(kinds.values()) - min(kinds.values()) <= 1
    assert Counter(pair.source for pair in PAIRS) == {"docs": 20, "factbook": 20, "django": 20}
    assert len({case.id for case in (*CASES, *PAIRS)}) == 160
    assert len({case.question for case in (*CASES, *PAIRS)}) == 160


def test_documents_are_short_and_each_is_asked_about():
    assert 12 <= len(DOCUMENTS) <= 20
    assert all(80 <= len(text.split()) <= 250 for text in DOCUMENTS.values())
    assert {case.document for case in CASES} == set(DOCUMENTS)


@pytest.mark.parametrize("case", [pytest.param(case, id=case.id) for case in CASES])
def test_a_passage_is_a_part_of_its_document(case):
    assert DOCUMENTS[case.document].count(case.passage) == 1
    assert len(case.passage.split()) <= 200


@pytest.mark.parametrize("case", ALL)
def test_right_answers_pass_and_fluent_wrong_ones_fail(case):
    assert case.answers
    assert case.wrong
    assert case.accept or case.starts
    for answer in case.answers:
        assert is_right(answer, case), answer
        assert is_right(f"**{answer.upper()}**\n", case), answer
    for answer in case.wrong:
        assert not is_right(answer, case), answer
    for nothing in ("", case.question, "The text does not say.", "I found nothing about this."):
        assert not is_right(nothing, case), nothing


def test_yes_and_no_are_asked_for_equally_often():
    starts = Counter(case.starts for case in CASES if case.kind == "yes_no")
    assert set(starts) == {"yes", "no"}
    assert abs(starts["yes"] - starts["no"]) <= 1
    assert not any(case.starts for case in CASES if case.kind != "yes_no")


def test_the_judge_looks_at_whole_words_one_after_the_other():
    case = replace(
        CASES[0],
        starts="",
        accept=(("two years",), ("scratch*", "rust")),
        reject=("five",),
    )
    assert is_right("It lasts for two years.", case)
    assert is_right("Rust, because it is scratched.", case)
    assert not is_right("Two or three years.", case)
    assert not is_right("It lasts for twenty-two yearsome.", case)
    assert not is_right("It is scratched and trusty.", case)
    assert not is_right("Not five but two years.", case)


def test_what_is_data_here_needs_no_network():
    pairs = [pair for pair in PAIRS if pair.source == "docs"]
    for pair in pairs:
        one, two = pair.passages
        assert one != two
        assert all(r.text and not r.start for r in pair.references)
        assert one.startswith(f"{pair.references[0].title}\n\n")


def test_texts_of_fetched_sources_are_not_copied():
    for pair in PAIRS:
        if pair.source != "docs":
            assert not any(reference.text for reference in pair.references)
            assert all(1 <= len(r.start.split()) <= 8 for r in pair.references), pair.id


@pytest.mark.model
def test_each_reference_finds_exactly_one_passage():
    for pair in PAIRS:
        one, two = pair.passages
        assert one != two
        for reference, passage in zip(pair.references, (one, two), strict=True):
            assert passage.startswith(f"{reference.title}\n\n{reference.text or reference.start}")


def test_a_reference_that_finds_nothing_says_so(monkeypatch):
    monkeypatch.setattr(
        "gem_rag_train.evaluation.cases.FETCHED", {"factbook": lambda: (), "django": lambda: ()}
    )
    pair = next(pair for pair in PAIRS if pair.source == "factbook")
    with pytest.raises(GemError, match="0 passages of factbook under 'Slovenia: Religions'"):
        _ = pair.passages


def test_each_case_is_answered_from_its_own_passage(gem):
    cases = CASES[: BATCH + 2]
    answers = answered(gem, cases, max_new_tokens=4)
    assert len(answers) == len(cases)
    for case, answer in list(zip(cases, answers, strict=True))[-2:]:
        (reading,) = gem.read([case.passage])
        asked = ASK.format(question=case.question)
        assert answer == gem.generate(asked, after=reading, max_new_tokens=4).text.strip()


def test_a_skill_is_asked_in_its_own_words_and_only_where_one_is_named(gem, monkeypatch):
    config = SkillConfig("own", "answer", gem.config.base, "\nIn a word: {question}")
    monkeypatch.setitem(gem.parts.skills, "own", Skill.new(gem.base, config))
    (case,) = CASES[:1]
    (reading,) = gem.read([case.passage])
    asked = config.asked(case.question)
    expected = gem.generate(asked, after=reading, skill="own", max_new_tokens=4).text.strip()
    assert answered(gem, [case], skill="own", max_new_tokens=4) == [expected]
    plain = gem.generate(ASK.format(question=case.question), after=reading, max_new_tokens=4)
    assert answered(gem, [case], max_new_tokens=4) == [plain.text.strip()]


def test_a_reference_stands_under_its_title():
    pair = replace(
        next(pair for pair in PAIRS if pair.source == "docs"),
        references=(Reference("Rivers", "They run to the sea."), Reference("Tea", "It is hot.")),
    )
    assert pair.passages == ("Rivers\n\nThey run to the sea.", "Tea\n\nIt is hot.")
