"""A question and its answer in a conversation, kept as they come."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from typing import Any

from gem_rag.server.errors import ApiError, not_found
from gem_rag.server.records import Records

SAVED_SECONDS = 1.0  # a killed process loses no more of an answer
_SAID = ("finish_reason", "citations", "nearest", "timings", "usage")


class Exchange:
    """Keeps one question and what its answer has come to.

    Args:
        records: Where.
        conversation: Id of the conversation.
        history: What was said before, as the model is told it.
        question_id: Of the question.
        answer_id: Of the answer.
    """

    def __init__(
        self,
        records: Records,
        conversation: str,
        history: list[dict[str, str]],
        question_id: str,
        answer_id: str,
    ) -> None:
        self._records = records
        self.conversation = conversation
        self.history = history
        self.question_id = question_id
        self.answer_id = answer_id
        self._saved = time.monotonic()

    @classmethod
    def begun(
        cls, records: Records, conversation: str, question: str, replaces: str | None
    ) -> Exchange:
        """Add a question, and an answer without words yet.

        Raises:
            ApiError: There is no such conversation, or no such question in it.
        """
        if records.conversation(conversation) is None:
            raise not_found(f"conversation {conversation!r}")
        if replaces is not None and not records.take_back(conversation, replaces):
            raise not_found(f"question {replaces!r} in the conversation {conversation!r}")
        history = [
            {"role": message["role"], "content": message["content"]}
            for message in records.messages(conversation)
            if message["content"]
        ]
        asked = records.add_message(conversation, "user", question, {})
        said: dict[str, Any] = {
            "finish_reason": None,
            "citations": [],
            "nearest": [],
            "timings": {},
            "usage": {},
        }
        answer = records.add_message(conversation, "assistant", "", said)
        return cls(records, conversation, history, asked, answer)

    @property
    def is_due(self) -> bool:
        """Whether the last save was so long ago that a crash would lose much."""
        return time.monotonic() - self._saved >= SAVED_SECONDS

    async def save(self, answer: Mapping[str, Any], *, is_over: bool) -> None:
        """Keep what the answer has come to."""
        said = {name: answer[name] for name in _SAID}
        if not is_over:
            said["finish_reason"] = None
        await asyncio.to_thread(self._records.set_message, self.answer_id, answer["answer"], said)
        self._saved = time.monotonic()

    async def take_back(self) -> None:
        """The question cannot be answered: it is as if it had not been asked."""
        await asyncio.to_thread(self._records.take_back, self.conversation, self.question_id)

    @property
    def ids(self) -> dict[str, str]:
        """How the page finds it again."""
        return {
            "conversation": self.conversation,
            "question_id": self.question_id,
            "answer_id": self.answer_id,
        }


def require_one(conversation: str | None, history: object, replaces: str | None) -> None:
    """The history is a conversation's, or it is given.

    Raises:
        ApiError: It is said twice, or a question is replaced in no conversation.
    """
    if conversation is not None and history:
        raise ApiError(
            400, "give history, or the conversation whose history it is", param="history"
        )
    if conversation is None and replaces is not None:
        raise ApiError(400, "it replaces a question of no conversation", param="replaces")
