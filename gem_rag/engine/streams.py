"""Answers piece by piece, iterated or awaited; leaving one stops its computation."""

from __future__ import annotations

import asyncio
import contextvars
import weakref
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property, partial
from threading import Event
from typing import Any, Generic, Protocol, TypeVar

from gem_rag.engine.answers import Answer, Piece
from gem_rag.engine.calls import CallPiece, with_calls
from gem_rag.engine.results import Generation
from gem_rag.engine.work import GivenUp, wanted_until

P = TypeVar("P")
P_co = TypeVar("P_co", covariant=True)


class Pieces(Protocol[P_co]):
    """What comes piece by piece and can be stopped."""

    def __iter__(self) -> Iterator[P_co]: ...

    def close(self, *, wait: bool = True) -> None:
        """Stop; nothing more is computed."""


class Stream:
    """Pieces of text as they are generated; `generation` holds the whole, also when cancelled.

    Nothing is computed before the first piece is asked for, and never more than a few tokens ahead
    of whoever reads: leaving or closing the stream is cancelling it.

    Args:
        answer: What is generated.
        begin: Has it generated.
        stop: Called when it is left: whether to wait for a token under way.
    """

    def __init__(
        self, answer: Answer, begin: Callable[[], None], stop: Callable[[bool], None]
    ) -> None:
        self._read = _Read(answer, begin)
        names, pieces = answer.row.tools, iter(self._read)
        self._pieces: Iterator[str | CallPiece] = (
            with_calls(pieces, names, must_call=answer.row.must_call) if names else pieces
        )
        self._stop = stop
        self._left = weakref.finalize(self, stop, False)

    def __iter__(self) -> Iterator[str]:
        return self

    def __next__(self) -> str:
        while not isinstance(piece := next(self._pieces), str):
            pass
        return piece

    def with_calls(self) -> Iterator[str | CallPiece]:
        """The pieces with those of tool calls among them, as they are written."""
        return self._pieces

    def __enter__(self) -> Stream:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self, *, wait: bool = True) -> None:
        """Stop; nothing more is computed.

        Args:
            wait: For a token under way to end; it does in any case.
        """
        self._read.is_closed = True
        self._left.detach()
        self._stop(wait)

    @property
    def generation(self) -> Generation:
        """Text, finish reason and usage so far; ``cancelled`` until the end is reached."""
        return self._read.answer.result(self._read.last)


class _Read:
    """How far somebody has read an answer; it does not know the stream, which may be dropped."""

    def __init__(self, answer: Answer, begin: Callable[[], None]) -> None:
        self.answer = answer
        self.last = Piece("", 0)
        self.is_closed = False
        self._begin = begin

    def __iter__(self) -> Iterator[str]:
        if not self.is_closed:
            self._begin()
        while not self.is_closed and (piece := self.answer.next_piece()) is not None:
            self.last = piece
            if piece.text:
                yield piece.text


class CallStream:
    """A `Stream` whose pieces have those of tool calls among them, as they are written.

    Args:
        stream: What is read.
    """

    def __init__(self, stream: Stream) -> None:
        self._stream = stream

    def __iter__(self) -> Iterator[str | CallPiece]:
        return self._stream.with_calls()

    def close(self, *, wait: bool = True) -> None:
        """Stop; nothing more is computed."""
        self._stream.close(wait=wait)

    @property
    def generation(self) -> Generation:
        """What was generated so far: see `Stream.generation`."""
        return self._stream.generation


S = TypeVar("S", bound=Pieces[Any])
T = TypeVar("T")


class AwaitedPieces(Generic[S, P]):
    """`Pieces` that are awaited; leaving the loop or cancelling stops the computation.

    Args:
        start: Makes the stream; called in a worker thread for the first piece, since what comes
            before it (tokenizing, compiling a schema, retrieving) may take a while.
    """

    def __init__(self, start: Callable[[], S]) -> None:
        self._start = start
        self._over = Event()
        # Its own: a stream that waits for its turn must not keep others from being read.
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="gem-rag-stream")

    def __aiter__(self) -> AsyncIterator[P]:
        return self._pieces()

    async def _pieces(self) -> AsyncIterator[P]:
        if self.is_closed:
            return
        try:
            while (piece := await self._in_thread(self._piece)) is not None:
                yield piece
        finally:
            self.close()
            try:
                if "stream" in vars(self):  # what is under way ends first, and the loop goes on
                    await self._in_thread(self.stream.close)
            finally:
                self._thread.shutdown(wait=False)

    async def _in_thread(self, call: Callable[[], T]) -> T:
        context = contextvars.copy_context()
        work = partial(context.run, wanted_until, self._over, call)
        return await asyncio.get_running_loop().run_in_executor(self._thread, work)

    @cached_property
    def stream(self) -> S:
        """What is awaited, made when it is first needed."""
        stream = self._start()
        if self.is_closed:  # while it was starting
            stream.close(wait=False)
        return stream

    @cached_property
    def _iterator(self) -> Iterator[P]:
        return iter(self.stream)

    def _piece(self) -> P | None:
        try:
            piece = None if self.is_closed else next(self._iterator, None)
        except GivenUp:  # while it was starting
            piece = None
        return None if self.is_closed else piece

    @property
    def is_closed(self) -> bool:
        """Whether it has come to its end, or was stopped."""
        return self._over.is_set()

    def close(self) -> None:
        """Stop, from any task or thread; a token under way ends, and no more are computed."""
        self._over.set()
        if "stream" in vars(self):
            self.stream.close(wait=False)


class AsyncStream(AwaitedPieces[Stream, str]):
    """A `Stream` whose pieces are awaited."""

    @property
    def generation(self) -> Generation:
        """What was generated so far: see `Stream.generation`."""
        return self.stream.generation
