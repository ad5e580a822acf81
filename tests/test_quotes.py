"""The sentence that carries an answer: which one, and its exact place in the stored text."""

import io
import json

import pytest
from files import grid_at, lines_at, make_pdf

from gem_rag.cli import console
from gem_rag.documents import Document
from gem_rag.index import GemIndex
from gem_rag.rag import NOTHING_FOUND, Citation, GemRAG
from gem_rag.rag.quotes import quoted

KETTLE = (
    "The Zephyr kettle boils a litre in three minutes. It has a warranty of seven years. "
    "The lid is made of steel. In other countries the warranty may be longer."
)


def cited(text, start=0, source="a.md"):
    return Citation(source, start, start + len(text), None, None, text)


def quote_of(text, question, answer, **place):
    (citation,) = quoted([cited(text, **place)], question, answer)
    return citation.quote


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        ("seven years", "It has a warranty of seven years."),
        ("The warranty lasts 7 years: seven.", "It has a warranty of seven years."),
        ("Steel.", "The lid is made of steel."),
        ("Three minutes is how long it takes to boil.", KETTLE[: KETTLE.index(" It has")]),
    ],
)
def test_the_sentence_that_holds_the_answer_is_quoted(answer, expected):
    assert quote_of(KETTLE, "How long?", answer) == expected


def test_where_several_hold_it_the_question_decides():
    text = "Bob was born in Paris. Ann moved to Paris. Eve died in Paris."
    assert quote_of(text, "Where did Ann move?", "Paris") == "Ann moved to Paris."
    assert quote_of(text, "Where did Eve die?", "She died in Paris.") == "Eve died in Paris."


def test_an_answer_in_other_words_is_quoted_by_the_question():
    assert quote_of(KETTLE, "What is the lid made of?", "Metal.") == "The lid is made of steel."
    assert quote_of(KETTLE, "Is the lid of steel?", "Yes.") == "The lid is made of steel."
    assert quote_of(KETTLE, "Quel âge ?", "Oui.") is None  # nothing tells


def test_an_answer_on_two_neighbours_is_quoted_as_both():
    text = "It rained. Berlin lies on the Spree. Hamburg lies on the Elbe. Nobody knows why."
    both = "Berlin lies on the Spree. Hamburg lies on the Elbe."
    assert quote_of(text, "On which rivers?", "Berlin on the Spree, Hamburg on the Elbe.") == both


def test_a_heading_is_not_quoted_for_what_stands_below_it():
    text = "# Warranty of the kettle\n\nIt lasts seven years.\n\n# Lid\nOf steel, it is heavy.\n"
    asked = "How long is the warranty of the kettle?"
    assert quote_of(text, asked, "The warranty is seven years.") == "It lasts seven years."
    assert quote_of(text, "What is the lid of?", "The lid is of steel.") == "Of steel, it is heavy."
    title = "# Zephyr 3000\n\nThis is its manual.\n"
    assert quote_of(title, "Which kettle is it?", "The Zephyr 3000.") == "# Zephyr 3000"


def test_a_blank_answer_quotes_nothing():
    assert quote_of(KETTLE, "How long?", " \n") is None
    assert quoted([], "How long?", "Seven years.") == []


def test_rows_items_and_lines_of_code_are_quoted_alone():
    table = "| city | people |\n|---|---|\n| Ulm | 126,000 |\n| Bonn | 331,000 |\n"
    assert quote_of(table, "How many people live in Bonn?", "331000") == "| Bonn | 331,000 |"
    assert quote_of("name,age\nAnn,31\nBob,42\n", "Bob's age?", "42", source="a.csv") == "Bob,42"
    code = "RETRIES = 3\nTIMEOUT = 60  # seconds\n"
    assert quote_of(code, "The timeout?", "60 seconds", source="a.py") == code.splitlines()[1]


def test_scripts_without_spaces():
    text = "本体は赤いです。保証期間は七年です。色は三つあります。"
    assert quote_of(text, "保証はいつまでですか", "七年") == "保証期間は七年です。"
    assert quote_of(text, "色は", "三") == "色は三つあります。"


def test_of_several_passages_those_that_carry_the_answer_are_quoted():
    toaster = "The toaster is black. It toasts for two minutes."
    first, second, third = quoted(
        [cited(toaster), cited(KETTLE, 100), cited("The kettle's seven years of warranty.", 900)],
        "How long is the warranty of the kettle?",
        "Seven years of warranty.",
    )
    assert (first.quote, first.quote_start, first.quote_end) == (None, None, None)
    assert second.quote == "It has a warranty of seven years."
    assert second.quote_start == 100 + KETTLE.index("It has")
    assert third.quote == third.text


def saying(gem, *words, **options):
    """A `GemRAG` whose tiny model, held to a schema, can say nothing else."""
    return GemRAG(gem, threshold=None, **options), {"schema": {"enum": list(words)}}


def check(rag, answer, expected):
    """Quotes stand where the stored text says."""
    quotes = [c for c in answer.citations if c.quote is not None]
    assert [c.quote for c in quotes] == expected
    for c in quotes:
        assert rag.index.documents.text(c.source)[c.quote_start : c.quote_end] == c.quote
        assert c.start <= c.quote_start < c.quote_end <= c.end


FILES = {
    "headings.md": "# Tea\n\nTea is old.\n\n## Kettles\n\nThe kettle is red. It has seven lives.\n",
    "windows.txt": "Tea is old.\r\nThe kettle is\r\nred. It has seven lives.\r\n",
    "naïve.md": "# Café 🙂\n\nDas Café 🙂 ist alt. The kettle is red. It has seven lives.\n",
    "table.csv": "animal,seven lives\nkettle,red\ncat,seven lives\n",
}


