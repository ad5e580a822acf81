"""Sentences that a text's paragraphs begin with: what it says of itself, word for word."""

from __future__ import annotations

import re
from collections.abc import Iterator

from gem_rag.index.words import words

LEAST_WORDS = 3  # of a sentence; what is shorter is a label

# A fenced program; a heading; else lines up to an empty one, a list mark, a heading or a table.
_BLOCK = re.compile(
    r"^[ \t]*```.*?(?:^[ \t]*```[^\n]*$|\Z)|^[ \t]*#{1,6}[ \t][^\n]*$"
    r"|[^\n]+(?:\n(?!\s*\n|```|\s*(?:[-*+|#>]|\d+[.)])\s)[^\n]+)*",
    re.DOTALL | re.MULTILINE,
)
_NO_PROSE = re.compile(r"\s*(?:```|#|\||<|!\[|\[\^|[-=*_]{3,}\s*$)")
_MARK = re.compile(r"\s*(?:(?:[-*+>]|\d+[.)])\s+)*(?:\[[ xX]\]\s+)?")
_CLOSE = "[\"'\u201d\u2019)\\]*_`]*"
_ABBREVIATED = "".join(
    rf"(?<!\b{short})"
    for short in ("[A-Z]", "al", "Mr", "Ms", "Mrs", "Dr", "St", "No", "vs", "Fig")
)
_SENTENCE = re.compile(
    rf"\S.*?(?:(?:{_ABBREVIATED}\.|[!?]){_CLOSE}(?=\s+[^\sa-z]|\s*\Z)|[。！？]{_CLOSE}|\Z)",
    re.DOTALL,
)
_ENDS = re.compile(rf"[.!?。！？]{_CLOSE}$")
_BEGINS = re.compile(r"[`*_\"'\u201c(\[]*(?!_)\w")


def sentences(text: str) -> Iterator[str]:
    """The whole sentences of a text's prose, in order; none of its headings, tables and programs.

    A text that begins within a sentence gives the next one first. White space is single spaces.
    """
    for block in _BLOCK.finditer(text):
        if _NO_PROSE.match(block.group()):
            continue
        opens = bool(text[: block.start()].strip())  # a paragraph, not the rest of one
        for match in _SENTENCE.finditer(_MARK.sub("", block.group(), count=1)):
            sentence = " ".join(match.group().split())
            if (opens or not sentence[0].islower()) and _is_whole(sentence):
                yield sentence
            opens = False


def _is_whole(sentence: str) -> bool:
    whole = _BEGINS.match(sentence) and _ENDS.search(sentence)
    return bool(whole) and len(words(sentence)) >= LEAST_WORDS
