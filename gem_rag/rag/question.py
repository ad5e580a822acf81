"""A question in the light of the conversation, and what of it asks."""

from __future__ import annotations

import re
from collections.abc import Sequence

from gem_rag.index.words import asked
from gem_rag.rag.answer import NOTHING_FOUND
from gem_rag.rag.talk import small_talk
from gem_rag.text.template import Message, as_text

# A question of a sentence that says more: from its last question word, or auxiliary that opens a
# clause, to its end.
_ASKS = re.compile(
    r"\b(?:who|whom|whose|what|which|when|where|why|how)\b"
    r"|(?<=[,;:.!?\n] )(?:is|are|was|were|do|does|did|can|could|will|would|has|have|should|may)\b",
    re.IGNORECASE,
)
# Words of a question by which it speaks of what was said.
_POINTS_BACK = re.compile(
    r"\b(?:he|she|it|they|him|her|his|hers|its|their|theirs|them|this|that|these|those|there|then"
    r"|here|one|ones|others?|another|else|any|more|also|too|same|such|so|both|either|neither"
    r"|former|latter|previous|next|again|instead)\b",
    re.IGNORECASE,
)
_SENTENCE = re.compile(r"[^.!?\n]*[^.!?\n\s][^.!?\n]*[.!?]*")
CARRIED_WORDS, CARRIED_CHARACTERS = 25, 200  # of the last answer, to find a follow-up by
_LEAST_DROPPED = 3  # words: fewer around a question do not hide it
_LEAST_KEPT = 2  # words that tell what is asked


def in_context(question: str, history: Sequence[Message]) -> str:
    """A follow-up in the light of the conversation: the user's last question stands before it."""
    last = last_question(history)
    return f"{last} {question}" if last else question


def found_by(question: str, history: Sequence[Message]) -> str:
    """What a follow-up is searched by: it speaks of what the last answer spoke of.

    Between the last question and this one stand the first words of the answer, if it is one.
    """
    last, said = last_exchange(history)
    if said.startswith(NOTHING_FOUND):
        said = ""
    carried = " ".join(said.split()[:CARRIED_WORDS])[:CARRIED_CHARACTERS]
    return " ".join(part for part in (last, carried, question) if part)


def last_question(history: Sequence[Message]) -> str:
    """What the user asked last, small talk aside; "" where nothing was asked."""
    return last_exchange(history)[0]


def last_exchange(history: Sequence[Message]) -> tuple[str, str]:
    """What the user asked last, small talk aside, and the answer to it; "" where there is none."""
    said = ""
    for message in reversed(history):
        words = as_text(message.get("content"))
        if message.get("role") == "assistant":
            said = words
        elif message.get("role") == "user" and words:
            if small_talk(words) is None:
                return words, said
            said = ""
    return "", ""


def stands_alone(question: str) -> bool:
    """Whether a question may be meant without what was said before it.

    It has words enough to be looked for, and none that points back ("it", "there", "another").
    """
    return len(asked(question)) >= _LEAST_KEPT and not _POINTS_BACK.search(question)


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
