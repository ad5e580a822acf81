"""Text to the words it is searched by, the same for passages and queries.

SQLite's own tokenisers lose what people look for: they cut identifiers and versions apart, and know
no words where a script puts no spaces. So texts are split here, and the full-text index is given
words with spaces between them; English stemming is left to it.
"""

import re
import unicodedata
from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache

RULES = 1  # raised when the same text gives other words, so that they are indexed anew
# What a word may hold beside letters and digits.
JOINTS = "._-/:@&+#"
LONGEST = 80  # characters of a word: what is longer is no word that anyone types
MOST_ASKED = 96  # different words of a query: more are a text, and its first words say enough

# Scripts without spaces between words (Thai to Khmer, Japanese, Chinese), and Hangul, whose words
# have particles attached: pairs of neighbouring characters stand for words.
_UNSPACED = (
    "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3005-\u3007\u3040-\u30ff\u31f0-\u31ff\u3400-\u4dbf"
    "\u4e00-\u9fff\uac00-\ud7af\uf900-\ufaff\U00020000-\U0003ffff"
)
_UNSPACED_RUN = re.compile(f"[{_UNSPACED}]+")
# Vowel signs of the scripts of India are no letters to `re`; the full stops among them are none.
_SIGNS = "\u0900-\u0963\u0966-\u096f\u0971-\u0df3"
_LETTERS = rf"(?:[^\W_{_UNSPACED}]++|[{_SIGNS}]++)++"
_JOINT = r"(?:_+|::?|[.\-/@&'\u2019])"
_TOKEN = re.compile(rf"[{_UNSPACED}]+|{_LETTERS}(?:{_JOINT}{_LETTERS})*(?:\+\+|#(?!\w))?")
_PARTS = re.compile(rf"{_JOINT}|\+\+|#")
# getUserName, HTTPServer, mp3
_HUMPS = re.compile(
    r"(?<=[a-zß-öø-ÿ])(?=[A-ZÀ-ÖØ-Þ])|(?<=[A-Z])(?=[A-Z][a-z])"
    r"|(?<=\d)(?=[^\W\d_])|(?<=[^\W\d_])(?=\d)"
)
_THOUSANDS = re.compile(r"(?<=\d),(?=\d{3}(?!\d))")
_CONTRACTION = re.compile(
    r"(?:(?<=can)['\u2019]t|(?<!ca)n['\u2019]t|['\u2019](?:s|re|ve|ll|d|m))$", re.IGNORECASE
)
_VERSION_WORD = re.compile(r"v(\d+(?:\.\d+)+)")
_ACCENTS = dict.fromkeys([*range(0x300, 0x370), *range(0x653, 0x656)])  # and Arabic hamza, madda
# Vowel points of Hebrew and Arabic, and the line that stretches Arabic words: mostly not written.
_POINTS = re.compile("[\u0591-\u05bd\u05bf\u05c1-\u05c7\u0610-\u061a\u0640\u064b-\u0652\u0670]")

# Of questions; articles, pronouns, auxiliaries; prepositions, conjunctions and small adverbs.
_FUNCTION_WORDS = frozenset(
    re.findall(
        r"\w+",
        """
        what which who whom whose when where why how many much
        a an the this that these those there it its i me my mine we us our you your he him his she
        her they them their is are was were be been being am do does did done doing has have had
        having can could will would shall should may might must
        of in on at by for from to into with without about as and or but not no if than then so such
        some any all also just only very too please tell give
        """,
    )
)


def words(text: str) -> list[str]:
    """The words of a text, in order; identifiers whole and in parts, so some stand twice.

    Letters are folded (case, accents, full width); numbers lose their thousands' commas.
    """
    return list(_words(text, _pairs))


def _words(text: str, pairs: Callable[[str], Sequence[str]]) -> Iterator[str]:
    if not text.isascii():
        text = _POINTS.sub("", unicodedata.normalize("NFKC", text))
    for match in _TOKEN.finditer(_THOUSANDS.sub("", text)):
        token = match.group()
        yield from pairs(_fold(token)) if is_unspaced(token) else _forms(token)


def asked(query: str) -> list[str]:
    """The different words of a query, without those that every question has.

    Where nothing else is left, those stay. A character that ends in ``*`` stands for all pairs that
    begin with it.
    """
    found = list(dict.fromkeys(_words(query, _asked_pairs)))
    telling = [word for word in found if word not in _FUNCTION_WORDS]
    return (telling or found)[:MOST_ASKED]


def is_unspaced(token: str) -> bool:
    """Whether a word is of a script that puts no spaces between words."""
    return not token.isascii() and _UNSPACED_RUN.match(token) is not None


@lru_cache(maxsize=1 << 16)  # few different words make up most of any text
def _forms(token: str) -> tuple[str, ...]:
    """What a token is found by."""
    token = _CONTRACTION.sub("", token)
    folded = _fold(token)
    parts = [part for part in _PARTS.split(token) if part]
    small = [_fold(piece) for part in parts for piece in _HUMPS.split(part)]
    whole = re.sub("['\u2019]", "", folded)
    forms = [whole, *(_fold(part) for part in parts), *small]
    if version := _VERSION_WORD.fullmatch(whole):
        forms.append(version[1])
    if "-" in whole:
        forms.append(whole.replace("-", ""))  # e-mail, email
    return tuple(dict.fromkeys(form for form in forms if form and len(form) <= LONGEST))


def _pairs(run: str) -> list[str]:
    """Neighbouring characters, and the last one alone: with a search by prefix each is found."""
    return [run[i : i + 2] for i in range(len(run))]


def _asked_pairs(run: str) -> list[str]:
    return _pairs(run)[:-1] if len(run) > 1 else [f"{run}*"]


def _fold(word: str) -> str:
    """Without case and accents."""
    if word.isascii():
        return word.lower()
    plain = unicodedata.normalize("NFKD", word.casefold()).translate(_ACCENTS)
    return unicodedata.normalize("NFC", plain)
