"""Tokens to text that is safe to show: whole characters, and no part of a stop string."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol


class Decodes(Protocol):
    """What turns ids into text."""

    def decode(self, ids: Sequence[int]) -> str:
        """Ids to text without control tokens."""


class TextAssembler:
    """Token ids to text pieces that are safe to show: whole characters, and no stop string."""

    def __init__(self, codec: Decodes, stop: Sequence[str]) -> None:
        self._codec = codec
        self._stop = [s for s in stop if s]
        self._ids: list[int] = []
        self._start = self._read = 0  # a short window is decoded, not everything each time
        self._held = ""
        self.text = ""
        self.stopped = False

    def push(self, token: int) -> str:
        """Add a token; what can be shown now (maybe nothing)."""
        self._ids.append(token)
        before = self._codec.decode(self._ids[self._start : self._read])
        now = self._codec.decode(self._ids[self._start :])
        if now.endswith("\ufffd"):  # the middle of a character
            return ""
        self._start, self._read = self._read, len(self._ids)
        return self._release(now[len(before) :])

    def flush(self) -> str:
        """The end: everything held back that is no stop string."""
        before = self._codec.decode(self._ids[self._start : self._read])
        rest = self._codec.decode(self._ids[self._start :])[len(before) :]
        self._start = self._read = len(self._ids)
        piece = self._release(rest)
        if not self.stopped:
            piece += self._held
            self.text += self._held
            self._held = ""
        return piece

    def _release(self, new: str) -> str:
        if self.stopped:
            return ""
        self._held += new
        found = [at for s in self._stop if (at := self._held.find(s)) >= 0]
        if found:
            self.stopped = True
            piece, self._held = self._held[: min(found)], ""
        else:
            keep = max((_overlap(self._held, s) for s in self._stop), default=0)
            cut = len(self._held) - keep
            piece, self._held = self._held[:cut], self._held[cut:]
        self.text += piece
        return piece


def _overlap(text: str, stop: str) -> int:
    """Length of the longest end of `text` that begins `stop`."""
    longest = min(len(text), len(stop) - 1)
    return next((n for n in range(longest, 0, -1) if text.endswith(stop[:n])), 0)
