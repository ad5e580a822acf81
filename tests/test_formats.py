"""What becomes of files that are no plain text."""

import json
import zipfile

import pytest
from files import grid_at, lines_at, make_docx, make_odt, make_pdf, text_at

from gem_rag.documents import load_file, split
from gem_rag.errors import DocumentError

OLE = b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1"
ROWS = [["Model", "Warranty"], ["KX-1", "two years"], ["KX-2", "seven years"]]
TABLE = "| Model | Warranty |\n| --- | --- |\n| KX-1 | two years |\n| KX-2 | seven years |"
BOX = "0 0 100 100 re f"  # a page that shows something, and no words


@pytest.fixture
def tokenizer(gem):
    return gem.codec.backend


# PDF


def test_chunks_of_a_pdf_know_their_page(tmp_path, tokenizer):
    make_pdf(tmp_path / "a.pdf", "The kettle boils.", "Rivers run to the sea.", "Bread is baked.")
    document = load_file(tmp_path / "a.pdf")
    pages = {c.text: c.page for c in split(document, tokenizer)}
    assert pages == {"The kettle boils.": 1, "Rivers run to the sea.": 2, "Bread is baked.": 3}


def test_pages_without_text_are_counted_and_named(tmp_path):
    make_pdf(tmp_path / "a.pdf", "one", BOX, BOX, "four", BOX)
    assert load_file(tmp_path / "a.pdf").notes == ("3 of 5 pages hold no text: 2-3, 5",)
    make_pdf(tmp_path / "scan.pdf", BOX)
    with pytest.raises(DocumentError, match=r"scan\.pdf.*text recognition"):
        load_file(tmp_path / "scan.pdf")


def test_form_values_are_read(tmp_path):
    fields = (
        "<< /Subtype /Widget /FT /Tx /T (name) /TU (Full name) /V (Ada Lovelace) /Rect [0 0 9 9] >>"
        "<< /Subtype /Widget /FT /Btn /T (news) /V /Off /Rect [0 0 9 9] >>"
        "<< /Subtype /Widget /FT /Tx /T (empty) /Rect [0 0 9 9] >>"
        "<< /Subtype /FreeText /Contents (Please hurry) /Rect [0 0 9 9] >>"
    )
    make_pdf(tmp_path / "a.pdf", "Order", fields=fields)
    assert load_file(tmp_path / "a.pdf").text == (
        "Order\n\nFull name: Ada Lovelace\nnews: no\nPlease hurry"
    )


def test_ruled_tables_stand_where_they_are(tmp_path):
    page = "\n".join(
        [text_at(50, 750, "Above."), grid_at(50, 700, ROWS), text_at(50, 500, "Below.")]
    )
    make_pdf(tmp_path / "a.pdf", page)
    assert load_file(tmp_path / "a.pdf").text == f"Above.\n\n{TABLE}\n\nBelow."


def test_a_table_that_goes_on_has_its_header_on_the_next_page_too(tmp_path):
    more = [["KX-3", "nine years"], ["KX-4", "one year"]]
    make_pdf(tmp_path / "a.pdf", grid_at(50, 700, ROWS), grid_at(50, 700, more))
    _, second = load_file(tmp_path / "a.pdf").text.split("\n\n")
    assert second.startswith("| Model | Warranty |\n| --- | --- |\n| KX-3 |")


def test_sideways_pages_are_read_as_lines_and_tables(tmp_path):
    sideways = "0 1 -1 0 600 0 cm "
    make_pdf(
        tmp_path / "a.pdf",
        sideways + lines_at(50, 500, "The kettle boils", "water in a minute."),
        sideways + grid_at(50, 500, ROWS),
    )
    first, second = load_file(tmp_path / "a.pdf").text.split("\n\n")
    assert first == "The kettle boils\nwater in a minute."
    assert second == TABLE


