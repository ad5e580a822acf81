"""JSON values in a file that is only appended to, a line each."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from gem_rag.files import atomic_write


def append_line(file: Path, row: Any) -> None:
    """Add a value; the folder is made where it is missing."""
    file.parent.mkdir(parents=True, exist_ok=True)
    with file.open("a", encoding="utf-8") as out:
        out.write(json.dumps(row, ensure_ascii=False) + "\n")


def read_lines(file: Path) -> list[Any]:
    """The values, none where there is no file; a line that a crash cut short is removed."""
    if not file.exists():
        return []
    data = file.read_bytes()  # decoded without the cut line: it may end within a character
    whole = data[: data.rfind(b"\n") + 1]
    if len(whole) < len(data):
        atomic_write(file, whole)
    return [json.loads(line) for line in whole.decode("utf-8").split("\n")[:-1]]
