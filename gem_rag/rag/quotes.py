"""Which sentence of a passage carries an answer: the one that holds its words.

An answer takes its words from the passage, so no model is asked: words that are rare in the
passages say most, and the first of an answer more than the last, where a small model wanders off.
Where several sentences hold them, the words of the question decide. The numbers below were chosen
on questions that are not used to report: see docs/benchmarks.md.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass, replace

from gem_rag.documents.sentences import sentences
from gem_rag.index.words import asked, words
from gem_rag.rag.citation import Citation

LATER = 0.9  # each word of an answer counts for so much of the one before it
QUESTION = 0.3  # all of the question's words, where all of the answer's count 1
VERBATIM = 0.5  # a sentence in which the answer stands word for word has so much more
WIDER = 0.2  # a neighbour that holds so much more of the answer is quoted too
CARRIES = 0.5  # a passage carries an answer if it holds so much of what the best one holds

_ENDINGS = ("ings", "ing", "edly", "ed", "es", "s", "ly", "e")  # of English words
_LEAST_STEM = 3  # letters


def quoted(citations: Sequence[Citation], question: str, answer: str) -> list[Citation]:
    """Citations with the place of the sentence that carries the answer.

    Where an answer stands on two neighbours, the quote is both. Of several passages those that hold
    little of what the answer says get none, and so do all where none holds a word of it or of the
    question.

    Args:
        citations: The passages that the answer was given from.
        question: What was asked.
        answer: The whole answer; where it is blank, nothing is quoted.
    """
    if not answer.strip():
        return list(citations)
    passages = [_sentences(citation) for citation in citations]
    wanted = _Wanted(question, answer, [each for passage in passages for each in passage])
    quotes = [wanted.quote(passage) for passage in passages]
    best = max(quotes, key=lambda quote: (quote.share, quote.score), default=_NOTHING)
    return [
        _with(citation, quote) if _carries(quote, best) else citation
        for citation, quote in zip(citations, quotes, strict=True)
    ]


@dataclass(frozen=True)
class _Quote:
    """A part of a passage: its place there, its score, and its share of the answer's words."""

    start: int
    end: int
    score: float
    share: float


_NOTHING = _Quote(0, 0, 0.0, 0.0)


def _carries(quote: _Quote, best: _Quote) -> bool:
    """Whether a passage's quote is shown, beside the best of them all."""
    if best.share == 0.0:  # an answer in words of its own: the question's decide, for one passage
        return quote is best and quote.score > 0.0
    return quote.share >= CARRIES * best.share


def _with(citation: Citation, quote: _Quote) -> Citation:
    at = citation.start
    return replace(citation, quote_start=at + quote.start, quote_end=at + quote.end)


@dataclass(frozen=True)
class _Sentence:
    """A sentence of a passage: its place there, its different words, and all of them in order."""

    start: int
    end: int
    words: frozenset[str]
    line: str


def _sentences(citation: Citation) -> list[_Sentence]:
    found = []
    for start, end in sentences(citation.text, citation.source):
        inner = words(citation.text[start:end])
        found.append(_Sentence(start, end, _forms(inner), _line(inner)))
    return found


class _Wanted:
    """What a sentence is to hold.

    Args:
        question: What was asked.
        answer: What was answered.
        among: All sentences, which say how rare a word is.
    """

    def __init__(self, question: str, answer: str, among: Sequence[_Sentence]) -> None:
        counts = Counter(word for each in among for word in each.words)
        rare = {word: math.log((len(among) + 1) / (n + 0.5)) for word, n in counts.items()}
        said = [word for word in _telling(answer) if word in rare]
        self._said = {word: rare[word] * LATER**place for place, word in enumerate(said)}
        others = [word for word in _telling(question) if word in rare and word not in self._said]
        self._asked = {word: rare[word] for word in others}
        self._line = _line(words(answer))

    def quote(self, passage: Sequence[_Sentence]) -> _Quote:
        """The best sentence of a passage, with a neighbour where the answer is on both."""
        if not passage:
            return _NOTHING
        scores = [self._score(each) for each in passage]
        first = last = max(range(len(passage)), key=scores.__getitem__)
        score, share = scores[first], _share(self._said, passage[first].words)
        beside = [
            (_share(self._said, passage[first].words | passage[i].words), i)
            for i in (first - 1, first + 1)
            if 0 <= i < len(passage)
        ]
        both, neighbour = max(beside, default=(share, first))
        if both >= share + WIDER:
            first, last, share = min(first, neighbour), max(last, neighbour), both
        return _Quote(passage[first].start, passage[last].end, score, share)

    def _score(self, sentence: _Sentence) -> float:
        verbatim = bool(self._line.strip()) and self._line in sentence.line
        return (
            _share(self._said, sentence.words)
            + QUESTION * _share(self._asked, sentence.words)
            + VERBATIM * verbatim
        )


def _share(wanted: Mapping[str, float], held: Set[str]) -> float:
    """The part of the wanted words' weight that is held, 0 to 1."""
    whole = sum(wanted.values())
    return sum(weight for word, weight in wanted.items() if word in held) / whole if whole else 0.0


def _telling(text: str) -> list[str]:
    """Its different words in order, without those that say nothing."""
    return list(dict.fromkeys(_stem(word.rstrip("*")) for word in asked(text)))


def _forms(found: Sequence[str]) -> frozenset[str]:
    """The words by which a sentence is known; of scripts without spaces single characters too."""
    return frozenset(form for word in found for form in (_stem(word), *_first(word)))


def _first(word: str) -> str:
    return "" if word.isascii() else word[:1]


def _line(found: Sequence[str]) -> str:
    return f" {' '.join(found)} "


def _stem(word: str) -> str:
    """An English word without its ending; others as they are."""
    if not word.isascii() or not word.isalpha():
        return word
    for ending in _ENDINGS:
        if word.endswith(ending) and len(word) - len(ending) >= _LEAST_STEM:
            return word[: -len(ending)]
    return word
