"""Which files there are to read."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

from gem_rag.errors import DocumentError

MARKDOWN = {".md", ".markdown", ".mdx"}
PLAIN = {".txt", ".text", ".rst", ".adoc", ".org", ".tex", ".log", ".csv", ".json", ".yaml", ".yml"}
CONVERTED = {".html", ".htm", ".pdf", ".docx", ".epub"}
KNOWN = MARKDOWN | PLAIN | CONVERTED


def find_files(paths: Sequence[str | Path]) -> list[Path]:
    """Files named, and files of known kinds under folders named; absolute, sorted, each once.

    Hidden files and folders below a named folder are passed over.

    Raises:
        DocumentError: A path does not exist.
    """
    found: set[Path] = set()
    for path in existing(paths):
        if path.is_file():
            found.add(path)
        else:
            found.update(f for f in path.rglob("*") if _is_wanted(f, path))
    return sorted(found)


def existing(paths: Sequence[str | Path]) -> list[Path]:
    """Files and folders as absolute paths.

    Raises:
        DocumentError: A path does not exist.
    """
    whole = [Path(p).expanduser().resolve() for p in paths]
    for path in whole:
        if not (path.is_file() or path.is_dir()):
            raise DocumentError(f"no file or folder {str(path)!r}; check the path")
    return whole


def _is_wanted(file: Path, root: Path) -> bool:
    hidden = any(part.startswith(".") for part in file.relative_to(root).parts)
    return not hidden and file.suffix.lower() in KNOWN and file.is_file()


def content_hash(path: Path) -> str:
    """sha256 of a file's bytes, in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
