"""Completions of the plain model: one answer or several side by side."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Sequence
from functools import partial
from typing import Any

from gem_rag.engine.calls import CallPiece
from gem_rag.engine.results import Generation
from gem_rag.engine.streams import AwaitedPieces, CallStream
from gem_rag.errors import ContextLengthError, EngineFull, GemError
from gem_rag.server.errors import ApiError, stopping
from gem_rag.server.openai.likelihoods import Likelihoods
from gem_rag.server.openai.messages import to_core
from gem_rag.server.openai.requests import ChatRequest
from gem_rag.server.pieces import Begun, begin
from gem_rag.server.service import Service

Piece = str | CallPiece


class Completion:
    """The answers to one request, begun.

    Args:
        service: Ends them when the server ends.
        begun: Each of them.
        likelihoods: Of each, where they are wanted.
    """

    def __init__(
        self,
        service: Service,
        begun: Sequence[Begun[Piece]],
        likelihoods: Sequence[Likelihoods] = (),
    ) -> None:
        self._service = service
        self._begun = begun
        self._likelihoods = likelihoods

    @classmethod
    async def begin(cls, service: Service, asked: ChatRequest) -> Completion:
        """Await the first piece of each answer.

        Raises:
            ApiError: The request cannot be honoured, or too many wait.
        """
        messages, model = to_core(asked.messages), service.loaded.model
        likelihoods = [
            Likelihoods(model.codec, model.parts.end_ids, asked.top_logprobs or 0)
            for _ in range(asked.answers if asked.logprobs else 0)
        ]
        options = [asked.options(index) for index in range(asked.answers)]
        for each, noting in zip(options, likelihoods, strict=False):
            each["logits_hook"] = noting.note
        started = [
            service.run(
                AwaitedPieces[CallStream, Piece](partial(_stream, model.stream, messages, each))
            )
            for each in options
        ]
        try:
            return cls(service, await asyncio.gather(*map(begin, started)), likelihoods)
        except (EngineFull, ContextLengthError, ApiError):
            raise
        except GemError as error:
            is_held = asked.tools or asked.schema_wanted is not None
            param = "tools" if asked.tools else "response_format"
            if is_held:
                raise ApiError(400, str(error), "invalid_schema", param=param) from error
            raise
        finally:
            if len(started) > 1 and any(one.is_closed for one in started):
                for one in started:
                    one.close()

    async def pieces(self) -> AsyncGenerator[tuple[int, Piece | None]]:
        """Which answer, and its next piece; None at its end. All are read side by side."""
        queue: asyncio.Queue[tuple[int, Piece | None] | BaseException] = asyncio.Queue(1)
        readers = [
            asyncio.create_task(_read(index, begun, queue))
            for index, begun in enumerate(self._begun)
        ]
        left = len(readers)
        try:
            while left:
                item = await queue.get()
                if isinstance(item, BaseException):
                    raise item
                left -= item[1] is None
                yield item
        finally:
            self.close()
            for reader in readers:
                reader.cancel()
            await asyncio.gather(*readers, return_exceptions=True)

    async def whole(self) -> list[Generation]:
        """All answers at their end."""
        async for _ in self.pieces():
            pass
        self.require_not_stopped()
        return [self.generation(index) for index in range(len(self._begun))]

    def generation(self, index: int) -> Generation:
        """What an answer has come to."""
        generation: Generation = self._begun[index].pieces.stream.generation
        return generation

    def more_likelihoods(self, index: int) -> dict[str, Any] | None:
        """Those of an answer's tokens that have not been told yet; None where none are wanted."""
        if not self._likelihoods:
            return None
        return self._likelihoods[index].more(self.generation(index).ids)

    def require_not_stopped(self) -> None:
        """Raise where the server's end was the answer's.

        Raises:
            ApiError: 503.
        """
        cancelled = any(
            self.generation(index).finish_reason == "cancelled" for index in range(len(self._begun))
        )
        if self._service.state == "stopping" and cancelled:
            raise stopping()

    def close(self) -> None:
        """Compute nothing more."""
        for begun in self._begun:
            begun.pieces.close()


def _stream(start: Any, messages: Any, options: dict[str, Any]) -> CallStream:
    return CallStream(start(messages, wait=False, **options))


async def _read(
    index: int,
    begun: Begun[Piece],
    queue: asyncio.Queue[tuple[int, Piece | None] | BaseException],
) -> None:
    try:
        async for piece in begun:
            await queue.put((index, piece))
        await queue.put((index, None))
    except Exception as error:
        await queue.put(error)
