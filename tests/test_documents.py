"""Files to chunks that point back at their place."""

import pytest
from files import make_docx, make_pdf

from gem_rag.documents import Document, content_hash, find_files, load_file, split
from gem_rag.errors import DocumentError, GemError, MissingExtraError


@pytest.fixture
def tokenizer(gem):
    return gem.codec.backend


def check(document, chunks, tokenizer, max_tokens):
    for chunk in chunks:
        assert chunk.text == document.text[chunk.start : chunk.end]
        assert len(tokenizer.encode(chunk.text, add_special_tokens=False).ids) <= max_tokens
        assert chunk.source == document.source


GUIDE = (
    """# Guide 🙂

Intro naïve text. Second sentence.

## Install

```sh
# not a heading
pip
```

## Use

### Deep

Words about the sea. """
    + "A kettle boils water. " * 40
)


def test_chunks_are_slices_under_their_headings(tokenizer):
    document = Document(GUIDE, "guide.md", {"lang": "en"}, markdown=True)
    chunks = split(document, tokenizer, max_tokens=40)
    check(document, chunks, tokenizer, 40)
    headings = {c.heading for c in chunks}
    assert headings >= {"Guide 🙂", "Guide 🙂 > Use > Deep"}
    assert not any("not a heading" in h for h in headings)
    assert all(c.metadata == {"lang": "en"} for c in chunks)
    covered = "".join("".join(c.text.split()) for c in chunks)
    assert covered == "".join(GUIDE.split())


@pytest.mark.parametrize(
    "text", ["", "  \n\n ", "word", "x" * 5000, "one\r\ntwo\r\n" * 80, "日本語。" * 200]
)
def test_odd_texts(tokenizer, text):
    document = Document(text, "odd.txt")
    chunks = split(document, tokenizer, max_tokens=32)
    check(document, chunks, tokenizer, 32)
    assert bool(chunks) == bool(text.strip())


def test_plain_files_are_read_as_they_stand(tmp_path):
    path = tmp_path / "a.txt"
    path.write_bytes("\ufeffcafé\r\n".encode())
    assert load_file(path).text == "café\r\n"
    path.write_bytes("café".encode("cp1252"))
    assert load_file(path).text == "café"
    path.write_bytes("café".encode("utf-16"))
    assert load_file(path).text == "café"


def test_binary_files_are_errors_that_name_the_file(tmp_path):
    path = tmp_path / "a.bin"
    path.write_bytes(bytes(range(256)))
    with pytest.raises(DocumentError, match=r"a\.bin"):
        load_file(path)


def test_html_pdf_and_docx_become_text(tmp_path):
    html = "<html><body><h1>Guide</h1><p>The kettle boils water.</p></body></html>"
    (tmp_path / "a.html").write_text(html)
    make_pdf(tmp_path / "b.pdf", "The kettle boils water.")
    make_docx(tmp_path / "c.docx")
    for path in find_files([tmp_path]):
        document = load_file(path)
        assert "The kettle boils water." in document.text, path
        assert document.markdown
    assert "# Guide" in load_file(tmp_path / "a.html").text


@pytest.mark.parametrize("suffix", [".pdf", ".docx"])
def test_damaged_files_are_errors_that_name_the_file(tmp_path, suffix):
    path = tmp_path / f"broken{suffix}"
    path.write_bytes(b"%PDF-1.4 nothing here \x00\x01")
    with pytest.raises(DocumentError, match="broken"):
        load_file(path)


def test_a_missing_extra_is_named(tmp_path, monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "markitdown", None)
    (tmp_path / "a.html").write_text("<p>x</p>")
    with pytest.raises(MissingExtraError, match=r"gem-rag\[files\]"):
        load_file(tmp_path / "a.html")


def test_find_files(tmp_path):
    for name in ("b.md", "a.txt", ".hidden.md", "deep/c.html", ".git/d.md", "x.bin", "odd.zzz"):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_text("x")
    found = [p.relative_to(tmp_path.resolve()).as_posix() for p in find_files([tmp_path, tmp_path])]
    assert found == ["a.txt", "b.md", "deep/c.html"]
    assert find_files([tmp_path / "odd.zzz"]) == [(tmp_path / "odd.zzz").resolve()]
    with pytest.raises(GemError, match="nowhere"):
        find_files([tmp_path / "nowhere"])


def test_content_hash_follows_content(tmp_path):
    one, two = tmp_path / "a", tmp_path / "b"
    one.write_text("x")
    two.write_text("x")
    assert content_hash(one) == content_hash(two)
    two.write_text("y")
    assert content_hash(one) != content_hash(two)
