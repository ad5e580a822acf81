"""Office's files and books are archives; one that unpacks to far too much is not opened."""

from __future__ import annotations

import zipfile
from pathlib import Path

from gem_rag.documents.kinds import kind_of
from gem_rag.errors import DocumentError

ARCHIVES = {".docx", ".pptx", ".xlsx", ".xlsm", ".xlsb", ".ods", ".odt", ".odp", ".epub"}
MOST_BYTES = 1 << 30  # unpacked
MOST_TIMES = 200  # as large as it is packed; text packs to about a tenth
MOST_FILES = 20_000
_SMALL_BYTES = 64 << 20  # unpacked: however well it is packed, that can be read


def require_modest(path: Path) -> None:
    """Refuse an archive that would fill memory or disk when it is unpacked.

    Args:
        path: A file; of other kinds nothing is asked, nor of one that is damaged.

    Raises:
        DocumentError: It unpacks to too much.
    """
    if kind_of(path.name) not in ARCHIVES or not zipfile.is_zipfile(path):
        return
    try:
        with zipfile.ZipFile(path) as archive:
            files = archive.infolist()
    except (zipfile.BadZipFile, OSError, ValueError):
        return  # whoever reads it says what is wrong
    unpacked = sum(file.file_size for file in files)
    packed = max(1, path.stat().st_size)
    swollen = unpacked > _SMALL_BYTES and unpacked > MOST_TIMES * packed
    if unpacked > MOST_BYTES or len(files) > MOST_FILES or swollen:
        raise DocumentError(
            f"{path.name} unpacks to {unpacked / 1e6:.0f} MB in {len(files)} files from "
            f"{packed / 1e6:.1f} MB; expected at most {MOST_BYTES / 1e6:.0f} MB, {MOST_FILES} "
            f"files and {MOST_TIMES} times its size: it is not opened"
        )
