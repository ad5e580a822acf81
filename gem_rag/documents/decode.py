"""Bytes to text, in whatever encoding they are; what had to be guessed or left out is said."""

from __future__ import annotations

import codecs
import re
from typing import NamedTuple

from gem_rag.documents.guess import guess

MARKS = (  # the longer ones first: UTF-32's begins with UTF-16's
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF32_LE, "utf-32-le"),
    (codecs.BOM_UTF32_BE, "utf-32-be"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
)
CONTROLS = bytes({*range(1, 9), *range(14, 27), *range(28, 32), 127})
MOST_CONTROLS = 0.01  # share of control characters that text may have
MOST_STRAY = 0.01  # share of bytes of no known encoding that text may have
LOST = "\ufffd"
_DECLARED = re.compile(rb"""(?:charset|coding)\s*[=:]\s*["']?([\w.:-]+)""", re.IGNORECASE)


class NoTextError(ValueError):
    """Bytes are no text, or in an encoding that cannot be told."""


class Decoded(NamedTuple):
    """A text, and what a user should know about how it became one."""

    text: str
    notes: tuple[str, ...] = ()


def decode(data: bytes) -> Decoded:
    """Text of a file.

    A byte order mark decides, then whether it is UTF-8, UTF-16 or UTF-32; of other encodings the
    one that the text names (HTML, XML, Python) or else the likeliest. Bytes that are no text are
    left out or shown as U+FFFD where they are few.

    Raises:
        NoTextError: It is no text, or in an encoding that cannot be told.
    """
    for mark, encoding in MARKS:
        if data.startswith(mark):
            return _as(data[len(mark) :], encoding)
    if wide := _wide(data):
        return Decoded(data.decode(wide))
    nuls = data.count(0)
    data = data.replace(b"\0", b"")
    controls = len(data) - len(data.translate(None, CONTROLS))
    if controls > MOST_CONTROLS * len(data):
        raise NoTextError("it holds binary data")
    text, notes = _narrow(data)
    left_out = (f"left out {_counted(nuls, 'NUL byte')}",) if nuls else ()
    return Decoded(text, left_out + notes)


def _wide(data: bytes) -> str | None:
    """UTF-16 or UTF-32 without a mark, which show by their NULs."""
    nuls = data.count(0)
    if not nuls or len(data) % 2 or (nuls < len(data) / 8 and _is_utf8(data)):
        return None
    found = [e for e in ("utf-32-le", "utf-32-be", "utf-16-le", "utf-16-be") if _is_wide(data, e)]
    # With its bytes swapped a text's characters would be of all scripts.
    return min(found, key=lambda e: len({ord(c) >> 8 for c in data.decode(e)}), default=None)


def _is_wide(data: bytes, encoding: str) -> bool:
    try:
        text = data.decode(encoding)
    except UnicodeDecodeError:
        return False
    return all(c.isprintable() or c.isspace() for c in text)


def _is_utf8(data: bytes) -> bool:
    try:
        data.decode()
    except UnicodeDecodeError:
        return False
    return True


def _narrow(data: bytes) -> Decoded:
    """Text whose ASCII is a byte each."""
    if re.search(rb"\x1b\$[@B(]", data) and data.isascii():
        return _guessed(data, "iso2022_jp")
    text = data.decode("utf-8", "replace")
    stray = text.count(LOST) - data.count(LOST.encode())
    if not stray:
        return Decoded(text)
    if 2 * stray <= sum(c > "\x7f" for c in text):  # more of it is right than not
        return Decoded(text, (_lost(stray, "UTF-8"),))
    for encoding in (_declared(data), guess(data)):
        if encoding is not None:
            return _guessed(data, encoding)
    if stray <= MOST_STRAY * len(data):
        return Decoded(text, (_lost(stray, "UTF-8"),))
    raise NoTextError("its encoding cannot be told; save it as UTF-8")


def _declared(data: bytes) -> str | None:
    """The encoding that the text itself names near its beginning, if it is in that."""
    found = _DECLARED.search(data[:2048])
    name = found[1].decode("ascii", "replace") if found else "utf-8"
    try:
        # What calls itself Latin-1 is Windows' superset of it everywhere.
        name = {"iso8859-1": "cp1252", "gb2312": "gb18030"}.get(codecs.lookup(name).name, name)
        data.decode(name)
    except (LookupError, UnicodeError):
        return None
    return name


def _guessed(data: bytes, encoding: str) -> Decoded:
    text, notes = _as(data, encoding)
    return Decoded(text, (f"read as {encoding}; it is no UTF-8", *notes))


def _as(data: bytes, encoding: str) -> Decoded:
    text = data.decode(encoding, "replace")
    stray = text.count(LOST) - data.count(LOST.encode(encoding, "ignore") or b"\xff\xfe\xff\xfe")
    return Decoded(text, (_lost(stray, encoding),) if stray > 0 else ())


def _lost(count: int, encoding: str) -> str:
    return f"{_counted(count, 'byte')} that {'is' if count == 1 else 'are'} no {encoding} lost"


def _counted(count: int, what: str) -> str:
    return f"{count} {what}{'' if count == 1 else 's'}"
