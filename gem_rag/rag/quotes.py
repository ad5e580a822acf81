"""Which sentence of a passage carries an answer: the one that holds its words.

An answer takes its words from the passage, so no model is asked: words that are rare in the
passages say most, and the first of an answer more than the last, where a small model wanders off.
Where several sentences hold them, the words of the question decide. What counts for how much was
chosen on questions that are not used to report: see docs/benchmarks.md.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass, replace

from gem_rag.documents.sentences import is_heading, sentences
from gem_rag.index.words import asked, words
from gem_rag.rag.citation import Citation

_ENDINGS = ("ings", "ing", "edly", "ed", "es", "s", "ly", "e")  # of English words
_LEAST_STEM = 3  # letters


@dataclass(frozen=True)
class Counts:
    """What counts for how much in the choice of a sentence; all of the answer's words count 1.

    Attributes:
        later: Each word of an answer, of the one before it.
        question: All of the question's words.
        verbatim: That the answer stands there word for word.
        heading: A heading, of what it would as a sentence: it names what is said below it.
        wider: A neighbour in the same paragraph that holds so much more of the answer is quoted
            too.
        carries: A passage carries an answer if it holds so much of what the best one holds.
    """

    later: float = 0.9
    question: float = 0.3
    verbatim: float = 0.5
    heading: float = 0.8
    wider: float = 0.2
    carries: float = 0.5


COUNTS = Counts()


def quoted(
    citations: Sequence[Citation], question: str, answer: str, counts: Counts = COUNTS
) -> list[Citation]:
    """Citations with the place of the sentence that carries the answer.

    Where an answer stands on two neighbours, the quote is both. Of several passages those that hold
    little of what the answer says get none, and so do all where none holds a word of it or of the
    question.

    Args:
        citations: The passages that the answer was given from.
        question: What was asked.
        answer: The whole answer; where it is blank, nothing is quoted.
        counts: How the sentence is chosen.
    """
    if not answer.strip():
        return list(citations)
    passages = [_sentences(citation) for citation in citations]
    wanted = _Wanted(question, answer, [each for passage in passages for each in passage], counts)
    quotes = [wanted.quote(passage) for passage in passages]
    best = max(quotes, key=lambda quote: (quote.share, quote.score), default=_NOTHING)
    return [
        _with(citation, quote) if _carries(quote, best, counts) else citation
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


def _carries(quote: _Quote, best: _Quote, counts: Counts) -> bool:
    """Whether a passage's quote is shown, beside the best of them all."""
    if best.share == 0.0:  # an answer in words of its own: the question's decide, for one passage
        return quote is best and quote.score > 0.0
    return quote.share >= counts.carries * best.share


def _with(citation: Citation, quote: _Quote) -> Citation:
    at = citation.start
    return replace(citation, quote_start=at + quote.start, quote_end=at + quote.end)


@dataclass(frozen=True)
class _Sentence:
    """A sentence of a passage.

    Attributes:
        start: Its first character in the passage.
        end: One past its last.
        paragraph: Which paragraph it is in; a heading is one.
        is_heading: Whether it is one.
        words: Its different words.
        line: All of them in order.
    """

    start: int
    end: int
    paragraph: int
    is_heading: bool
    words: frozenset[str]
    line: str


def _sentences(citation: Citation) -> list[_Sentence]:
    found: list[_Sentence] = []
    paragraph, before, after_heading = 0, 0, False
    for start, end in sentences(citation.text, citation.source):
        text, heading = citation.text[start:end], is_heading(citation.text[start:end])
        if after_heading or heading or citation.text.count("\n", before, start) > 1:
            paragraph += 1
        said = words(text)
        found.append(_Sentence(start, end, paragraph, heading, _forms(said), _line(said)))
        before, after_heading = end, heading
    return found


class _Wanted:
    """What a sentence is to hold.

    Args:
        question: What was asked.
        answer: What was answered.
        among: All sentences, which say how rare a word is.
        counts: What counts for how much.
    """

    def __init__(
        self, question: str, answer: str, among: Sequence[_Sentence], counts: Counts
    ) -> None:
        self._counts = counts
        stands = Counter(word for each in among for word in each.words)
        rare = {word: math.log((len(among) + 1) / (n + 0.5)) for word, n in stands.items()}
        said = [word for word in _telling(answer) if word in rare]
        self._said = {word: rare[word] * counts.later**place for place, word in enumerate(said)}
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
            if 0 <= i < len(passage) and passage[i].paragraph == passage[first].paragraph
        ]
        both, neighbour = max(beside, default=(share, first))
        if both >= share + self._counts.wider:
            first, last, share = min(first, neighbour), max(last, neighbour), both
        return _Quote(passage[first].start, passage[last].end, score, share)

    def _score(self, sentence: _Sentence) -> float:
        share = _share(self._said, sentence.words)
        if self._line.strip() and self._line in sentence.line:
            share += self._counts.verbatim
        if sentence.is_heading:
            return self._counts.heading * share
        return share + self._counts.question * _share(self._asked, sentence.words)


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
