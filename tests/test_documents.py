"""Files to chunks that point back at their place."""

import zipfile

import pytest

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


def make_docx(path):
    ns = "http://schemas.openxmlformats.org"
    word = f"{ns}/wordprocessingml/2006/main"
    body = "<w:p><w:r><w:t>The kettle boils water.</w:t></w:r></w:p>"
    types = (
        f'<Types xmlns="{ns}/package/2006/content-types">'
        '<Default Extension="rels" ContentType="application/vnd.openxmlformats-package.'
        'relationships+xml"/><Default Extension="xml" ContentType="application/vnd.'
        'openxmlformats-officedocument.wordprocessingml.document.main+xml"/></Types>'
    )
    relations = (
        f'<Relationships xmlns="{ns}/package/2006/relationships"><Relationship Id="r1" '
        f'Type="{ns}/officeDocument/2006/relationships/officeDocument" Target="word/document.xml"/>'
        "</Relationships>"
    )
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("[Content_Types].xml", types)
        archive.writestr("_rels/.rels", relations)
        archive.writestr(
            "word/document.xml",
            f'<w:document xmlns:w="{word}"><w:body>{body}</w:body></w:document>',
        )


def make_pdf(path):
    content = b"BT /F1 18 Tf 50 700 Td (The kettle boils water.) Tj ET"
    objects = [
        b"<< /Type /Catalog /Pages 2 0 R >>",
        b"<< /Type /Pages /Kids [3 0 R] /Count 1 >>",
        b"<< /Type /Page /Parent 2 0 R /MediaBox [0 0 600 800] /Contents 4 0 R "
        b"/Resources << /Font << /F1 5 0 R >> >> >>",
        b"<< /Length %d >>\nstream\n%s\nendstream" % (len(content), content),
        b"<< /Type /Font /Subtype /Type1 /BaseFont /Helvetica >>",
    ]
    out, places = b"%PDF-1.4\n", []
    for number, body in enumerate(objects, 1):
        places.append(len(out))
        out += b"%d 0 obj\n%s\nendobj\n" % (number, body)
    start = len(out)
    out += b"xref\n0 6\n0000000000 65535 f \n" + b"".join(b"%010d 00000 n \n" % p for p in places)
    path.write_bytes(out + b"trailer << /Size 6 /Root 1 0 R >>\nstartxref\n%d\n%%%%EOF" % start)


def test_html_pdf_and_docx_become_text(tmp_path):
    html = "<html><body><h1>Guide</h1><p>The kettle boils water.</p></body></html>"
    (tmp_path / "a.html").write_text(html)
    make_pdf(tmp_path / "b.pdf")
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
