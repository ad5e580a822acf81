"""Follow-ups: what is found for a question in the light of the conversation, or without it.

The figures behind `MARGIN`, and behind what a follow-up is searched by, are in docs/benchmarks.md.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from gem_rag.rag.question import found_by, in_context, last_question, stands_alone
from gem_rag.rag.relevance import is_relevant
from gem_rag.rag.retrieve import Found
from gem_rag.text.template import Message

# By so much of a rank score another passage must say more about the question itself than the one
# that the conversation leads to.
MARGIN = 0.2


class Find(Protocol):
    """Finds passages for a question."""

    def __call__(
        self, question: str, /, *, searched: str | None = None, only: str | None = None
    ) -> Found:
        """What is found.

        Args:
            question: What passages are ranked by.
            searched: What they are searched by; None is the question.
            only: The id of the one passage that is looked at; None looks at all.
        """
        ...


def find_in_context(
    find: Find, question: str, history: Sequence[Message], threshold: float | None
) -> tuple[Found, str]:
    """What is found for a question of a conversation, and the question as it is then put.

    A question that may stand alone is looked for without the conversation too. The longer question
    explains more of itself, so both passages are compared by the bare one.

    Args:
        find: Finds passages.
        question: What is asked.
        history: Earlier messages.
        threshold: Least confidence that a passage answers: what may stand alone must reach it by
            its own words, whatever passage the conversation would lead to.
    """
    if not last_question(history):
        return find(question), question
    whole = in_context(question, history)
    led = find(whole, searched=found_by(question, history))
    if not led.citations or led.citations[0].rank_score is None or not stands_alone(question):
        return led, whole
    alone = find(question)
    if not alone.citations:
        return led, whole
    best, other = alone.citations[0], led.citations[0]
    if best.id == other.id:
        return led, whole
    if is_relevant(best, threshold):
        same = find(question, only=other.id).citations
        gained = (best.rank_score or 0.0) - ((same[0].rank_score or 0.0) if same else 0.0)
        if gained < MARGIN:
            return led, whole
    return alone, question
