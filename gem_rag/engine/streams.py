"""Async twins: the same calls in a worker thread, so that the event loop goes on."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from functools import cached_property, partial
from typing import TYPE_CHECKING, Any, Generic, Protocol, TypeVar

from gem_rag.generation import Generation, Stream

if TYPE_CHECKING:
    from concurrent.futures import Future

    import numpy as np

    from gem_rag.ranking import Ranked
    from gem_rag.reading import Reading


class Pieces(Protocol):
    """Text that comes piece by piece and can be stopped."""

    def __iter__(self) -> Iterator[str]: ...

    def close(self) -> None:
        """Stop; nothing more is computed."""


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
    def _stream(self) -> S:
        stream = self._start()
        if self._closed:  # while it was starting
            stream.close()
        return stream

    @cached_property
    def _iterator(self) -> Iterator[str]:
        return iter(self._stream)

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
        if "_stream" in vars(self) and self._stepping.acquire(blocking=False):
            try:
                self._stream.close()
            finally:
                self._stepping.release()


class AsyncStream(AwaitedPieces[Stream]):
    """A `Stream` whose pieces are awaited."""

    @property
    def generation(self) -> Generation:
        """What was generated so far: see `Stream.generation`."""
        return self._stream.generation


class AsyncTwins:
    """Mixed into `GemModel`: each twin takes the arguments of the method it is named after."""

    async def aread(self, texts: Sequence[str], **options: Any) -> list[Reading]:
        """`read` without blocking the event loop."""
        out: list[Reading] = await self._in_thread("read", texts, **options)
        return out

    async def aembed_documents(self, texts: Sequence[str], **options: Any) -> np.ndarray:
        """`embed_documents` without blocking the event loop."""
        out: np.ndarray = await self._in_thread("embed_documents", texts, **options)
        return out

    async def aembed_queries(self, texts: Sequence[str], **options: Any) -> np.ndarray:
        """`embed_queries` without blocking the event loop."""
        out: np.ndarray = await self._in_thread("embed_queries", texts, **options)
        return out

    async def aembed_query(self, text: str, **options: Any) -> np.ndarray:
        """`embed_query` without blocking the event loop."""
        out: np.ndarray = await self._in_thread("embed_query", text, **options)
        return out

    async def aembed_readings(self, readings: Sequence[Reading], **options: Any) -> np.ndarray:
        """`embed_readings` without blocking the event loop."""
        out: np.ndarray = await self._in_thread("embed_readings", readings, **options)
        return out

    async def arank(
        self, query: str, texts_or_readings: Sequence[str | Reading], **options: Any
    ) -> list[Ranked]:
        """`rank` without blocking the event loop."""
        out: list[Ranked] = await self._in_thread("rank", query, texts_or_readings, **options)
        return out

    async def agenerate(self, messages_or_prompt: Any, **options: Any) -> Generation:
        """`generate` without blocking the event loop; cancelling stops after the next token.

        Requests that wait at the same time are generated as one batch (see `submit`).
        """
        future: Future[Generation] = getattr(self, "submit")(messages_or_prompt, **options)  # noqa: B009
        return await asyncio.wrap_future(future)

    async def agenerate_batch(self, requests: Sequence[Any], **options: Any) -> list[Generation]:
        """`generate_batch` without blocking the event loop."""
        out: list[Generation] = await self._in_thread("generate_batch", requests, **options)
        return out

    def astream(self, messages_or_prompt: Any, **options: Any) -> AsyncStream:
        """`stream` without blocking the event loop."""
        return AsyncStream(partial(getattr(self, "stream"), messages_or_prompt, **options))  # noqa: B009

    async def _in_thread(self, method: str, *args: Any, **options: Any) -> Any:
        return await asyncio.to_thread(getattr(self, method), *args, **options)
