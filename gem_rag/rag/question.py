"""A question in the light of the conversation, and what of it asks."""

from __future__ import annotations

import re
from collections.abc import Sequence

from gem_rag.index.words import asked
from gem_rag.text.template import Message, as_text

# A question of a sentence that says more: from its last question word, or auxiliary that opens a
# clause, to its end.
_ASKS = re.compile(
    r"\b(?:who|whom|whose|what|which|when|where|why|how)\b"
    r"|(?<=[,;:.!?\n] )(?:is|are|was|were|do|does|did|can|could|will|would|has|have|should|may)\b",
    re.IGNORECASE,
)
_SENTENCE = re.compile(r"[^.!?\n]*[^.!?\n\s][^.!?\n]*[.!?]*")
_LEAST_DROPPED = 3  # words: fewer around a question do not hide it
_LEAST_KEPT = 2  # words that tell what is asked


def in_context(question: str, history: Sequence[Message]) -> str:
    """A follow-up in the light of the conversation: the user's last question stands before it."""
    said = [as_text(m.get("content")) for m in history if m.get("role") == "user"]
    before = [words for words in said if words]
    return f"{before[-1]} {question}" if before else question


def readable(question: str) -> str:
    """A question as valid Unicode: halves of characters, as cut tool calls have them, are joined
    where they meet and replaced where they stand alone."""
    return question.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def core(question: str) -> str | None:
    """What of a wordy question asks ("Good morning, I was wondering, when is the shop open?").

    Returns:
        Its last clause that asks; None where nothing else stands around it, or too little in it.
    """
    sentences = [match.group().strip() for match in _SENTENCE.finditer(question)]
    asking = [s for s in sentences if s.endswith("?")] or sentences
    if not asking:
        return None
    starts = [match.start() for match in _ASKS.finditer(asking[-1])]
    rest = asking[-1][starts[-1] :] if starts else asking[-1]
    dropped = len(question.split()) - len(rest.split())
    if dropped < _LEAST_DROPPED or len(asked(rest)) < _LEAST_KEPT:
        return None
    return rest[0].upper() + rest[1:]