def test_broken_words_are_mended_in_what_is_read_and_left_in_what_is_cited(tmp_path, tokenizer):
    lines = ("The warranty infor-", "mation of a well-", "known kettle. A well-known brand.")
    make_pdf(tmp_path / "a.pdf", lines_at(50, 700, *lines))
    document = load_file(tmp_path / "a.pdf")
    [chunk] = split(document, tokenizer)
    assert "infor-\nmation" in chunk.text
    assert "warranty information of a well-known kettle" in chunk.words
    assert chunk.text == document.text[chunk.start : chunk.end]


@pytest.mark.parametrize("suffix", ["pdf", "docx", "pptx", "xlsx", "odt"])
def test_encrypted_files_say_so(tmp_path, suffix):
    path = tmp_path / f"secret.{suffix}"
    if suffix == "pdf":
        zeros = "00" * 32
        lock = f"<< /Filter /Standard /V 1 /R 2 /O <{zeros}> /U <{zeros}> /P -4 >>"
        make_pdf(path, "hidden", extra=[lock], trailer="/Encrypt 4 0 R /ID [<00> <00>]")
    elif suffix == "odt":
        make_odt(path, "")
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("META-INF/manifest.xml", "<manifest:encryption-data/>")
    else:
        path.write_bytes(OLE + b"\0" * 500 + "EncryptedPackage".encode("utf-16-le"))
    with pytest.raises(DocumentError, match=rf"secret\.{suffix} is encrypted; remove the password"):
        load_file(path)


# HTML


def test_a_pages_title_is_part_of_it(tmp_path):
    page = tmp_path / "a.html"
    page.write_text("<title>KX-9\n Kettle</title><body><h1>Manual</h1><p>It boils.</p>")
    document = load_file(page)
    assert document.text == "# KX-9 Kettle\n\n# Manual\n\nIt boils."
    assert document.title == "KX-9 Kettle"
    page.write_text("<title>Manual</title><body><h1>Manual</h1><p>It boils.</p>")
    assert load_file(page).text == "# Manual\n\nIt boils."


def test_what_is_blank_is_called_blank(tmp_path):
    (tmp_path / "a.html").write_text("<html><body> </body></html>")
    make_docx(tmp_path / "b.docx", "")
    make_pdf(tmp_path / "c.pdf", "")
    make_odt(tmp_path / "d.odt", "")
    for path in tmp_path.iterdir():
        with pytest.raises(DocumentError, match="is blank"):
            load_file(path)


# Office


def test_workbooks_are_tables(tmp_path):
    import xlsxwriter

    with xlsxwriter.Workbook(tmp_path / "a.xlsx") as book:
        sheet = book.add_worksheet("Prices")
        sheet.write("B1", "Price list")
        for i, row in enumerate([["Model", "Price"], ["KX|1", 12.5], ["KX-2", 30]]):
            sheet.write_row(2 + i, 1, row)
        book.add_worksheet("Empty")
    assert load_file(tmp_path / "a.xlsx").text == (
        "## Prices\n\nPrice list\n\n"
        "| Model | Price |\n| --- | --- |\n| KX\\|1 | 12.5 |\n| KX-2 | 30 |"
    )


def test_slides_are_pages(tmp_path, tokenizer):
    from pptx import Presentation

    show = Presentation()
    for words in ("The kettle boils.", "Bread is baked."):
        slide = show.slides.add_slide(show.slide_layouts[1])
        slide.shapes.title.text, slide.placeholders[1].text = "Kitchen", words
    show.save(tmp_path / "a.pptx")
    document = load_file(tmp_path / "a.pptx")
    assert document.text == "# Kitchen\nThe kettle boils.\n\n# Kitchen\nBread is baked."
    assert [c.page for c in split(document, tokenizer)] == [1, 2]


def test_open_document_texts_keep_headings_lists_and_tables(tmp_path):
    cell = "<table:table-cell><text:p>{}</text:p></table:table-cell>"
    rows = [f"<table:table-row>{''.join(map(cell.format, r))}</table:table-row>" for r in ROWS]
    make_odt(
        tmp_path / "a.odt",
        '<text:h text:outline-level="2">Guide</text:h><text:p>It<text:s/>boils.</text:p>'
        "<text:list><text:list-item><text:p>one</text:p><text:list><text:list-item>"
        "<text:p>inner</text:p></text:list-item></text:list></text:list-item></text:list>"
        f"<table:table>{''.join(rows)}</table:table>",
    )
    expected = f"## Guide\n\nIt boils.\n\n- one\n  - inner\n\n{TABLE}"
    assert load_file(tmp_path / "a.odt").text == expected


