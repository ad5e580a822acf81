"""Every module and data file of the source tree is in the wheel, and nothing generic is."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from pathlib import Path

PACKAGES = {
    "gem_rag": "gem_rag",
    "integrations/langchain_gem_rag": "langchain_gem_rag",
    "integrations/llama_index_gem_rag": "llama_index_gem_rag",
    "train/gem_rag_train": "gem_rag_train",
    "docs": "gem_rag/_docs",
}


def main() -> None:
    """Compare the wheel named on the command line with git's list of files."""
    with zipfile.ZipFile(sys.argv[1]) as wheel:
        packed = set(wheel.namelist())
    listed = subprocess.run(
        ["git", "ls-files", *PACKAGES], capture_output=True, text=True, check=True
    )
    expected = set()
    for line in listed.stdout.splitlines():
        root = next(r for r in PACKAGES if line.startswith(f"{r}/"))
        expected.add(f"{PACKAGES[root]}/{Path(line).relative_to(root).as_posix()}")
    missing = sorted(expected - packed)
    tops = {name.split("/")[0] for name in packed if ".dist-info/" not in name}
    odd = sorted(tops - {p.split("/")[0] for p in PACKAGES.values()})
    if missing or odd:
        sys.exit(f"missing from the wheel: {missing}; unexpected at its top: {odd}")
    print(f"{len(expected)} files, all in the wheel")


if __name__ == "__main__":
    main()
