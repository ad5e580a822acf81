"""Which document is meant: requests for a summary, and the names that documents go by."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import PurePath

from gem_rag.documents.kinds import is_known
from gem_rag.documents.words import BELOW, BETWEEN
from gem_rag.index.filters import Where
from gem_rag.index.protocol import Index
from gem_rag.index.records import Chunk

SEARCHED = 20  # passages looked at for a title
LISTED = 10  # documents that are named where it has to be said which

_POLITELY = (
    r"(?:(?:hi|hello|hey|ok|okay|so|now|then|and)[,!.]? )?(?:please,? )?"
    r"(?:(?:can|could|would|will) you (?:please )?|i (?:want|need) (?:you to )?|let me have "
    r"|i(?:['\u2019]d| would) like (?:you to |to have )?)?"
)
_SUMMARY = (
    r"(?:(?:a|an|the) )?(?:(?:short|brief|quick|concise|general|one[- ]paragraph|high[- ]level) )*"
    r"(?:summary|overview|outline|synopsis|abstract|gist|recap|(?:main|key) (?:points?|ideas?))"
)
_OF = r" (?:of|about|on|for|from|in) (?P<what>.+)"
_REQUESTS = [
    re.compile(pattern, re.IGNORECASE)
    for pattern in (
        rf"{_POLITELY}(?:summari[sz]e|sum up|recap|outline)(?: for (?:me|us))?(?: (?P<what>.+))?",
        rf"{_POLITELY}(?:(?:give|show|write|make|provide|get|create)(?: (?:me|us))?(?: with)? )?"
        rf"{_SUMMARY}(?:{_OF})?",
        rf"what(?:['\u2019]s| is| are) {_SUMMARY}{_OF}",
        r"what(?:['\u2019]s| is| are) (?P<what>.+?) (?:all )?about",
    )
]
# These may as well ask about a thing ("What does the warranty cover?").
_MAYBE = [
    re.compile(pattern, re.IGNORECASE)
    for pattern in (
        r"what (?:does|do) (?P<what>.+?) (?:say|contain|cover|describe|deal with|talk about)",
        r"what(?:['\u2019]s| is) (?:in|inside) (?P<what>.+)",
        r"(?:tell me|what (?:can|do) you (?:say|know)) about (?P<what>.+)",
    )
]
_AROUND = re.compile(
    r"[\s,]+(?:please|for (?:me|us)|(?:very )?(?:briefly|shortly)"
    r"|in (?:short|brief|a nutshell|(?:an?|one|two|three|a few|\d+) (?:short )?"
    r"(?:words?|lines?|sentences?|paragraphs?)))$",
    re.IGNORECASE,
)
_ARTICLE = re.compile(r"(?:(?:the|this|that|these|those|my|our|your|a|an) )+", re.IGNORECASE)
_KIND = r"(?:document|doc|file|text|page|paper|book|report|article|pdf|note|manual|story|content)s?"
_KIND_AFTER = re.compile(rf"(?<=\w) {_KIND}$", re.IGNORECASE)
_ANY = re.compile(
    rf"(?:(?:the|this|that|these|those|my|our|your|all|of|whole|entire|given|above|uploaded"
    rf"|attached|indexed|contents?) )*(?:{_KIND}|it|this|that|them|these|everything|all)",
    re.IGNORECASE,
)
_CERTAIN = re.compile(rf"(?:this|that|the|my|our|your) {_KIND}", re.IGNORECASE)


def to_summarise(question: str) -> str | None:
    """What a question wants a summary of: a document's name, or "" for whichever there is.

    Returns:
        None where it asks for something else. A thing that no document is named after ("Summarise
        the warranty") is returned as well.
    """
    asked = " ".join(question.split()).strip(" .?!\u2026")
    while asked != (plain := _AROUND.sub("", asked)):
        asked = plain
    for request in _REQUESTS:
        if match := request.fullmatch(asked):
            what = _unquoted(match["what"] or "")
            return "" if _ANY.fullmatch(what) else what
    for request in _MAYBE:
        if match := request.fullmatch(asked):
            what = _unquoted(match["what"])
            return "" if _CERTAIN.fullmatch(what) else what if is_file(what) else None
    return None


def is_file(name: str) -> bool:
    """Whether a name is a file's, such as are indexed."""
    return is_known(name) and bool(PurePath(name).suffix)


def _unquoted(words: str) -> str:
    return words.strip(" \"'`\u201c\u201d\u2018\u2019\u00ab\u00bb")


class Named:
    """The documents of an index, by their names.

    Args:
        index: Where they are.
        where: Only those with a chunk that matches.
    """

    def __init__(self, index: Index, where: Where | None = None) -> None:
        self._index = index
        self._where = where
        self.sources = self._sources()

    def _sources(self) -> list[str]:
        if self._where is None:
            return [known.source for known in self._index.documents.all() if known.chunks]
        found = (record.source for record in self._index.iterate(self._where))
        return sorted({source for source in found if source is not None})

    def find(self, name: str) -> list[str]:
        """Documents of this name: by file name, with or without its ending, or by title; else
        those whose file name has all of its words."""
        wanted = {_plain(name), _plain(_KIND_AFTER.sub("", name))} - {""}
        if not wanted:
            return []
        named = [s for s in self.sources if wanted & {_plain(w) for w in _file_names(s)}]
        return named or self._titled(name, wanted) or self._partly(wanted)

    def _titled(self, name: str, wanted: set[str]) -> list[str]:
        if not self._index.info().words:  # an older index
            return []
        hits = self._index.search(None, SEARCHED, text=name, mode="words", where=self._where)
        found = dict.fromkeys(hit.source for hit in hits if hit.source is not None)
        return [source for source in found if wanted & self._titles(source)]

    def _titles(self, source: str) -> set[str]:
        return {
            _plain(title) for c in self._index.documents.chunks(source)[:1] for title in _titles(c)
        }

    def _partly(self, wanted: set[str]) -> list[str]:
        words = [set(each.split()) for each in wanted]
        return [
            source
            for source in self.sources
            if any(few <= set(_plain(PurePath(source).name).split()) for few in words)
        ]


def _file_names(source: str) -> Iterator[str]:
    path = PurePath(source)
    yield from (source, path.name, path.stem)


def _titles(first: Chunk) -> Iterator[str]:
    """What a document is called, as its first chunk tells."""
    yield first.heading.split(BETWEEN)[0]
    if first.words != first.text:
        yield first.words.split(BELOW)[0].split(BETWEEN)[0]


def _plain(name: str) -> str:
    """A name as it is compared: "The_Employee-Handbook" is "employee handbook"."""
    words = " ".join(re.findall(r"[^\W_]+", name.casefold()))
    return _ARTICLE.sub("", words, count=1) if _ARTICLE.match(words) else words


def listed(sources: Sequence[str]) -> str:
    """Sources as a list to choose from, a long one not whole."""
    names = shown_names(sources)
    more = len(names) - LISTED
    return ", ".join(names[:LISTED]) + (f", and {more} more" if more > 0 else "")


def shown_names(sources: Sequence[str]) -> list[str]:
    """Sources by the names of their files, and whole where two have the same."""
    names = [PurePath(source).name for source in sources]
    return [n if names.count(n) == 1 else s for n, s in zip(names, sources, strict=True)]
