"""Summaries: of which document, from which of its sentences, within which bounds."""

import pytest

from gem_rag.documents import Document, load_file
from gem_rag.index import GemIndex
from gem_rag.rag import GemRAG
from gem_rag.rag.leads import sentences
from gem_rag.rag.naming import to_summarise
from gem_rag.rag.overview import WHICH
from gem_rag.rag.summary import MOST_PARTS

HANDBOOK = """# Employee handbook

This handbook tells what applies to all who work here. Ask the office where it is silent.

## Holidays

Everybody has thirty days of holidays a year. Five of them may be taken into the next.

## Travel

| class | who |
|---|---|
| first | nobody |

Trains are booked by the office. Taxis are paid for at night alone.

## Sickness

- On the third day of an illness a doctor's note is needed.
- Children's days are counted apart.
"""


@pytest.fixture
def handbook():
    return Document(HANDBOOK, "docs/employee-handbook.md", markdown=True)


@pytest.fixture
def rag(gem, handbook):
    rag = GemRAG(gem, threshold=None, chunk_tokens=80)
    rag.add(handbook)
    return rag


@pytest.fixture
def library(rag):
    rag.add(Document("# Kettles\n\nThe kettle boils a litre. It is red.", "k1.md", markdown=True))
    rag.add(Document("Rivers run to the sea. They are long.", "rivers.txt"))
    return rag


@pytest.mark.parametrize(
    ("question", "name"),
    [
        ("Summarise the document", ""),
        ("Please summarize this document in two sentences.", ""),
        ("Can you summarise it for me?", ""),
        ("What is this document about?", ""),
        ("what's it about", ""),
        ("Give me an overview", ""),
        ("a short summary, please", ""),
        ("I'd like a brief summary of the file", ""),
        ("What does the document say?", ""),
        ("Summarize handbook.md", "handbook.md"),
        ("Give me an overview of the employee handbook.", "the employee handbook"),
        ('What is "Kettles" about?', "Kettles"),
        ("Could you please sum up rivers.txt briefly?", "rivers.txt"),
        ("What's in rivers.txt?", "rivers.txt"),
        ("What does the warranty cover?", None),
        ("What does it say?", None),
        ("What is in the box?", None),
        ("Tell me about kettles", None),
        ("How long is the summary?", None),
        ("What does the handbook say about holidays?", None),
        ("Who wrote the overview of 2020?", None),
        ("", None),
    ],
)
def test_what_is_to_be_summarised(question, name):
    assert to_summarise(question) == name


def test_the_only_document_is_summarised_from_its_own_sentences(rag):
    answer = rag.answer("What is this document about?")
    assert answer.finish_reason == "stop"
    opening, *sections = answer.answer.splitlines()
    assert opening.startswith("This handbook tells what applies to all who work here.")
    assert sections == [
        "- Holidays: Everybody has thirty days of holidays a year. [2]",
        "- Travel: Trains are booked by the office. [3]",
        "- Sickness: On the third day of an illness a doctor's note is needed. [4]",
    ]
    for number, line in enumerate(answer.answer.splitlines(), 1):
        assert line.endswith(f"[{number}]")
        citation = answer.citations[number - 1]
        assert HANDBOOK[citation.start : citation.end] == citation.text
        words = line.removesuffix(f" [{number}]").split(": ")[-1]
        assert words in " ".join(citation.text.split())


@pytest.mark.parametrize(
    "named",
    ["employee-handbook.md", "the employee handbook", "Employee Handbook", "the handbook"],
)
def test_a_document_is_known_by_its_file_or_title(library, named):
    answer = library.answer(f"Summarise {named}")
    assert {c.source for c in answer.citations} == {"docs/employee-handbook.md"}


def test_a_title_counts_where_the_file_is_called_otherwise(library):
    answer = library.answer("Give me an overview of Kettles")
    assert answer.answer == "The kettle boils a litre. It is red. [1]"
    assert [c.source for c in answer.citations] == ["k1.md"]


def test_several_documents_and_none_named_is_asked_which(library):
    answer = library.answer("Summarise the document")
    assert (answer.finish_reason, answer.citations) == ("which_document", [])
    for name in ("employee-handbook.md", "k1.md", "rivers.txt", "Which"):
        assert name in answer.answer
    history = [
        {"role": "user", "content": "Summarise the document"},
        {"role": "assistant", "content": answer.answer},
    ]
    chosen = library.chat("rivers.txt", history)
    assert chosen.answer == "Rivers run to the sea. They are long. [1]"
    other = library.chat("How long are rivers?", history, max_new_tokens=2)
    assert other.finish_reason == "length"  # a question of its own is answered


def test_a_document_that_is_not_there_is_not_made_up(library):
    answer = library.answer("Summarise cars.pdf")
    assert (answer.finish_reason, answer.citations) == ("which_document", [])
    assert "no cars.pdf" in answer.answer
    assert answer.answer.endswith(WHICH)


def test_the_document_that_was_talked_about_is_meant(library):
    history = [
        {"role": "user", "content": "Summarise k1.md"},
        {"role": "assistant", "content": "The kettle boils a litre. [1]"},
    ]
    assert library.chat("What is it about?", history).citations[0].source == "k1.md"
    [cited] = library.retrieve("Rivers run to the sea.", k=1)
    history = [{"role": "user", "content": "Rivers run to the sea."}]
    told = library.chat("Summarise the document", history).citations
    assert {c.source for c in told} == {cited.source}


