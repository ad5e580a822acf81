"""Which encoding bytes are in that are no Unicode: the one in which they read as words.

A text of a few words is enough for the common ones: its characters must be frequent ones of a
script, or the letters of one language. What is none of these is left to charset-normalizer.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable

SAMPLE = 20_000  # bytes that are looked at
FEWEST_COMMON = 0.8  # share of a text's East Asian characters that are frequent ones
FEWEST_LETTERS = 0.5  # share of a text's letters that are its script's frequent ones
FEWEST_OWN = 0.3  # share of a text's letters beyond ASCII that are one language's
SIGNS = "°£€¥§©®™«»„“”‚‘’–—…·•¿¡\xa0¹²³±×"  # those that stand beside words
NO_LETTERS = 0.8  # what stands for that share where there are signs alone

# The dozen letters that are most frequent in running text.
_CYRILLIC, _GREEK = "оеаинтсрвлкмі", "αοιετνσηρπκλςάίό"
_HEBREW, _ARABIC = "יוהלאמרתבשנם", "اليمنتروبةعد"
LETTERS = {
    "cp1251": _CYRILLIC,
    "koi8_r": _CYRILLIC,
    "koi8_u": _CYRILLIC,
    "cp866": _CYRILLIC,
    "iso8859_5": _CYRILLIC,
    "cp1253": _GREEK,
    "cp1255": _HEBREW,
    "cp1256": _ARABIC,
}
# The letters beyond ASCII of a language, the frequent ones first.
_WESTERN = (
    "üäöß",
    "éèàêçùâîôûëïœæÿ",
    "óíáéñúü",
    "ãçáéíóêõâàúôü",
    "àèùòéìíóúî",
    "äåöé",
    "øåæé",
    "ðáíöéþúóæý",
    "ëéïöüáóè",
)
_CENTRAL = (
    "íáéěřýžčšůúťďňó",
    "łęóążśćńź",
    "áéöőíóüúű",
    "ăîâşţ",
    "čšžćđ",
    "áíéčžýšúľťňôďäóĺŕ",
)
LATIN = {  # the likelier first
    "cp1252": _WESTERN,
    "cp1250": _CENTRAL,
    "cp1254": ("ıüşöçğâîû",),
    "cp1257": ("ėąšįųžūčę", "āīēšūņļčķžģ", "äõüöšž"),
    "iso8859_15": _WESTERN,
    "iso8859_2": _CENTRAL,
    "cp850": _WESTERN,
    "mac_roman": _WESTERN,
}


def guess(data: bytes) -> str | None:
    """Python's name of the likeliest encoding, or None where bytes read as words in none."""
    sample = b"\n".join(line for line in data.splitlines() if not line.isascii())
    if len(sample) > SAMPLE:
        sample = sample[:SAMPLE].rpartition(b"\n")[0] or data
    by_script = _other_script(sample) if _has_whole_words(sample) else _latin(sample)
    return _east_asian(sample) or by_script or _other(sample)


def _other(data: bytes) -> str | None:
    from charset_normalizer import from_bytes

    match = from_bytes(data).best()
    return match.encoding if match and match.coherence else None


def _decoded(data: bytes, encoding: str) -> str | None:
    try:
        return data.decode(encoding)
    except UnicodeDecodeError:
        return None


def _likeliest(scores: dict[str, float], least: float) -> str | None:
    best = max(scores, key=lambda encoding: scores[encoding], default=None)
    return best if best is not None and scores[best] > least else None


# East Asian: two bytes a character


def _in_rows(encoding: str, first: int, last: int) -> Callable[[str], bool]:
    """Whether a character's first byte is in a range: their tables begin with frequent ones."""

    def is_in(character: str) -> bool:
        code = character.encode(encoding, "ignore")
        return len(code) == 2 and first <= code[0] <= last

    return is_in


_IS_KANJI = _in_rows("euc_jp", 0xB0, 0xCF)
FREQUENT: dict[str, Callable[[str], bool]] = {
    "euc_jp": lambda c: "\u3040" <= c <= "\u30ff" or _IS_KANJI(c),
    "cp932": lambda c: "\u3040" <= c <= "\u30ff" or _IS_KANJI(c),
    "cp949": _in_rows("euc_kr", 0xB0, 0xC8),
    "gb18030": _in_rows("gb2312", 0xB0, 0xD7),
    "big5": _in_rows("big5", 0xA4, 0xC6),
}


def _east_asian(data: bytes) -> str | None:
    scores = {}
    for encoding, is_frequent in FREQUENT.items():
        runs = re.findall(r"[^\x00-\x7f]{2,}", _decoded(data, encoding) or "")
        letters = [c for run in runs for c in run if c.isalpha()]
        kana = any("\u3040" <= c <= "\u309f" for c in letters)
        if letters and (kana or encoding not in ("euc_jp", "cp932")):  # Japanese has hiragana
            scores[encoding] = sum(map(is_frequent, letters)) / len(letters)
    return _likeliest(scores, FEWEST_COMMON)


# Other scripts: a byte a letter, and whole words of such letters


def _has_whole_words(data: bytes) -> bool:
    """Whether bytes beyond ASCII stand beside each other rather than beside Latin letters."""
    together = re.findall(rb"[\x80-\xff](?=[\x80-\xff])", data)
    beside_latin = re.findall(rb"[\x80-\xff](?=[A-Za-z])|[A-Za-z](?=[\x80-\xff])", data)
    return len(together) > len(beside_latin)


def _other_script(data: bytes) -> str | None:
    scores = {}
    for encoding, frequent in LETTERS.items():
        letters = [c for c in _decoded(data, encoding) or "" if c > "\x7f"]
        scores[encoding] = sum(c in frequent for c in letters) / max(1, len(letters))
    return _likeliest(scores, FEWEST_LETTERS)


# Latin: now and then a letter with an accent


def _latin(data: bytes) -> str | None:
    scores = {}
    for rank, (encoding, alphabets) in enumerate(LATIN.items()):
        text = _decoded(data, encoding)
        if text is not None:
            letters = [c for c in text.lower() if c > "\x7f" and c.isalpha() and c not in "µªº"]
            fit = max(_fit(letters, own) for own in alphabets) if letters else NO_LETTERS
            scores[encoding] = fit - 2 * _misplaced(text) - 0.001 * rank
    return _likeliest(scores, FEWEST_OWN)


def _fit(letters: list[str], alphabet: str) -> float:
    """The share of letters that are a language's; its rare ones count a little less."""
    return sum(1 - 0.02 * alphabet.index(c) for c in letters if c in alphabet) / len(letters)


def _misplaced(text: str) -> float:
    """Share of characters beyond ASCII that stand where words have none."""
    places = [i for i, c in enumerate(text) if c > "\x7f"]
    return sum(_is_misplaced(text, i) for i in places) / max(1, len(places))


def _is_misplaced(text: str, i: int) -> bool:
    before, after = text[max(0, i - 1) : i], text[i + 1 : i + 2]
    kind = unicodedata.category(text[i])
    if kind in ("Cc", "Cn", "Co") or text[i] == "¤":
        return True
    if kind[0] == "L" and text[i] not in "µªº":
        alone = not before.isalpha() and not after.isalpha()
        return (kind == "Lu" and before.islower()) or (
            alone and (before.isdigit() or after.isdigit())
        )
    if text[i] in SIGNS:
        return before.isalpha() and after.isalpha() and text[i] != "’"
    return before.isalpha() or after.isalpha()