@pytest.mark.parametrize("name", FILES)
def test_places_are_characters_of_the_stored_text(gem, tmp_path, name):
    file = tmp_path / name
    file.write_bytes(FILES[name].encode())
    rag, held = saying(gem, "seven lives")
    rag.add(file)
    answer = rag.answer("How many has the cat?", max_new_tokens=40, **held)
    assert json.loads(answer.answer) == "seven lives"
    expected = "cat,seven lives" if name == "table.csv" else "It has seven lives."
    check(rag, answer, [expected])


def test_pages_and_tables_of_a_pdf(gem, tmp_path):
    pytest.importorskip("pypdfium2")
    pytest.importorskip("pdfplumber")
    rows = [["part", "price"], ["lid", "three"], ["base", "nine"]]
    make_pdf(
        tmp_path / "a.pdf",
        lines_at(50, 700, "The kettle is red. It boils for three", "minutes. It is loud."),
        grid_at(50, 700, rows),
    )
    rag, held = saying(gem, "nine", chunk_tokens=100)
    rag.add(tmp_path / "a.pdf")
    on_second = {"where": {"$page": 2}}
    check(rag, rag.answer("The base's price?", **held, **on_second), ["| base | nine |"])
    rag, held = saying(gem, "three minutes", chunk_tokens=100)
    rag.add(tmp_path / "a.pdf")
    on_first = {"where": {"$page": 1}, "max_new_tokens": 40}
    (citation,) = rag.answer("How long?", **held, **on_first).citations
    assert "".join(citation.quote.split()) == "Itboilsforthreeminutes."


def test_a_chunk_read_with_its_headings_is_quoted_where_it_stands(gem):
    text = "# Kettles\n\n" + "Tea is old. " * 30 + "It has seven lives. " + "Tea is hot. " * 30
    rag, held = saying(gem, "seven lives", chunk_tokens=40, context=9)
    rag.add(Document(text, "tea.md", markdown=True))
    answer = rag.answer("Which lives?", max_new_tokens=40, **held)
    check(rag, answer, ["It has seven lives."])


def test_a_chunk_without_a_document_has_places_in_its_own_text(gem):
    index = GemIndex(fingerprint=gem.fingerprint)
    texts = ["Tea is old. It has seven lives."]
    index.add(texts, gem.embed_documents(texts))
    rag, held = saying(gem, "seven lives", index=index)
    (citation,) = rag.answer("Which lives?", max_new_tokens=40, **held).citations
    assert texts[0][citation.quote_start : citation.quote_end] == "It has seven lives."


def test_quotes_come_when_the_answer_is_whole(gem):
    rag, held = saying(gem, "seven lives")
    rag.add(Document("Tea is old. It has seven lives.", "tea.txt"))
    stream = rag.stream("Which lives?", max_new_tokens=40, **held)
    pieces = iter(stream)
    next(pieces)
    assert [c.quote for c in stream.answer.citations] == [None]
    assert list(pieces)
    assert [c.quote for c in stream.answer.citations] == ["It has seven lives."]
    assert [c.quote for c in stream.citations] == [None]  # those that were known at once
    stopped = rag.stream("Which lives?", max_new_tokens=40, **held)
    next(iter(stopped))
    stopped.close()
    assert [c.quote for c in stopped.answer.citations] == [None]


async def test_awaited_answers_have_quotes(gem):
    rag, held = saying(gem, "seven lives")
    rag.add(Document("Tea is old. It has seven lives.", "tea.txt"))
    answer = await rag.aanswer("Which lives?", max_new_tokens=40, **held)
    assert [c.quote for c in answer.citations] == ["It has seven lives."]


def test_only_passages_that_carry_the_answer_are_quoted(gem):
    rag, held = saying(gem, "seven lives", context=2)
    rag.add([Document("The cat has seven lives.", "cat"), Document("Tea is old.", "tea")])
    answer = rag.answer("Which lives?", max_new_tokens=40, **held)
    assert {c.source: c.quote for c in answer.citations} == {
        "cat": "The cat has seven lives.",
        "tea": None,
    }


def test_nothing_found_quotes_nothing(gem):
    rag = GemRAG(gem, threshold=1e9)
    rag.add(Document("The cat has seven lives.", "cat"))
    answer = rag.answer("Which lives?")
    assert (answer.answer, answer.citations) == (NOTHING_FOUND, [])
    assert all(c.quote is None for c in rag.retrieve("Which lives?"))


def test_as_json_an_answer_has_the_quotes_words(gem):
    rag, held = saying(gem, "seven lives")
    rag.add(Document("Tea is old. It has seven lives.", "tea.txt", {"year": 2000}))
    answer = rag.answer("Which lives?", max_new_tokens=40, **held)
    (citation,) = json.loads(json.dumps(answer.as_dict()))["citations"]
    assert citation["quote"] == "It has seven lives."
    assert (citation["quote_start"], citation["quote_end"]) == (12, 31)
    assert citation["metadata"] == {"year": 2000}


def test_the_command_line_shows_the_sentence_below_its_source(monkeypatch):
    shown = console.Output(soft_wrap=True, emoji=False, record=True, file=io.StringIO())
    monkeypatch.setattr(console, "out", shown)
    citations = quoted([cited(KETTLE)], "What is the lid made of?", "[Steel]")
    console.print_citations(citations, about="What is the lid made of? [Steel]")
    assert shown.export_text().splitlines()[1] == "“The lid is made of steel.”"
    console.print_citations(citations)  # the whole passage, as /sources of a chat shows it
    assert "\x1b[1mThe lid is made of steel.\x1b[0m" in shown.export_text(styles=True)
    console.print_citations([cited(KETTLE)], about="the steel")  # without a quote
    assert shown.export_text().splitlines()[1].startswith("... The lid is made of steel. In other")
