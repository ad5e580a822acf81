"""Chunks that make sense alone: headings with their text, tables with their header."""

import re
import time

import pytest

from gem_rag.documents import Document, Shown, split

PROSE = "A kettle boils water for tea. " * 30


@pytest.fixture
def tokenizer(gem):
    return gem.codec.backend


@pytest.fixture
def cut(tokenizer):
    """Chunks of a text; every one is a slice, and what is read of it fits."""

    def chunks(text, source="a.md", *, max_tokens=60, title="", markdown=None, **options):
        is_markdown = source.endswith(".md") if markdown is None else markdown
        document = Document(text, source, markdown=is_markdown, title=title)
        out = split(document, tokenizer, max_tokens=max_tokens, **options)
        for chunk in out:
            assert chunk.text == text[chunk.start : chunk.end]
            assert len(tokenizer.encode(chunk.words, add_special_tokens=False).ids) <= max_tokens
        covered = "".join("".join(chunk.text.split()) for chunk in out)
        assert covered == "".join(text.split())
        return out

    return chunks


# Headings


def test_a_heading_stays_with_the_text_below_it(cut):
    text = f"# Manual\n\nShort.\n\n## Warranty\n\nSeven years. {PROSE}\n\n## Delivery\n\n{PROSE}"
    chunks = cut(text)
    [warranty] = [c for c in chunks if c.text.startswith("## Warranty")]
    assert "Seven years." in warranty.text
    assert not any(re.fullmatch(r"#+ \w+", chunk.text) for chunk in chunks)


@pytest.mark.parametrize("size", [40, 60, 100, 200])
@pytest.mark.parametrize("mark", ["## {}", "{}\n------", "{}\n======"])
def test_no_chunk_is_a_heading_alone(cut, size, mark):
    names = ["Warranty", "Empty", "Delivery", "Returns", "Last"]
    bodies = [PROSE, "", "One line.", PROSE, ""]
    parts = [f"{mark.format(n)}\n\n{b}" for n, b in zip(names, bodies, strict=True)]
    chunks = cut("\n\n".join(parts), max_tokens=size)
    for chunk in chunks:
        words = re.sub(r"\W|" + "|".join(names), "", chunk.text)
        assert words, chunk.text
    assert chunks[-1].text.split("\n")[-1].strip("# ") in ("Last", "------", "======")


def test_a_heading_below_many_empty_ones_stays_with_its_text(cut):
    text = "".join(f"## Empty {i}\n\n" for i in range(20)) + f"## Warranty\n\nSeven years. {PROSE}"
    [warranty] = [chunk for chunk in cut(text) if "## Warranty" in chunk.text]
    assert "Seven years." in warranty.text


def test_headings_alone_are_a_chunk_all_the_same(cut):
    assert [c.text for c in cut("# One\n\n## Two\n")] == ["# One\n\n## Two"]


def test_a_chunk_knows_the_headings_it_stands_under(cut):
    text = f"# Guide\n\n{PROSE}\n\nSetup\n-----\n\n{PROSE}\n\n### Deep\n\n{PROSE}\n\n# End\n\nBye."
    headings = list(dict.fromkeys(chunk.heading for chunk in cut(text)))
    assert headings == ["Guide", "Guide > Setup", "Guide > Setup > Deep", "End"]


def test_what_looks_like_a_heading_and_is_none(cut):
    text = (
        "---\ntitle: Manual\n---\n\n# Real\n\n<!--\n# comment\n-->\n\n```\n# code\n```\n\n- item\n"
        f"---\n\nA paragraph of\ntwo lines\n---\n\n| a | b |\n|---|---|\n| # c | d |\n\n{PROSE}"
    )
    assert {chunk.heading for chunk in cut(text)} == {"", "Real"}  # "": the front matter


def test_headings_are_words(cut):
    [chunk] = cut("# [Set **up**](#setup)¶ {#id}\n\nText.")
    assert chunk.heading == "Set up"


# What is read


def test_what_is_read_shows_where_a_chunk_stands(cut):
    first, *others = cut(f"# Annual report\n\n## Revenue\n\n{PROSE}", "2023.md", max_tokens=120)
    assert first.read is None
    assert first.words == first.text
    assert others
    for chunk in others:
        assert chunk.words == f"2023 > Annual report > Revenue\n\n{chunk.text}"


def test_which_names_are_read_can_be_chosen(cut):
    text = f"# Report\n\nIntro. {PROSE}\n\n## Revenue\n\n{PROSE}"

    def names(**shown):
        chunks = cut(text, "2023.md", max_tokens=120, shown=Shown(**shown))
        return list(dict.fromkeys(c.words.removesuffix(c.text).strip() for c in chunks))

    assert names(title=False, path=False) == [""]
    assert names(title=False) == ["", "Report", "Report > Revenue"]
    assert names(path=False) == ["", "2023"]
    assert names(openings=True) == ["2023", "2023 > Report", "2023 > Report > Revenue"]


