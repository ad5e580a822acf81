"""A document's words, the same for whoever embeds and whoever ranks: one reading serves both."""

from __future__ import annotations

from collections.abc import Sequence

from haystack import Document


def words_of(document: Document, meta_fields: Sequence[str], separator: str) -> str:
    """A document's content after those of its metadata fields that it has.

    Args:
        document: Of text.
        meta_fields: Names, in the order in which their values stand.
        separator: Between them.
    """
    values = [document.meta.get(name) for name in meta_fields]
    held = [str(value) for value in values if value is not None]
    return separator.join([*held, document.content or ""])
