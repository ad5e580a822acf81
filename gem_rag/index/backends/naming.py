"""What collections may be called, and what there is beside them."""

import re

from gem_rag.errors import GemIndexError

_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,47}")  # what all of the stores take
DEFAULT_COLLECTION = "gem_rag"


def require_name(collection: str) -> str:
    """A collection's name.

    Raises:
        GemIndexError: Not every store would take it.
    """
    if not _NAME.fullmatch(collection):
        raise GemIndexError(
            f"the collection is called {collection!r}; expected letters, digits and _, a letter "
            "or _ first, 48 characters at most"
        )
    return collection


def entries_name(collection: str) -> str:
    """Where documents and values by key are, and what the metadata of all is said of."""
    return f"{collection}_documents"


def chunks_name(collection: str, dim: int | None) -> str:
    """Where chunks are; those from before the first vector lie apart."""
    return f"{collection}_unvectored" if dim is None else collection
