"""Where `StorageContext.persist` puts a store, and what others find there."""

from __future__ import annotations

import json
from pathlib import Path

import fsspec
from fsspec.implementations.local import LocalFileSystem
from llama_index.core.vector_stores.types import DEFAULT_PERSIST_DIR, DEFAULT_PERSIST_FNAME

DEFAULT_NAMESPACE = "default"
DEFAULT_PERSIST_PATH = f"{DEFAULT_PERSIST_DIR}/{DEFAULT_NAMESPACE}__{DEFAULT_PERSIST_FNAME}"
_SIGNPOST = (
    "these vectors are a GemVectorStore's: give StorageContext.from_defaults(persist_dir=..., "
    "vector_store=GemVectorStore.from_persist_dir(...))"
)


def path_in(persist_dir: str, namespace: str) -> str:
    """The path that LlamaIndex gives a store of this name."""
    return str(Path(persist_dir) / f"{namespace}__{DEFAULT_PERSIST_FNAME}")


def persisted_folder(persist_path: str) -> Path:
    """The folder for a path; LlamaIndex's own paths are those of files, and it stands beside."""
    path = Path(persist_path)
    return path.with_suffix("") if _is_of_a_file(path) else path


def leave_signpost(persist_path: str) -> None:
    """Where LlamaIndex looks for a file, one that says how the folder beside it is loaded.

    Without a store, `StorageContext.from_defaults` reads what is there as its own, and its error
    has the first thing in it that is no number.
    """
    path = Path(persist_path)
    if _is_of_a_file(path):
        path.write_text(json.dumps({"embedding_dict": {"": [_SIGNPOST]}}) + "\n")


def require_local(fs: fsspec.AbstractFileSystem | None) -> None:
    """Raise ValueError for a file system that is not this machine's."""
    if fs is not None and not isinstance(fs, LocalFileSystem):
        raise ValueError(
            f"the file system is {type(fs).__name__}; an SQLite index lives on this machine's: "
            "persist to a local folder and copy that"
        )


def _is_of_a_file(path: Path) -> bool:
    return path.name.endswith(DEFAULT_PERSIST_FNAME) and not path.is_dir()
