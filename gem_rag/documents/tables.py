"""Tables as Markdown."""

from __future__ import annotations

import datetime as dt
import re
from collections.abc import Iterable, Sequence


def markdown_table(rows: Iterable[Sequence[object]]) -> str:
    """A table whose first row is its header; empty rows and columns are left out, "" of no cells.

    Args:
        rows: Cells of any kind; None is an empty one.
    """
    cells = [[_cell(value) for value in row] for row in rows]
    cells = [row for row in cells if any(row)]
    width = max(map(len, cells), default=0)
    cells = [row + [""] * (width - len(row)) for row in cells]
    used = [i for i in range(width) if any(row[i] for row in cells)]
    lines = ["| " + " | ".join(row[i] for i in used) + " |" for row in cells]
    return "\n".join([*lines[:1], "|" + " --- |" * len(used), *lines[1:]]) if lines else ""


def _cell(value: object) -> str:
    if value is None:
        return ""
    if isinstance(value, float):
        return f"{value:.15g}"
    if isinstance(value, dt.datetime) and value.time() == dt.time():
        value = value.date()
    text = re.sub(r"(?<=\w)-\n(?=[a-z])", "", str(value))  # a word broken at the end of its line
    return " ".join(text.replace("|", "\\|").split())
