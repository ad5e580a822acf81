"""What is read and searched for a chunk where that is more, or better, than its exact slice."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from pathlib import PurePath

from gem_rag.documents.document import Document
from gem_rag.documents.kinds import ROWS, is_code, is_known, kind_of

BETWEEN, BELOW = " > ", "\n\n"  # names above a chunk; what stands after them
_LIGATURES = dict(
    zip(range(0xFB00, 0xFB07), ("ff", "fi", "fl", "ffi", "ffl", "st", "st"), strict=True)
)
_UNSEEN = re.compile(r"\u00ad[ \t]*(\r?\n[ \t]*)?|[\u200b\u2060\ufeff]")  # soft hyphens, no widths
_BROKEN = re.compile(r"(?<=\w)[-\u2010][ \t]*\r?\n\s*([^\W\d_]\w*)")
_LAST_WORD = re.compile(r"\w+\Z")
LONGEST_WORD = 60  # characters
_WORD = re.compile(r"\w+(?:-\w+)*")


@dataclass(frozen=True)
class Shown:
    """Which names are read before a chunk's text.

    Attributes:
        title: The document's title, or the name of its file.
        path: The headings that the chunk stands under.
        openings: Those of the two that it does not show itself, before chunks that begin with
            their own heading too.
    """

    title: bool = True
    path: bool = True
    openings: bool = False


SHOWN = Shown()


def title_of(document: Document) -> str:
    """A document's title, or the name of the file that it comes from, or ""."""
    if document.title:
        return " ".join(document.title.split())
    return PurePath(document.source).stem if is_known(document.source) else ""


def names_above(title: str, path: Sequence[str], own: Collection[str], shown: Shown) -> list[str]:
    """The names that are read before a chunk's text, outermost first.

    Args:
        title: The document's, or "".
        path: The headings it stands under.
        own: Those that it begins with.
        shown: Which of them are.
    """
    if own and not shown.openings:
        return []
    names = ([title] if title and shown.title else []) + (list(path) if shown.path else [])
    different: dict[str, str] = {}
    for name in names:
        different.setdefault(name.casefold(), name)  # a title is often the first heading once more
    seen = {name.casefold() for name in own}
    return [name for key, name in different.items() if key and key not in seen]


def renamed(read: str, old: str, new: str) -> str:
    """What is read before or of a chunk whose file got another name, where it begins with that.

    Args:
        read: What was read under the old path.
        old: The file's path.
        new: Its path now.
    """
    before, after = PurePath(old).stem, PurePath(new).stem
    named = read.startswith((before + BETWEEN, before + BELOW))
    return after + read.removeprefix(before) if named else read


def mender(document: Document) -> Callable[[str], str]:
    """Puts words together that print took apart: ligatures, soft hyphens, words broken at lines.

    A hyphen at a line's end is taken out in a PDF unless the document has the word with a hyphen
    elsewhere and not without; in plain text only if it has the word without; in others never.
    """
    printed = bool(document.pages)
    words: set[str] = set()
    if printed or _is_prose(document):
        words = {word.lower() for word in _WORD.findall(_seen(document.text))}

    def join(match: re.Match[str]) -> str:
        near = match.string[max(0, match.start() - LONGEST_WORD) : match.start()]
        before, after = "".join(_LAST_WORD.findall(near)), match[1]
        known, hyphened = (before + after).lower() in words, f"{before}-{after}".lower() in words
        if not after[0].islower() or not (known or printed):
            return match[0]
        return f"-{after}" if hyphened and not known else after

    return lambda text: _BROKEN.sub(join, _seen(text)) if words else _seen(text)


def _is_prose(document: Document) -> bool:
    kind = kind_of(document.source)
    return not (document.markdown or is_code(document.source) or kind in ROWS)


def _seen(text: str) -> str:
    return text if text.isascii() else _UNSEEN.sub("", text).translate(_LIGATURES)
