"""Sentences of a text: whole ones, with their exact places."""

import pytest

from gem_rag.documents.sentences import sentences


def parts(text, source=""):
    return [text[start:end] for start, end in sentences(text, source)]


@pytest.mark.parametrize(
    "whole",
    [
        "Dr. Smith met J. R. Jones at 3.5 km from St. Ives.",
        "See Fig. 3 and pp. 12 to 14, No. 5 among them.",
        "Version 2.1.3 costs $3.50, e.g. at example.com/a.b today.",
        "She moved to the U.S. Senate in Jan. 2004.",
        "Apple Inc. CEO Tim Cook spoke.",
        "Die Garantie beträgt z.B. zwei Jahre und endet am 3. Oktober.",
        '"Was it?" he asked.',
        "He waited... and then he left.",
        "A line of prose that is wrapped over two\nLines of about the same length stays one.",
        "A word that goes on\nin the next line.",
    ],
)
def test_what_is_one_sentence_stays_one(whole):
    assert parts(whole) == [whole]
    assert parts(f"{whole} Then it rained.\n") == [whole, "Then it rained."]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("It ended at 5 p.m. Then I left.", ["It ended at 5 p.m.", "Then I left."]),
        ("It was 1990. It rained.[3] Why?! Who knows.", None),
        ("(He said: “Go!”) He went.", ["(He said: “Go!”)", "He went."]),
        ("There were few, etc. Others came.", ["There were few, etc.", "Others came."]),
        ("保証期間は七年です。本体は赤いです！", ["保証期間は七年です。", "本体は赤いです！"]),
        ("यह एक वाक्य है। यह दूसरा है।", ["यह एक वाक्य है।", "यह दूसरा है।"]),
        ("هل هذا صحيح؟ نعم.", ["هل هذا صحيح؟", "نعم."]),
    ],
)
def test_sentences_end_in_many_scripts(text, expected):
    assert parts(text) == (expected or ["It was 1990.", "It rained.[3]", "Why?!", "Who knows."])


def test_lines_that_stand_alone_are_sentences():
    text = (
        "# The kettle\r\n\r\nIt has a warranty of seven\r\nyears. It is red.\r\n\r\n"
        "1. Fill it.\r\n2. Switch it on. Wait.\r\n- An item\r\n  that goes on\r\n\r\n"
        "| part | price |\r\n|---|---|\r\n| lid | 3.50 |\r\n\r\n"
        "Name: Bob\r\nPhone: 123\r\n\r\n```py\r\nx = 1.\r\nprint(x)\r\n```\r\n"
    )
    assert parts(text) == [
        "# The kettle",
        "It has a warranty of seven\r\nyears.",
        "It is red.",
        "1. Fill it.",
        "2. Switch it on.",
        "Wait.",
        "- An item\r\n  that goes on",
        "| part | price |",
        "|---|---|",
        "| lid | 3.50 |",
        "Name: Bob",
        "Phone: 123",
        "```py",
        "x = 1.",
        "print(x)",
        "```",
    ]


def test_programs_and_rows_are_taken_line_by_line():
    code = "def f(x):\n    return x\n"
    assert parts(code, "a.py") == ["def f(x):", "return x"]
    assert parts("a,b. C\nc,d\n", "a.csv") == ["a,b. C", "c,d"]


@pytest.mark.parametrize("text", ["", " \n\r\n ", ".", "...", "。", "- ", "#", "|", "x" * 20_000])
def test_odd_texts(text):
    assert "".join(parts(text)) == text.strip()
