"""Small files of other people's formats, made on the fly."""

import zipfile


def make_docx(path, text="The kettle boils water."):
    ns = "http://schemas.openxmlformats.org"
    word = f"{ns}/wordprocessingml/2006/main"
    body = f"<w:p><w:r><w:t>{text}</w:t></w:r></w:p>"
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


def text_at(x, y, text):
    """What draws a line of text, in a page's content."""
    return f"BT /F1 12 Tf {x} {y} Td ({text}) Tj ET"


def lines_at(x, y, *lines):
    """Lines of text below each other."""
    return "\n".join(text_at(x, y - 14 * i, line) for i, line in enumerate(lines))


def grid_at(x, y, rows, width=100, height=20):
    """A ruled table."""
    right, bottom = x + width * len(rows[0]), y - height * len(rows)
    across = [f"{x} {y - height * i} m {right} {y - height * i} l S" for i in range(len(rows) + 1)]
    down = [f"{x + width * i} {y} m {x + width * i} {bottom} l S" for i in range(len(rows[0]) + 1)]
    cells = [
        text_at(x + 5 + width * j, y - 14 - height * i, cell)
        for i, row in enumerate(rows)
        for j, cell in enumerate(row)
    ]
    return "\n".join(across + down + cells)


def make_pdf(path, *pages, fields="", trailer="", extra=()):
    """A PDF.

    Args:
        path: The file.
        pages: Each a content stream, or a text alone.
        fields: Annotation dictionaries of the first page.
        trailer: More of the trailer.
        extra: More objects, numbered from 4 on.
    """
    first = 4 + len(extra)
    kids = " ".join(f"{first + 2 * i} 0 R" for i in range(len(pages)))
    objects = [
        "<< /Type /Catalog /Pages 2 0 R >>",
        f"<< /Type /Pages /Kids [{kids}] /Count {len(pages)} >>",
        "<< /Type /Font /Subtype /Type1 /BaseFont /Helvetica >>",
        *extra,
    ]
    for i, page in enumerate(pages):
        content = page if not page or " Tj" in page or " re" in page else text_at(50, 700, page)
        annotations = f"/Annots [{fields}]" if fields and not i else ""
        objects += [
            "<< /Type /Page /Parent 2 0 R /MediaBox [0 0 600 800] "
            f"/Contents {first + 2 * i + 1} 0 R "
            f"/Resources << /Font << /F1 3 0 R >> >> {annotations} >>",
            f"<< /Length {len(content)} >>\nstream\n{content}\nendstream",
        ]
    out, places = b"%PDF-1.4\n", []
    for number, body in enumerate(objects, 1):
        places.append(len(out))
        out += f"{number} 0 obj\n{body}\nendobj\n".encode("latin-1")
    start = len(out)
    entries = "".join(f"{place:010d} 00000 n \n" for place in places)
    size = len(objects) + 1
    out += f"xref\n0 {size}\n0000000000 65535 f \n{entries}".encode()
    end = f"trailer << /Size {size} /Root 1 0 R {trailer} >>\nstartxref\n{start}\n%%EOF"
    path.write_bytes(out + end.encode())


def make_odt(path, body):
    """An OpenDocument text; `body` is what stands in its ``office:text``."""
    oasis = "urn:oasis:names:tc:opendocument:xmlns"
    names = " ".join(f'xmlns:{n}="{oasis}:{n}:1.0"' for n in ("office", "text", "table", "draw"))
    content = f"<office:body><office:text>{body}</office:text></office:body>"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("META-INF/manifest.xml", "<manifest/>")
        archive.writestr(
            "content.xml", f"<office:document-content {names}>{content}</office:document-content>"
        )