def test_rtf_is_read_in_its_encoding(tmp_path):
    (tmp_path / "a.rtf").write_text(r"{\rtf1\ansi\ansicpg1251 \'cf\'f0\'e8\'e2\'e5\'f2, {\b you}}")
    assert load_file(tmp_path / "a.rtf").text == "Привет, you"


# Mail, notebooks, records


def test_mail_shows_who_wrote_what_and_names_attachments(tmp_path):
    (tmp_path / "a.eml").write_bytes(
        b"From: Ann <a@x.y>\r\nSubject: =?utf-8?q?Gr=C3=BC=C3=9Fe?=\r\nMIME-Version: 1.0\r\n"
        b"Content-Type: multipart/mixed; boundary=B\r\n\r\n--B\r\nContent-Type: text/html\r\n\r\n"
        b"<p>The <b>kettle</b></p>\r\n--B\r\nContent-Type: application/pdf\r\n"
        b"Content-Disposition: attachment; filename=x.pdf\r\n\r\n?\r\n--B--\r\n"
    )
    document = load_file(tmp_path / "a.eml")
    assert document.text == (
        "Subject: Grüße\nFrom: Ann <a@x.y>\nAttachments: x.pdf\n\nThe **kettle**"
    )
    assert document.title == "Grüße"
    assert "x.pdf" in document.notes[0]


def test_notebooks_show_cells_and_what_they_printed(tmp_path):
    cells = [
        {"cell_type": "markdown", "source": ["# Sums\n", "Adding."]},
        {
            "cell_type": "code",
            "source": "print(1)",
            "outputs": [
                {"output_type": "stream", "text": ["1\n"]},
                {"output_type": "display_data", "data": {"image/png": "A" * 5000}},
            ],
        },
    ]
    (tmp_path / "a.ipynb").write_text(json.dumps({"nbformat": 4, "metadata": {}, "cells": cells}))
    document = load_file(tmp_path / "a.ipynb")
    assert document.text == "# Sums\nAdding.\n\n```python\nprint(1)\n```\n\n```\n1\n```"
    (tmp_path / "b.ipynb").write_text("{}")
    with pytest.raises(DocumentError, match=r"b\.ipynb is no notebook"):
        load_file(tmp_path / "b.ipynb")


def test_records_read_as_words(tmp_path):
    (tmp_path / "a.jsonl").write_text('{"id": 1, "text": "Ger\\u00e4t\\nzwei"}\nno json\n')
    assert load_file(tmp_path / "a.jsonl").text == "id: 1\ntext: Gerät\nzwei\n\nno json"
    (tmp_path / "a.json").write_text('{"a": "Ger\\u00e4t \\u0022", "b": 1.10}')
    assert load_file(tmp_path / "a.json").text == '{"a": "Gerät \\u0022", "b": 1.10}'
    (tmp_path / "a.xml").write_text(
        '<feed><item id="3"><title>One</title></item>'
        "<item><p>Two <b>bold</b> words</p></item></feed>"
    )
    assert load_file(tmp_path / "a.xml").text == "item (id: 3)\ntitle: One\n\np: Two bold words"
    (tmp_path / "b.xml").write_text("<broken>")
    assert load_file(tmp_path / "b.xml").text == "<broken>"


def test_pictures_within_a_text_are_left_out(tmp_path):
    data = "data:image/png;base64," + "iVBORw0KGgo" * 5000
    (tmp_path / "a.md").write_text(f"![chart]({data}) words\n\n[1]: <{data}>\n")
    (tmp_path / "b.html").write_text(f"<p>words<img alt='chart' src='{data}'></p>")
    for path in tmp_path.iterdir():
        text = load_file(path).text
        assert len(text) < 60
        assert "words" in text
        assert "chart" in text
