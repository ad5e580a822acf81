"""Chunks of one index in another."""

import itertools
from collections.abc import Iterable
from pathlib import Path

from gem_rag.errors import GemIndexError
from gem_rag.index.gem_index import GemIndex
from gem_rag.index.records import Record

COPIED_AT_ONCE = 1000


def copy_records(records: Iterable[Record], target: GemIndex) -> list[str]:
    """Put chunks, with the vectors they have, into an index, in one commit.

    Args:
        records: Text, metadata, id and vector are taken; what a document's chunk is besides (its
            place, what is read of it) is not.
        target: Where they go; chunks of the same ids are replaced.

    Returns:
        Their ids.
    """
    ids: list[str] = []
    left = iter(records)
    with target.transaction():
        while batch := list(itertools.islice(left, COPIED_AT_ONCE)):
            for embedded in (True, False):
                some = [r for r in batch if (r.vector is not None) == embedded]
                target.upsert(
                    [record.text for record in some],
                    [r.vector for r in some if r.vector is not None] if embedded else None,
                    [record.metadata for record in some],
                    [record.id for record in some],
                )
            ids += [record.id for record in batch]
    return ids


def claim_for(source: GemIndex, target: GemIndex) -> None:
    """Make sure that the vectors of one index can stand beside those of another.

    Raises:
        GemIndexError: They are another model's, or of another length.
    """
    theirs, ours = source.info(), target.info()
    if not theirs.vectors:
        return
    if theirs.fingerprint != ours.fingerprint and (ours.vectors or ours.fingerprint):
        raise GemIndexError(
            f"the vectors of {_name(source)} were made by the model {theirs.fingerprint!r}, those "
            f"of {_name(target)} by {ours.fingerprint!r}: embed the texts again with one of them"
        )
    target.claim(theirs.fingerprint, theirs.dim)


def is_same(one: GemIndex, other: GemIndex) -> bool:
    """Whether two objects are one index."""
    paths = [Path(index.path).resolve() for index in (one, other) if index.path is not None]
    return one is other or (len(paths) == 2 and paths[0] == paths[1])


def _name(index: GemIndex) -> str:
    return str(index.path or "the index in memory")
