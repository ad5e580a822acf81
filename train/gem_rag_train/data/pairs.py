"""A pair of texts that belong together, and how one is made of the other."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from random import Random
from typing import Literal

PairKind = Literal["query_document", "document_document"]
SHORT = range(4, 15)  # words of a phrase
WHO = ("Who", "What", "Which", "Where")
CLOZE = range(7, 16)  # words of a question made of a sentence
ANSWER = re.compile(  # a name or a number, with the preposition before it
    r"(?:\b(?:in|on|at|by|of|from|since|to|with)\s+)?"
    r"(?:(?P<year>\b1\d{3}\b|\b20\d\d\b)|(?P<number>\b\d[\d,.]*\b)|(?P<name>\b[A-Z]\w+(?:\s[A-Z]\w+)*))"
)
WORD = re.compile(r"\b[a-z]{4,}\b")  # that says something and is no name


@dataclass(frozen=True)
class Pair:
    """Two texts that belong together.

    Attributes:
        first: A query or a document, as `kind` says.
        second: A document.
        kind: How `first` is embedded.
        group: The source passage; pairs of one group are no negatives of each other.
        negatives: Documents that look like `second` and are not (hard negatives).
    """

    first: str
    second: str
    kind: PairKind
    group: str
    negatives: tuple[str, ...] = ()


Draw = Callable[[Random], Pair]


def sentences(text: str) -> list[str]:
    """Sentences, well enough for crops."""
    return [s for s in re.split(r"(?<=[.!?])\s+(?=[\"'(A-Z0-9])", text) if s.strip()]


def crop(text: str, rng: Random, longest: int = 5) -> str:
    """One to `longest` neighbouring sentences."""
    parts = sentences(text)
    size = rng.randint(1, min(longest, len(parts)))
    start = rng.randint(0, len(parts) - size)
    return " ".join(parts[start : start + size])


def drop_words(text: str, rng: Random, share: float) -> str:
    """The text without a random share of its words (the paper's masked positive)."""
    words = text.split()
    kept = [w for w in words if rng.random() >= share]
    return " ".join(kept) if kept else text


def phrase(sentence: str, rng: Random) -> str:
    """A part of a sentence that has few words: a clause, or words in a row."""
    clauses = [c.strip() for c in re.split(r"[,;:()]|\s[-\u2013\u2014]+\s", sentence)]
    short = [c for c in (sentence, *clauses) if len(c.split()) in SHORT]
    if short:
        return rng.choice(short)
    words = sentence.split()
    size = rng.choice(SHORT)
    start = rng.randint(0, max(0, len(words) - size))
    return " ".join(words[start : start + size])


def exchange_word(text: str, other: str, rng: Random) -> str:
    """The text with one word of some length replaced by one of another text."""
    places, theirs = (list(WORD.finditer(t)) for t in (text, other))
    if not places or not theirs:
        return text
    start, end = rng.choice(places).span()
    return text[:start] + rng.choice(theirs)[0] + text[end:]


def cloze(sentence: str, rng: Random) -> str:
    """A question made of a sentence: a name or number gives way to a question word, put first.

    Only some words around it stay. No grammar is asked of it (the noisy clozes of Lewis et al.
    2019, unsupervised question answering). Without a name or number another word gives way; without
    any word there is no question: "".
    """
    found = [m for m in ANSWER.finditer(sentence) if m.start()]  # the first word is capitalised
    words = found or list(re.finditer(r"\w+", sentence))
    if not words:
        return ""
    answer = rng.choice(words)
    kind = answer.lastgroup if found else "other"
    asked = {"year": ("When",), "number": ("How many",)}.get(kind or "", WHO)
    before, after = sentence[: answer.start()].split(), sentence[answer.end() :].split()
    size = rng.choice(CLOZE)
    first = rng.randint(0, min(size, len(before)))
    around = before[len(before) - first :] + after[: size - first]
    return f"{rng.choice(asked)} {' '.join(around).rstrip('.,;:!?')}?"


def masked(text: str, rng: Random, group: str) -> Pair:
    """A text, and the same with words missing at random (arXiv 2506.04344, section 3.2)."""
    return Pair(text, drop_words(text, rng, rng.uniform(0.1, 0.5)), "document_document", group)
