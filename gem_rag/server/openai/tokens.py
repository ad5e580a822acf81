"""How many tokens texts have; what would be cut is refused instead."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from gem_rag.model import GemModel
from gem_rag.server.errors import ApiError


async def counted(model: GemModel, texts: Sequence[str], most: int, param: str) -> int:
    """Tokens of all texts.

    Args:
        model: Whose tokens.
        texts: What is read.
        most: Of one text.
        param: The field they stand in.

    Raises:
        ApiError: One has more.
    """
    tokenized = await asyncio.to_thread(model.codec.encode_texts, texts, None)
    counts = [len(text.ids) for text in tokenized]
    for index, count in enumerate(counts):
        if count > most:
            raise ApiError(
                400,
                f"{param}: text {index} has {count} tokens, the model reads {most}; split it",
                "context_length_exceeded",
                param=param,
            )
    return sum(counts)
