"""Tool calls in an answer: read, left out of its text, given out while they are written."""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

from gem_rag.text.tools import CALL_START

_NAME = re.compile(r'\s*\{\s*"name":\s*("(?:[^"\\]|\\.)*")')
_HEAD = re.compile(_NAME.pattern + r',\s*"arguments":\s*(?=\{)')
_BROKEN = "the call is no JSON, or was cut off before its end"


@dataclass(frozen=True)
class ToolCall:
    """A call a model made."""

    name: str
    arguments: dict[str, Any]


@dataclass(frozen=True)
class BrokenCall:
    """A call that came to nothing.

    Attributes:
        name: Of the tool; empty where it was cut off before that.
        arguments: What was written of them.
        error: What is wrong with it.
    """

    name: str
    arguments: str
    error: str = _BROKEN


class Said(NamedTuple):
    """An answer taken apart: its words before the first call, and the calls, broken ones too."""

    text: str
    found: tuple[ToolCall | BrokenCall, ...] = ()

    @property
    def calls(self) -> tuple[ToolCall, ...]:
        """Those that can be made."""
        return tuple(call for call in self.found if isinstance(call, ToolCall))

    @property
    def broken(self) -> tuple[BrokenCall, ...]:
        """Those that came to nothing."""
        return tuple(call for call in self.found if isinstance(call, BrokenCall))


@dataclass(frozen=True)
class CallPiece:
    """What was added to a call.

    Attributes:
        index: Which call of the answer it is.
        name: Of the tool, in the call's first piece; empty in others.
        arguments: The next piece of their JSON.
        is_broken: Nothing follows, and the call came to nothing.
    """

    index: int
    name: str = ""
    arguments: str = ""
    is_broken: bool = False


def taken_apart(
    text: str, names: Collection[str] | None = None, *, must_call: bool = False
) -> Said:
    """An answer's words and calls.

    A whole call needs no end tag. A call of a tool that was not offered is words.

    Args:
        text: The answer.
        names: Tools that can be called; None is any.
        must_call: Whether the answer was held to a call, so that it is no words.
    """
    if names is not None and not names:
        return Said(text)
    if len(text) > 1 and CALL_START.startswith(text):
        return Said("", (BrokenCall("", ""),))
    read = [(at, _read(part, names)) for at, part in _parts(text)]
    found = [(at, call) for at, call in read if call is not None]
    if must_call and text and not found:
        return Said("", (BrokenCall("", ""),))
    words = text[: found[0][0]] if found else text
    return Said(words, tuple(call for _, call in found))


def parse_calls(text: str, names: Collection[str] | None = None) -> tuple[ToolCall, ...]:
    """The whole calls in an answer: see `taken_apart`."""
    return taken_apart(text, names).calls


def _parts(text: str) -> Iterator[tuple[int, str]]:
    """Places of start tags, and what follows each; a tag inside a call's strings is none."""
    at = text.find(CALL_START)
    while at >= 0:
        begin = at + len(CALL_START)
        following = text.find(CALL_START, begin + _object_end(text[begin:]))
        yield at, text[begin:] if following < 0 else text[begin:following]
        at = following


def _read(part: str, names: Collection[str] | None) -> ToolCall | BrokenCall | None:
    """What follows a start tag: a call, whole or broken; None where it is words."""
    name = _name(_NAME.match(part))
    if name and names is not None and name not in names:
        return None
    try:
        call, _ = json.JSONDecoder().raw_decode(part.lstrip())
    except ValueError:
        return _cut(part, name)
    if not isinstance(call, dict) or not isinstance(call.get("arguments"), dict):
        return None
    name = str(call.get("name") or "")
    known = name in names if names is not None else name
    return ToolCall(name, call["arguments"]) if known else None


def _cut(part: str, name: str) -> ToolCall | BrokenCall | None:
    """A call that is no JSON as a whole; it can be made where only its last brace is missing."""
    if part.strip() and not part.lstrip().startswith("{"):
        return None
    head = _HEAD.match(part)
    arguments = part[head.end() :] if head else ""
    try:
        return ToolCall(name, json.loads(arguments))
    except ValueError:
        return BrokenCall(name, arguments)


def _name(found: re.Match[str] | None) -> str:
    try:
        return str(json.loads(found[1])) if found else ""
    except ValueError:
        return ""


def with_calls(
    pieces: Iterator[str], names: Collection[str], *, must_call: bool = False
) -> Iterator[str | CallPiece]:
    """An answer piece by piece: its text up to the first call, and its calls as they are written.

    What may be a call is held back until it is one, or is none.
    """
    held, spoken, calls = "", False, _Calls(names)
    for piece in pieces:
        held += piece
        at = 0 if held.startswith(CALL_START) else _call_place(held)
        if at:
            spoken = True
            yield held[:at]
            held = held[at:]
        if held.startswith(CALL_START):
            yield from calls.pieces(held)
    is_begun = held.startswith(CALL_START)  # "<to" at the end of other words is a word
    is_apart = is_begun or not spoken
    said = taken_apart(held, names, must_call=must_call) if is_apart else Said(held)
    if said.text:
        yield said.text
    yield from calls.rest(said)


def without_calls(pieces: Iterator[str], names: Collection[str]) -> Iterator[str]:
    """An answer's text piece by piece; what may be a call is held back, and a call left out."""
    return (piece for piece in with_calls(pieces, names) if isinstance(piece, str))


class _Calls:
    """Calls as they are written, from their whole text so far."""

    def __init__(self, names: Collection[str]) -> None:
        self._names = names
        self._given: list[int] = []  # of each call: characters of its arguments

    def pieces(self, text: str) -> Iterator[CallPiece]:
        """What is new in calls whose form is clear."""
        for index, (_, part) in enumerate(_parts(text)):
            head = _HEAD.match(part)
            if head is None or _name(head) not in self._names or index > len(self._given):
                return
            if index == len(self._given):
                self._given.append(0)
                yield CallPiece(index, _name(head))
            arguments = part[head.end() :]
            upto = _object_end(arguments)
            if upto > self._given[index]:
                yield CallPiece(index, arguments=arguments[self._given[index] : upto])
                self._given[index] = upto

    def rest(self, said: Said) -> Iterator[CallPiece]:
        """What was not given out of an answer's calls at its end."""
        for index, call in enumerate(said.found):
            given = self._given[index] if index < len(self._given) else None
            if isinstance(call, BrokenCall):
                name = call.name if given is None else ""
                yield CallPiece(index, name, call.arguments[given or 0 :], is_broken=True)
            elif given is None:
                yield CallPiece(index, call.name, json.dumps(call.arguments))


def _object_end(text: str) -> int:
    """How much of a text belongs to the JSON object it begins with, if it does."""
    depth, in_string, escaped = 0, False, False
    for i, character in enumerate(text):
        if in_string:
            escaped, in_string = character == "\\" and not escaped, character != '"' or escaped
        elif character == '"' and depth:
            in_string = True
        else:
            depth += (character in "{[") - (character in "}]")
            if depth <= 0 and not character.isspace():
                return i + 1 if character == "}" else 0
    return len(text) if depth else 0


def _call_place(text: str) -> int:
    """Where a call begins, or may begin at the end of what is there."""
    at = text.find(CALL_START)
    if at >= 0:
        return at
    ends = (i for i in range(1, len(CALL_START)) if text.endswith(CALL_START[:i]))
    return len(text) - max(ends, default=0)
