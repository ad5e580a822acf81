"""Answers piece by piece, begun before the response is, so that a refusal is an HTTP status."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import aclosing
from typing import Any, Generic, TypeVar

from gem_rag.engine.streams import AwaitedPieces

P = TypeVar("P")


class Begun(Generic[P]):
    """An answer whose first piece has come.

    Args:
        pieces: The answer.
        iterator: Its pieces after the first.
        first: The first; None where there is none.
    """

    def __init__(
        self, pieces: AwaitedPieces[Any, P], iterator: AsyncIterator[P], first: P | None
    ) -> None:
        self.pieces = pieces
        self._iterator = iterator
        self._first = first

    async def __aiter__(self) -> AsyncIterator[P]:
        try:
            async with aclosing(self._iterator) as rest:  # type: ignore[type-var]
                if self._first is not None:
                    yield self._first
                async for piece in rest:
                    yield piece
        finally:
            self.pieces.close()


async def begin(pieces: AwaitedPieces[Any, P]) -> Begun[P]:
    """Await the first piece: what is wrong with a request is raised here.

    Raises:
        EngineFull: Too many wait.
        GemError: The request cannot be honoured.
    """
    iterator = aiter(pieces)
    try:
        return Begun(pieces, iterator, await anext(iterator, None))
    except BaseException:
        pieces.close()
        raise