def test_a_thing_that_no_document_is_named_after_is_searched(library):
    answer = library.answer("Summarise the costs of a taxi", max_new_tokens=2)
    assert answer.finish_reason == "length"
    assert answer.usage.completion_tokens == 2


def test_a_filter_leaves_its_documents_and_passages(library):
    only = {"$source": "rivers.txt"}
    assert library.answer("Summarise the document", where=only).citations[0].source == "rivers.txt"
    answer = library.answer("Summarise the handbook", where={"$heading": {"$contains": "Travel"}})
    assert answer.answer == "Trains are booked by the office. [1]"


def test_options_hold_for_summaries(rag, gem):
    whole = rag.answer("Summarise it").answer
    short = rag.answer("Summarise it", max_new_tokens=60)
    assert len(gem.codec.encode(short.answer)) <= 60 < len(gem.codec.encode(whole))
    assert short.answer.splitlines()[0] in whole  # whole sentences, fewer
    cut = rag.answer("Summarise it", max_new_tokens=3)
    assert cut.finish_reason == "length"
    assert whole.startswith(cut.answer)
    assert rag.answer("Summarise it", stop="applies").answer == "This handbook tells what "
    schema = {"type": "object", "properties": {}, "additionalProperties": False}
    assert rag.answer("Summarise it", schema=schema, max_new_tokens=8).answer.startswith("{")


async def test_summaries_stream_line_by_line(rag):
    stream = rag.stream("Summarise it")
    assert len(stream.citations) == 4
    pieces = list(stream)
    assert len(pieces) == 4
    assert "".join(pieces) == stream.answer.answer
    assert [piece async for piece in rag.astream("Summarise it")] == pieces


def test_a_long_document_is_told_in_so_many_parts(gem):
    rag = GemRAG(gem, chunk_tokens=40)
    rag.add(Document("".join(f"The river number {n} is long. " * 5 for n in range(60)), "r.txt"))
    answer = rag.answer("Summarise r.txt", max_new_tokens=1000)
    assert len(answer.citations) == MOST_PARTS
    assert "number 0 " in answer.answer
    assert "number 5" in answer.citations[-1].text  # from its whole length


def test_sections_are_told_as_deep_as_few_enough_have_their_place(gem):
    text = "# All\n\nIt begins with this sentence.\n"
    for n in range(5):
        text += f"\n## Part {n}\n\nThe part {n} is about rivers. It goes on.\n"
        text += "".join(f"\n### Sub {n}.{m}\n\nThe kettle {n}.{m} is red.\n" for m in range(4))
    rag = GemRAG(gem, chunk_tokens=40)
    rag.add(Document(text, "all.md", markdown=True))
    lines = rag.answer("Summarise all.md", max_new_tokens=2000).answer.splitlines()[1:]
    assert [line.split(":")[0] for line in lines] == [f"- Part {n}" for n in range(5)]


def test_an_index_without_documents_goes_on_as_before(gem):
    assert GemRAG(gem).answer("Summarise the document").finish_reason == "empty_index"
    index = GemIndex(fingerprint=gem.fingerprint)
    index.add(["The kettle is red."], gem.embed_documents(["The kettle is red."]))
    answer = GemRAG(gem, index, threshold=None).answer("Summarise it", max_new_tokens=2)
    assert answer.citations


def test_whole_sentences_are_taken_and_nothing_else():
    text = (
        "and so it ended here.\n# A heading is no sentence.\n\n```\ncode = is no sentence.\n```\n"
        "| a table | is none. |\n\n"
        "1. `pip install X.Y` installs it, e.g. version 3.2 of that.\n"
        "   It goes on\n   in two lines! Short one.\n- [ ] Is this a question that counts?\n"
        "Label: value\n\n水壶保修七年。它是红色的，很好看。\n\n“Quoted words are a sentence.”"
    )
    assert list(sentences(text)) == [
        "`pip install X.Y` installs it, e.g. version 3.2 of that.",
        "It goes on in two lines!",
        "Is this a question that counts?",
        "水壶保修七年。",
        "它是红色的，很好看。",
        "“Quoted words are a sentence.”",
    ]


def test_files_without_sentences_are_told_by_their_headings_or_lines(gem, tmp_path):
    (tmp_path / "prices.csv").write_text("thing,price\nkettle,7\ntoaster,9\n")
    (tmp_path / "code.md").write_text(
        "# Tools\n\n## Kettle\n\n    boil()\n\n## Toaster\n\n    toast()\n"
    )
    rag = GemRAG(gem)
    rag.add([load_file(tmp_path / "prices.csv"), load_file(tmp_path / "code.md")])
    assert "kettle" in rag.answer("Summarise prices.csv").answer
    assert rag.answer("Summarise code.md").answer.endswith("[1]")


@pytest.mark.model
def test_a_named_file_is_summarised_citing_its_parts(default_model, handbook):
    rag = GemRAG(default_model)
    rag.add([handbook, Document("The kettle boils a litre. It is red.", "kettle.md")])
    answer = rag.answer("Please summarize employee-handbook.md")
    assert "applies to all who work here" in answer.answer
    assert "thirty days" in answer.answer
    assert {c.source for c in answer.citations} == {"docs/employee-handbook.md"}
    assert answer.usage.completion_tokens == 0
    follow_up = rag.chat(
        "How many days of holidays are there?",
        [
            {"role": "user", "content": "Please summarize employee-handbook.md"},
            {"role": "assistant", "content": answer.answer},
        ],
        max_new_tokens=24,
    )
    assert follow_up.citations[0].source == "docs/employee-handbook.md"
