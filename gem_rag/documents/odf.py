"""OpenDocument texts and slides as Markdown."""

from __future__ import annotations

import zipfile
from collections.abc import Iterator
from pathlib import Path
from xml.etree import ElementTree as ET

from gem_rag.documents.document import Document
from gem_rag.documents.html import tidy
from gem_rag.documents.office import encrypted_error, paged
from gem_rag.documents.tables import markdown_table

_TEXT = "{urn:oasis:names:tc:opendocument:xmlns:text:1.0}"
_TABLE = "{urn:oasis:names:tc:opendocument:xmlns:table:1.0}"
_OFFICE = "{urn:oasis:names:tc:opendocument:xmlns:office:1.0}"
_DRAW = "{urn:oasis:names:tc:opendocument:xmlns:drawing:1.0}"
_LEFT_OUT = {_OFFICE + "annotation", _TEXT + "tracked-changes", _TEXT + "sequence-decls"}
_SIGNS = {_TEXT + "tab": "\t", _TEXT + "line-break": "\n"}


def read_open_document(path: Path) -> Document:
    """ODT, and ODP, whose slides are pages."""
    with zipfile.ZipFile(path) as archive:
        if b"encryption-data" in archive.read("META-INF/manifest.xml"):
            raise encrypted_error(path)
        root = ET.fromstring(archive.read("content.xml"))
    if slides := list(root.iter(_DRAW + "page")):
        return paged([_markdown(slide) for slide in slides], path)
    return Document(_markdown(root), str(path), markdown=True)


def _markdown(element: ET.Element) -> str:
    return tidy("\n\n".join(_blocks(element)))


def _blocks(element: ET.Element) -> Iterator[str]:
    for child in element:
        if child.tag in _LEFT_OUT:
            continue
        if child.tag == _TEXT + "h":
            level = min(6, int(child.get(_TEXT + "outline-level", "1")))
            yield f"{'#' * level} {' '.join(_inline(child).split())}"
        elif child.tag == _TEXT + "p":
            yield _inline(child).strip()
            yield from _blocks(child)  # text in frames
        elif child.tag == _TEXT + "list":
            yield "\n".join(_items(child, 0))
        elif child.tag == _TABLE + "table":
            yield markdown_table(_rows(child))
        else:
            yield from _blocks(child)


def _items(element: ET.Element, depth: int) -> Iterator[str]:
    for item in element:
        for child in item:
            if child.tag == _TEXT + "list":
                yield from _items(child, depth + 1)
            elif text := _inline(child).strip():
                yield f"{'  ' * depth}- {text}"


def _rows(table: ET.Element) -> Iterator[list[str]]:
    for row in table.iter(_TABLE + "table-row"):
        yield [
            " ".join(_inline(paragraph) for paragraph in cell.iter(_TEXT + "p"))
            for cell in row
            if cell.tag in (_TABLE + "table-cell", _TABLE + "covered-table-cell")
        ]


def _inline(element: ET.Element) -> str:
    """A paragraph's words; frames within it are blocks of their own."""
    parts = [element.text or ""]
    for child in element:
        if child.tag == _TEXT + "s":
            parts.append(" " * int(child.get(_TEXT + "c", "1")))
        elif child.tag in _SIGNS:
            parts.append(_SIGNS[child.tag])
        elif child.tag == _TEXT + "note":
            parts.append(f" ({' '.join(_inline(p) for p in child.iter(_TEXT + 'p'))})")
        elif child.tag not in _LEFT_OUT and not child.tag.startswith(_DRAW):
            parts.append(_inline(child))
        parts.append(child.tail or "")
    return "".join(parts)
