"""The library's errors as LangChain's kinds, so that what retries and shortens there does so."""

from __future__ import annotations

import functools
import inspect
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import aclosing, contextmanager
from typing import Any, TypeVar, cast

from langchain_core.exceptions import ContextOverflowError, ModelTimeoutError

from gem_rag.errors import ContextLengthError, GenerationTimeout

F = TypeVar("F", bound=Callable[..., Any])


class GemContextOverflowError(ContextLengthError, ContextOverflowError):
    """A prompt does not fit the model's context window."""


class GemTimeoutError(GenerationTimeout, ModelTimeoutError):
    """An answer was not whole in the time it was given."""


@contextmanager
def translated() -> Iterator[None]:
    """The library's errors inside are LangChain's as well."""
    try:
        yield
    except (GemContextOverflowError, GemTimeoutError):
        raise
    except ContextLengthError as error:
        raise GemContextOverflowError(*error.args) from error
    except GenerationTimeout as error:
        raise GemTimeoutError(*error.args) from error


def fails_as_langchain(method: F) -> F:
    """A method of a model, awaited or iterated in any way, under `translated`."""
    wrapper: Any
    if inspect.isasyncgenfunction(method):

        async def wrapper(*args: Any, **kwargs: Any) -> AsyncIterator[Any]:
            with translated():
                async with aclosing(method(*args, **kwargs)) as pieces:
                    async for piece in pieces:
                        yield piece

    elif inspect.iscoroutinefunction(method):

        async def wrapper(*args: Any, **kwargs: Any) -> Any:
            with translated():
                return await method(*args, **kwargs)

    elif inspect.isgeneratorfunction(method):

        def wrapper(*args: Any, **kwargs: Any) -> Iterator[Any]:
            with translated():
                yield from method(*args, **kwargs)

    else:

        def wrapper(*args: Any, **kwargs: Any) -> Any:
            with translated():
                return method(*args, **kwargs)

    return cast("F", functools.wraps(method)(wrapper))
