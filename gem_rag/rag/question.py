"""A question in the light of the conversation."""

from __future__ import annotations

from collections.abc import Sequence

from gem_rag.text.template import Message, as_text


def in_context(question: str, history: Sequence[Message]) -> str:
    """A follow-up in the light of the conversation: the user's last question stands before it."""
    said = [as_text(m.get("content")) for m in history if m.get("role") == "user"]
    asked = [words for words in said if words]
    return f"{asked[-1]} {question}" if asked else question
