"""Parts of a sentence that can be asked for: dates, numbers, names, quoted words, plain nouns."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

Kind = Literal["date", "year", "number", "name", "quoted", "noun"]

MONTH = r"(?:January|February|March|April|May|June|July|August|September|October|November|December)"
UNIT = (
    r"%| percent| million| billion| thousand| km| miles| metres| meters| feet| years| days| hours"
    r"| minutes| kg| tons"
)


def word_set(text: str) -> frozenset[str]:
    """The words of a text, each once."""
    return frozenset(text.split())


SMALL_WORDS = word_set(
    "of in and is was were are which that to for with by from on at as or but who has had have not "
    "be been into than when where while after before during between through under over about its "
    "their his her it they he she we you this these those also only can may will would could "
    "should did does do if so such there then because although though however both most more many "
    "some other one two all any each no several various being until since "
    "against across without within among"
)
CAPITALISED = r"[A-Z][\w'’-]*"
# In this order: what one has taken, the later ones leave.
PATTERNS: tuple[tuple[Kind, re.Pattern[str]], ...] = (
    (
        "date",
        re.compile(
            rf"\b(?:\d{{1,2}} {MONTH} \d{{4}}|{MONTH} \d{{1,2}}, \d{{4}}|{MONTH} \d{{4}}"
            rf"|{MONTH} \d{{1,2}})\b"
        ),
    ),
    ("year", re.compile(r"\b(?:1[0-9]{3}|20[0-2][0-9])\b(?!s|[-–,.]\d| [a-z]+s\b)")),
    ("number", re.compile(rf"(?<![\w.-])(?:[$£€]\s?)?\d[\d,]*(?:\.\d+)?(?:{UNIT})*(?![\w-])")),
    (
        "name",
        re.compile(rf"\b(?:[Tt]he )?{CAPITALISED}(?:(?: of(?: the)?| de| von|'s)? {CAPITALISED})*"),
    ),
    ("quoted", re.compile(r"(?<=\")[^\"]{3,60}(?=\")")),
    ("noun", re.compile(r"\b(?:the|a|an) (?:[a-z][a-z'-]+ ){0,2}[a-z][a-z'-]+")),
)
MOST_WORDS = 7


@dataclass(frozen=True)
class Span:
    """A part of a sentence.

    Attributes:
        start: Its first character.
        end: The one after its last.
        kind: What it is.
    """

    start: int
    end: int
    kind: Kind


def spans(sentence: str) -> list[Span]:
    """What can be asked for in a sentence; no two overlap."""
    out: list[Span] = []
    for kind, pattern in PATTERNS:
        for match in pattern.finditer(sentence):
            span = _span(kind, match)
            if span is not None and not any(s.start < span.end and span.start < s.end for s in out):
                out.append(span)
    return out


def _span(kind: Kind, match: re.Match[str]) -> Span | None:
    start, end = match.span()
    words = match[0].split()
    if kind == "name":
        alone = len(words) == 1
        opens = start == 0 and (alone or words[0].lower() in SMALL_WORDS)  # capital, and no name
        if opens or re.fullmatch(MONTH, match[0]) or (alone and words[0].lower() in SMALL_WORDS):
            return None
    if kind == "noun":
        kept = list(_noun(words))
        if len(kept) < 2 or len(kept[-1]) < 4:
            return None
        end = start + len(" ".join(kept))
    return Span(start, end, kind) if len(words) <= MOST_WORDS else None


def _noun(words: list[str]) -> Iterator[str]:
    """An article and what follows it, up to where something else begins."""
    yield words[0]
    for word in words[1:]:
        if word in SMALL_WORDS or word.endswith(("ed", "ing", "ly")):
            return
        yield word
