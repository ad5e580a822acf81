"""GemLLM: a GEM model as LangChain's completion model."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from typing import Any

from langchain_core.callbacks import AsyncCallbackManagerForLLMRun, CallbackManagerForLLMRun
from langchain_core.language_models.base import LangSmithParams
from langchain_core.language_models.llms import BaseLLM
from langchain_core.outputs import Generation as TextGeneration
from langchain_core.outputs import GenerationChunk, LLMResult

from gem_rag.engine.results import Generation
from gem_rag.engine.work import finished
from langchain_gem_rag.failures import fails_as_langchain
from langchain_gem_rag.shared import GeneratesWithGem, usage


class GemLLM(GeneratesWithGem, BaseLLM):
    """Continues text with a GEM model, without the chat template (for chat there is `ChatGem`).

    Arguments are those of `ChatGem`.
    """

    def _get_ls_params(self, stop: list[str] | None = None, **kwargs: Any) -> LangSmithParams:
        return self.langsmith(super()._get_ls_params(stop=stop, **kwargs), kwargs)

    @fails_as_langchain
    def _generate(
        self,
        prompts: list[str],
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,  # noqa: ARG002
        **kwargs: Any,
    ) -> LLMResult:
        options, gem = self.options(stop, kwargs), self.gem_for(kwargs)
        # Through the queue, which bounds how many are generated at once.
        return self._result(finished([gem.submit(p, raw=True, **options) for p in prompts]))

    @fails_as_langchain
    async def _agenerate(
        self,
        prompts: list[str],
        stop: list[str] | None = None,
        run_manager: AsyncCallbackManagerForLLMRun | None = None,  # noqa: ARG002
        **kwargs: Any,
    ) -> LLMResult:
        options = self.options(stop, kwargs)
        answers = [
            self.gem_for(kwargs).agenerate(prompt, raw=True, **options) for prompt in prompts
        ]
        return self._result(await asyncio.gather(*answers))

    def _result(self, answers: list[Generation]) -> LLMResult:
        generations = [[TextGeneration(text=a.text, generation_info=_info(a))] for a in answers]
        counts = [usage(a) for a in answers]
        total = {
            "input_tokens": sum(count["input_tokens"] for count in counts),
            "output_tokens": sum(count["output_tokens"] for count in counts),
            "total_tokens": sum(count["total_tokens"] for count in counts),
        }
        output = {"model_name": self.model_name, "token_usage": total}
        return LLMResult(generations=generations, llm_output=output)

    @fails_as_langchain
    def _stream(
        self,
        prompt: str,
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> Iterator[GenerationChunk]:
        with self.gem_for(kwargs).stream(prompt, raw=True, **self.options(stop, kwargs)) as pieces:
            for piece in pieces:
                chunk = GenerationChunk(text=piece)
                if run_manager is not None:
                    run_manager.on_llm_new_token(piece, chunk=chunk)
                yield chunk
            yield GenerationChunk(text="", generation_info=_info(pieces.generation))

    @fails_as_langchain
    async def _astream(
        self,
        prompt: str,
        stop: list[str] | None = None,
        run_manager: AsyncCallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> AsyncIterator[GenerationChunk]:
        options = self.options(stop, kwargs)
        pieces = await asyncio.to_thread(self.gem_for(kwargs).astream, prompt, raw=True, **options)
        async for piece in pieces:
            chunk = GenerationChunk(text=piece)
            if run_manager is not None:
                await run_manager.on_llm_new_token(piece, chunk=chunk)
            yield chunk
        yield GenerationChunk(text="", generation_info=_info(pieces.generation))


def _info(generation: Generation) -> dict[str, Any]:
    return {"finish_reason": generation.finish_reason, "token_usage": usage(generation)}
