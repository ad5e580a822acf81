"""What was filled into a PDF's form, and notes put onto its pages."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

PUSH_BUTTON = 1 << 16  # a field's flag
BOXES = {"Off": "no", "Yes": "yes", "On": "yes", "": "no"}


def fields_of(path: Path) -> dict[int, list[str]]:
    """Lines "Label: value" and notes, by the page they stand on; 0 is the first."""
    import pdfplumber
    from pdfminer.pdftypes import resolve1

    found: dict[int, list[str]] = defaultdict(list)
    with pdfplumber.open(path) as document:
        for number, page in enumerate(document.pages):
            for reference in resolve1(page.page_obj.annots) or []:
                annotation = resolve1(reference)
                if isinstance(annotation, dict) and (line := _line(annotation)):
                    found[number].append(line)
    return {number: list(dict.fromkeys(lines)) for number, lines in found.items()}


def _line(annotation: dict[str, Any]) -> str:
    kind = _text(annotation.get("Subtype"))
    if kind == "FreeText":
        return _text(annotation.get("Contents")).strip()
    return _field(list(_with_parents(annotation))) if kind == "Widget" else ""


def _with_parents(field: dict[str, Any]) -> Iterator[dict[str, Any]]:
    from pdfminer.pdftypes import resolve1

    for _ in range(32):  # a damaged file's may go round in circles
        yield field
        field = resolve1(field.get("Parent"))
        if not isinstance(field, dict):
            return


def _field(chain: list[dict[str, Any]]) -> str:
    """A field's label and value, "" without a value; it inherits from those above it."""
    kind, flags = _text(_first(chain, "FT")), _first(chain, "Ff") or 0
    if kind not in ("Tx", "Ch", "Btn") or (kind == "Btn" and flags & PUSH_BUTTON):
        return ""
    value = _first(chain, "V")
    values = [_text(own) for own in (value if isinstance(value, list) else [value])]
    if kind == "Btn":
        values = [BOXES.get(own, own) for own in values]
    names = [_text(field["T"]) for field in reversed(chain) if "T" in field]
    shown = ", ".join(own.strip() for own in values if own.strip())
    return f"{_text(_first(chain, 'TU')) or '.'.join(names)}: {shown}" if shown else ""


def _first(chain: list[dict[str, Any]], key: str) -> Any:
    from pdfminer.pdftypes import resolve1

    return next((resolve1(field[key]) for field in chain if key in field), None)


def _text(value: Any) -> str:
    from pdfminer.pdftypes import resolve1
    from pdfminer.psparser import PSLiteral
    from pdfminer.utils import decode_text

    value = resolve1(value)
    if isinstance(value, PSLiteral):
        value = value.name
    return decode_text(value) if isinstance(value, bytes) else "" if value is None else str(value)
