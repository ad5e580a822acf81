"""The sentences of a text, each with its place: prose in any script, headings, lists, tables, code.

What is wrapped over several lines is one sentence; what stands on a line of its own (a heading, an
item, a table's row, a line of code) is one too. In doubt two sentences stay together: a word too
many does no harm where one too few cuts a sentence in half.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from itertools import pairwise

from gem_rag.documents.headings import Line, lines
from gem_rag.documents.kinds import ROWS, is_code, kind_of

Span = tuple[int, int]

_CLOSING = r"""["'”’»›)\]}*_`]*"""
_UNSPACED = "。！？｡"  # these end a sentence without a space after them
_DANDAS = "।॥။។"  # and these with one, or at a line's end
_END = re.compile(
    rf"[.!?…؟۔։።]+{_CLOSING}(?:\[(?:note )?\w{{1,3}}\])*(?=\s|\Z)|[{_DANDAS}](?=\s|\Z)"
    rf"|[{_UNSPACED}]+(?![{_UNSPACED}」』）])|[{_UNSPACED}]+[」』）]+(?=\s|\Z)"
)
_NEXT = re.compile(r"""\s*["'“”‘’«»‹›„(\[{¿¡*_`#]*(\S)""")  # the letter after it
_LAST_WORD = re.compile(r"[^\s(\[\"'“„«*_]*\Z")
_NAMED = """
mr mrs ms mx dr prof st mt ft gen col lt maj sgt capt cmdr adm rev hon pres gov sen rep messrs
vs cf viz al approx ca inc ltd co corp jr sr
o.ä bzw vgl str hr fr dipl ing mme mlle sig sra
"""
_NUMBERED = """
no nos fig figs eq eqs sec secs ch chap vol vols pp pg ed art ref refs para tab app ver
nr abs abb kap bd jan feb mar apr jun jul aug sep sept oct nov dec
"""
_BEFORE_NAMES = set(_NAMED.split())  # what stands before a name, or amid a sentence
_BEFORE_NUMBERS = set(_NUMBERED.split())
_LETTERS = re.compile(r"[^\W\d_](?:\.-?[^\W\d_])*")  # J, U.S, J.-P, z.B
_TIMES = ("a.m", "p.m")  # after which a sentence may end
_ORDINAL = re.compile(r"\d{1,2}")
_GERMAN_MONTH = re.compile(r"\s+(?:Jan|Feb|Mär|Apr|Mai|Jun|Jul|Aug|Sep|Okt|Nov|Dez|Jahrh|Jh)")

_MARK = r"(?:[-*+•‣·–—]|\(?(?:\d{1,3}|[^\W\d_]|[ivxIVX]{2,4})[.)])"  # of an item
# A line that is not read on from the one before it: an item, a row, a field ("Phone: 123").
_OWN_LINE = re.compile(rf"\s*(?:{_MARK}\s|[#>|]|={{3,}}|-{{3,}}|\[\d+\]|[^\W\d_][\w ]{{0,30}}:\s)")
_ITEM_MARK = re.compile(rf"\s*(?:(?:{_MARK}|#{{1,6}}|>)\s+)+")
_ROW = re.compile(r"\s*\|")
_HEADING = re.compile(r" {0,3}#{1,6}\s")
_CELLS = re.compile(r"\||\t|\s{3,}\S")
WRAPPED = 30  # characters: a paragraph of shorter lines is not wrapped prose
LONGEST_SHORT = 12  # characters of a word that is looked up
ROOM = 0.75  # a line that is shorter than so much of its paragraph's longest ended on purpose
_LAST = Line(0, "", False)  # an empty line ends a paragraph


def sentences(text: str, source: str = "") -> list[Span]:
    """Where each sentence starts and ends, without the space around it.

    Args:
        text: Any text, or a part of one.
        source: The file it is from, whose name says whether its lines are code or rows.
    """
    alone = is_code(source) or kind_of(source) in ROWS
    found: list[Span] = []
    paragraph: list[Line] = []
    for line in (*lines(text), _LAST):
        if alone or line.quoted or _ROW.match(line.text):
            found += [*_in_paragraph(text, paragraph), *_trimmed(text, line.start, line.end)]
            paragraph = []
        elif line.text.strip():
            paragraph.append(line)
        else:
            found += _in_paragraph(text, paragraph)
            paragraph = []
    return found


def is_heading(line: str) -> bool:
    """Whether a line begins with Markdown's marks of a heading."""
    return _HEADING.match(line) is not None


def _in_paragraph(text: str, paragraph: list[Line]) -> Iterator[Span]:
    """The sentences of lines without an empty one between."""
    width = max((len(line.text.rstrip()) for line in paragraph), default=0)
    starts = [line.start for line in paragraph[:1]]
    starts += [new.start for old, new in pairwise(paragraph) if _begins(old, new, width)]
    ends = [*starts[1:], *(line.end for line in paragraph[-1:])]
    for start, end in zip(starts, ends, strict=True):
        yield from _in_block(text, start, end)


def _begins(last: Line, line: Line, width: int) -> bool:
    """Whether a line begins anew, rather than going on with the one before it."""
    if _OWN_LINE.match(line.text) or is_heading(last.text):
        return True
    if _CELLS.search(last.text.strip()) or _CELLS.search(line.text.strip()):
        return True
    follows = line.text.split(maxsplit=1)[0]
    if follows[0].islower():
        return False
    return width < WRAPPED or len(last.text.rstrip()) + 1 + len(follows) < ROOM * width


def _in_block(text: str, start: int, end: int) -> Iterator[Span]:
    """The sentences of what is read on from line to line."""
    mark = _ITEM_MARK.match(text, start, end)
    first, at = start, start if mark is None else mark.end()
    for match in _END.finditer(text, at, end):
        if _is_end(text, at, match, end):
            yield from _trimmed(text, first, match.end())
            first = at = match.end()
    yield from _trimmed(text, first, end)


def _is_end(text: str, start: int, match: re.Match[str], end: int) -> bool:
    """Whether a sentence ends with this mark."""
    following = _NEXT.match(text, match.end(), end)
    if following is None or match[0][0] in _UNSPACED + _DANDAS:
        return True
    if following[1].islower() or following[1] in ",;:":
        return False
    if match[0].count(".") != 1 or not match[0].startswith("."):
        return True
    before = text[max(start, match.start() - LONGEST_SHORT) : match.start()]
    word = _LAST_WORD.findall(before)[0]
    if word.casefold() in _BEFORE_NAMES or _is_initial(word):
        return False
    if word.casefold() in _BEFORE_NUMBERS:
        return not following[1].isdigit()
    return not (_ORDINAL.fullmatch(word) and _GERMAN_MONTH.match(text, match.end(), end))


def _is_initial(word: str) -> bool:
    """Whether a word is one letter, or several with full stops between."""
    return word not in ("I", *_TIMES) and _LETTERS.fullmatch(word) is not None


def _trimmed(text: str, start: int, end: int) -> Iterator[Span]:
    inner = text[start:end]
    if words := inner.strip():
        first = start + inner.index(words)
        yield first, first + len(words)
