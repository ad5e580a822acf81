"""Notebooks, records of JSON and XML as text that reads as words."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

from gem_rag.documents.decode import decode
from gem_rag.documents.document import Document
from gem_rag.errors import DocumentError

_ESCAPED = re.compile(r"(?<!\\)((?:\\\\)*)((?:\\u[0-9a-fA-F]{4})+)")


def read_notebook(path: Path) -> Document:
    """A Jupyter notebook as Markdown: its cells, and what they printed."""
    text, notes = decode(path.read_bytes())
    book = json.loads(text)
    if not isinstance(book, dict) or not isinstance(book.get("cells"), list):
        raise DocumentError(f"{path} is no notebook of version 4; convert it with `jupyter`")
    language = book.get("metadata", {}).get("language_info", {}).get("name", "python")
    parts = [part for cell in book["cells"] for part in _cell(cell, language)]
    return Document("\n\n".join(parts), str(path), markdown=True, notes=notes)


def _cell(cell: Mapping[str, Any], language: str) -> Iterator[str]:
    source = _joined(cell.get("source"))
    if cell.get("cell_type") == "markdown":
        yield source.strip()
    elif source.strip():
        yield _fenced(source, language if cell.get("cell_type") == "code" else "")
    for output in cell.get("outputs", []):
        shown = _joined(output.get("text") or output.get("data", {}).get("text/plain"))
        if output.get("output_type") == "error":
            shown = f"{output.get('ename')}: {output.get('evalue')}"
        if shown.strip():
            yield _fenced(shown, "")


def _joined(lines: str | list[str] | None) -> str:
    return lines if isinstance(lines, str) else "".join(lines or [])


def _fenced(text: str, language: str) -> str:
    fence = "`" * max(3, 1 + max(map(len, re.findall(r"`+", text)), default=0))
    return f"{fence}{language}\n{text.strip(chr(10))}\n{fence}"


def read_json(path: Path) -> Document:
    r"""JSON as it stands, but for letters written as ``\u00e4``."""
    text, notes = decode(path.read_bytes())
    return Document(_ESCAPED.sub(_letters, text), str(path), notes=notes)


def _letters(match: re.Match[str]) -> str:
    letters = json.loads(f'"{match[2]}"')
    is_safe = letters.isprintable() and not set(letters) & set('"\\')
    return match[1] + letters if is_safe else match[0]


def read_records(path: Path) -> Document:
    """JSON Lines: a paragraph for each record, with a line for each of its keys."""
    text, notes = decode(path.read_bytes())
    records = (_record(line) for line in text.split("\n") if line.strip())
    return Document("\n\n".join(records), str(path), notes=notes)


def _record(line: str) -> str:
    try:
        value = json.loads(line)
    except ValueError:
        return line.strip()
    if not isinstance(value, dict):
        return _shown(value)
    return "\n".join(f"{key}: {_shown(own)}" for key, own in value.items())


def _shown(value: object) -> str:
    shown = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return shown.encode("utf-8", "replace").decode()  # JSON can hold half a character


def read_xml(path: Path) -> Document:
    """XML: a line for each element with text alone, a paragraph for each that holds such."""
    data = path.read_bytes()
    try:
        root = ET.fromstring(data)
    except (ET.ParseError, ValueError, LookupError):
        text, notes = decode(data)
        return Document(text, str(path), notes=notes)
    lines = "\n".join(_element(root))
    return Document(re.sub(r"\n{3,}", "\n\n", lines).strip(), str(path))


def _element(element: ET.Element) -> Iterator[str]:
    name = _local(element.tag)
    attributes = ", ".join(f"{_local(key)}: {value}" for key, value in element.attrib.items())
    label = f"{name} ({attributes})" if attributes else name
    own = [element.text, *(child.tail for child in element)]
    if any(text and text.strip() for text in own):
        words = " ".join("".join(element.itertext()).split())
        yield f"{label}: {words}"
    else:
        yield ""
        if attributes:
            yield label
        for child in element:
            yield from _element(child)
        if len(element):
            yield ""


def _local(tag: str) -> str:
    return tag.rpartition("}")[2]