def test_a_title_is_shown_once(cut):
    chunks = cut(f"# KX-9\n\n{PROSE}", "page.html", title="KX-9", markdown=True)
    assert {c.words.removesuffix(c.text).strip() for c in chunks} == {"", "KX-9"}


def test_sources_that_name_no_file_are_no_title(cut):
    assert [c.words for c in cut("Words.", "3f2a", markdown=False)] == ["Words."]
    assert [c.words for c in cut("Words.", "x/notes.txt")] == ["notes\n\nWords."]


def test_words_that_print_took_apart_are_mended(cut):
    text = "Die Garan\u00adtie der \ufb01nalen Infor-\nmation. Information."
    [chunk] = cut(text, "a.txt")
    assert chunk.words == "a\n\nDie Garantie der finalen Information. Information."
    [code] = cut("x = a-\nb", "a.py")
    assert code.words.endswith("x = a-\nb")


# Tables


def test_a_markdown_tables_header_goes_with_each_chunk(cut):
    rows = "".join(f"| KX-{i} | {i} years |\n" for i in range(60))
    header = "| Model | Warranty |\n| --- | --- |\n"
    chunks = cut(f"# Prices\n\nAll of them.\n\n{header}{rows}\nAfter.", max_tokens=150)
    of_rows = [chunk for chunk in chunks if "| KX-" in chunk.text]
    assert len(of_rows) > 3
    for chunk in of_rows:
        assert chunk.words.count(header) == 1
        assert chunk.text.endswith("|")  # no row is cut


@pytest.mark.parametrize(("suffix", "mark"), [("csv", ","), ("csv", ";"), ("tsv", "\t")])
def test_the_header_row_goes_with_each_chunk_of_a_table(cut, suffix, mark):
    rows = [mark.join(["model", "warranty"])]
    rows += [mark.join([f"KX-{i}", f"{i} years"]) for i in range(60)]
    chunks = cut("\n".join(rows), f"prices.{suffix}")
    assert len(chunks) > 3
    for chunk in chunks:
        assert chunk.words.count(rows[0]) == 1
        assert set(chunk.text.split("\n")) <= set(rows)


def test_rows_without_a_header_are_rows(cut):
    chunks = cut("\n".join(f"{i},{i * i}" for i in range(100)), "squares.csv")
    assert sum("\n0,0\n" in f"\n{chunk.words}\n" for chunk in chunks) == 1


def test_cells_in_quotes_may_have_several_lines(cut):
    rows = [f'KX-{i},"boils\nwater"' for i in range(40)]
    for chunk in cut("model,what\n" + "\n".join(rows), "a.csv"):
        assert chunk.text.count('"') % 2 == 0
    cut("model,size\n" + "\n".join(f'KX-{i},5" wide' for i in range(41)), "inches.csv")


# Programs


def test_programs_are_cut_along_definitions(cut):
    body = "\n".join(f"        total += water * {i}" for i in range(8))
    text = (
        '"""Kettles."""\n\nimport math\n\n\n# Boils water.\n@cached\ndef boil(water):\n'
        f"    return math.pi\n\n\nclass Kettle:\n    '''A pot.'''\n\n"
        f"    def fill(self):\n{body}\n\n    def pour(self):\n{body}\n\n\nKETTLES = [Kettle()]\n"
    )
    chunks = cut(text, "kettle.py", max_tokens=250)
    by_heading = {chunk.heading: chunk.text for chunk in chunks}
    assert by_heading["Kettle > pour"].startswith("    def pour")
    assert any("# Boils water.\n@cached\ndef boil" in chunk.text for chunk in chunks)


def test_a_program_in_another_language_is_cut_at_its_margin(cut):
    function = "func Boil%d() {\n\twater := 1\n\n\twater = 2\n}\n"
    chunks = cut("\n".join(function % i for i in range(12)), "kettle.go", max_tokens=50)
    assert len(chunks) > 2
    assert all(chunk.text.startswith("func") and chunk.text.endswith("}") for chunk in chunks)


def test_broken_programs_are_text(cut):
    assert cut("def broken(:\n" * 50, "a.py")


@pytest.mark.parametrize("text", ["x" * 50_000, "<!-- " * 5_000, "# h\n" * 2_000, "|-" * 20_000])
def test_texts_that_are_hardly_any_take_no_time(text, tokenizer):
    start = time.monotonic()
    assert split(Document(text, "a.md", markdown=True), tokenizer)
    assert time.monotonic() - start < 10
