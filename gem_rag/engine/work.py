"""A piece of work and its two ways of being waited for."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from contextvars import ContextVar, copy_context
from dataclasses import dataclass
from threading import Event
from typing import Any, Generic, TypeVar

T = TypeVar("T")
# Set where whoever awaits a work was cancelled: what it has not queued yet is not queued any more.
_given_up: ContextVar[Event | None] = ContextVar("gem_given_up", default=None)


class GivenUp(Exception):  # noqa: N818
    """Nobody waits for this work any more."""


def given_up() -> Callable[[], bool]:
    """Asks, from any thread, whether this work is one that nobody waits for any more."""
    event = _given_up.get()
    return (lambda: False) if event is None else event.is_set


def require_wanted() -> None:
    """Raise `GivenUp` inside a work that nobody waits for any more."""
    if given_up()():
        raise GivenUp


def wanted_until(event: Event, call: Callable[[], T]) -> T:
    """Do something as a work that nobody waits for any more once the event is set."""
    token = _given_up.set(event)
    try:
        return call()
    finally:
        _given_up.reset(token)


@dataclass
class Place:
    """Where a request stands in the queue.

    Attributes:
        arrival: When the first of what it asks for was queued; None before.
    """

    arrival: int | None = None


_place: ContextVar[Place | None] = ContextVar("gem_place", default=None)


@contextmanager
def one_request() -> Iterator[None]:
    """What is asked of an engine inside the block, one after another, waits as one.

    A question is embedded and its passages ranked a few at a time: behind many others each of these
    would wait as long as a whole request does.
    """
    if _place.get() is not None:  # part of a larger one
        yield
        return
    token = _place.set(Place())
    try:
        yield
    finally:
        _place.reset(token)


def place() -> Place | None:
    """The running request's."""
    return _place.get()


class Work(Generic[T]):
    """Prepared here, or in a thread while an event loop goes on; computed by the engine.

    Args:
        run: Prepares, queues and waits.
    """

    def __init__(self, run: Callable[[], T]) -> None:
        self._run = run

    def result(self) -> T:
        """Wait for it here."""
        return self._run()

    def __await__(self) -> Generator[Any, None, T]:
        return self._awaited().__await__()

    async def _awaited(self) -> T:
        event = Event()
        outer = _given_up.set(event)  # the thread gets a copy of this context
        try:
            return await asyncio.to_thread(self._run)
        except asyncio.CancelledError:
            event.set()
            raise
        finally:
            _given_up.reset(outer)


async def when_started(start: Callable[[], Future[T]]) -> T:
    """Start something in a thread, since that may take a while, and await it; cancelled with it."""
    starting = asyncio.ensure_future(asyncio.to_thread(start))
    try:
        future = await asyncio.shield(starting)
    except asyncio.CancelledError:
        starting.add_done_callback(_cancel_started)
        raise
    return await asyncio.wrap_future(future)


def apart(run: Callable[[], T]) -> T:
    """Do something in a thread of its own, which then ends.

    Whoever has run torch in parallel keeps OpenMP threads for it. With more of these than cores,
    all of them sleep where they would wait awake, and a model runs at half its speed: loading must
    not leave any in the caller's thread beside those of the engine.
    """
    with ThreadPoolExecutor(1, thread_name_prefix="gem-rag-load") as thread:
        return thread.submit(run).result()


def ahead(items: Iterator[T]) -> Iterator[T]:
    """The same items; while one is used, the next is made in a thread that ends with them."""
    context = copy_context()

    def following() -> T | None:
        return next(items, None)

    with ThreadPoolExecutor(1, thread_name_prefix="gem-rag-ahead") as thread:
        coming = thread.submit(context.run, following)
        while (item := coming.result()) is not None:
            coming = thread.submit(context.run, following)
            yield item


def _cancel_started(starting: asyncio.Future[Future[Any]]) -> None:
    if not starting.cancelled() and starting.exception() is None:
        starting.result().cancel()


def finished(futures: Sequence[Future[T]]) -> list[T]:
    """All results; when one fails, or the user interrupts, the others are not computed further."""
    try:
        return [future.result() for future in futures]
    except BaseException:
        for future in futures:
            future.cancel()
        raise
