"""Answers piece by piece, iterated or awaited; leaving one stops its computation."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from functools import cached_property
from typing import Generic, Protocol, TypeVar

from gem_rag.engine.results import Generation


class Pieces(Protocol):
    """Text that comes piece by piece and can be stopped."""

    def __iter__(self) -> Iterator[str]: ...

    def close(self) -> None:
        """Stop; nothing more is computed."""


class Stream:
    """Pieces of text as they are generated; `generation` holds the whole, also when cancelled.

    Nothing is computed but when the next piece is asked for: leaving or closing the stream is
    cancelling it.
    """

    def __init__(self, pieces: Iterator[str], result: Callable[[], Generation]) -> None:
        self._pieces = pieces
        self._result = result

    def __iter__(self) -> Iterator[str]:
        return self

    def __next__(self) -> str:
        return next(self._pieces)

    def __enter__(self) -> Stream:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Stop; nothing more is computed."""
        close = getattr(self._pieces, "close", None)
        if close is not None:
            close()

    @property
    def generation(self) -> Generation:
        """Text, finish reason and usage so far; ``cancelled`` until the end is reached."""
        return self._result()


S = TypeVar("S", bound=Pieces)


class AwaitedPieces(Generic[S]):
    """`Pieces` that are awaited; leaving the loop or cancelling stops the computation.

    Args:
        start: Makes the stream; called in a worker thread for the first piece, since what comes
            before it (tokenizing, compiling a schema, retrieving) may take a while.
    """

    def __init__(self, start: Callable[[], S]) -> None:
        self._start = start
        self._stepping = threading.Lock()
        self._closed = False

    def __aiter__(self) -> AsyncIterator[str]:
        return self._pieces()

    async def _pieces(self) -> AsyncIterator[str]:
        try:
            while (piece := await asyncio.to_thread(self._piece)) is not None:
                yield piece
        finally:
            self.close()

    @cached_property
    def stream(self) -> S:
        """What is awaited, made when it is first needed."""
        stream = self._start()
        if self._closed:  # while it was starting
            stream.close()
        return stream

    @cached_property
    def _iterator(self) -> Iterator[str]:
        return iter(self.stream)

    def _piece(self) -> str | None:
        with self._stepping:
            piece = None if self._closed else next(self._iterator, None)
        if not self._closed:
            return piece
        self.close()  # whoever asked for it could not while a token was under way
        return None

    def close(self) -> None:
        """Stop, from any task or thread; a token under way ends, and no more are computed."""
        self._closed = True
        if "stream" in vars(self) and self._stepping.acquire(blocking=False):
            try:
                self.stream.close()
            finally:
                self._stepping.release()


class AsyncStream(AwaitedPieces[Stream]):
    """A `Stream` whose pieces are awaited."""

    @property
    def generation(self) -> Generation:
        """What was generated so far: see `Stream.generation`."""
        return self.stream.generation
