"""Generation on the base model: whole, streamed or batched, afresh or after a reading."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, Literal

from gem_rag.batching import Batcher
from gem_rag.constrained import Grammars, Schema
from gem_rag.decoding import DecodeLoop, LogitsHook, Sampler, Sampling, TextAssembler
from gem_rag.errors import ContextLengthError, GemError
from gem_rag.ranking import Ranks
from gem_rag.reading import Reading
from gem_rag.text import Message, as_text
from gem_rag.tools import Tool, ToolCall, before_calls, parse_calls, without_calls

Request = str | Sequence[Message]
# Nats per token. Between the 0.27 and the 0.39 that were nearest to it from either side in eleven
# hand-written questions to three tools (docs/benchmarks.md).
TOOL_THRESHOLD = 0.3
# Of a long message the end is ranked: there it says what it wants, and a tool must fit beside it.
TOOL_WORDS = 256
FinishReason = Literal["stop", "length", "cancelled"]


@dataclass(frozen=True)
class Usage:
    """Tokens of one request.

    Attributes:
        prompt_tokens: All that stood before the answer, readings included.
        cached_tokens: Those of them that came from a reading and were not run again.
        completion_tokens: Generated, the token that ended it included.
        truncated_tokens: Cut from the prompt because the caller allowed it.
    """

    prompt_tokens: int
    cached_tokens: int
    completion_tokens: int
    truncated_tokens: int = 0

    @property
    def total_tokens(self) -> int:
        """Prompt and completion."""
        return self.prompt_tokens + self.completion_tokens


@dataclass(frozen=True)
class Generation:
    """A finished (or cancelled) answer.

    Attributes:
        text: The answer, stop strings and control tokens left out.
        finish_reason: ``stop`` (end token or stop string), ``length`` or ``cancelled``.
        usage: Token counts.
        tool_calls: Calls of the tools that were given; `text` is then what was said before them.
        ids: Ids generated, the ending token included.
        prompt_ids: Ids it was generated after, readings included.
    """

    text: str
    finish_reason: FinishReason
    usage: Usage
    tool_calls: tuple[ToolCall, ...] = ()
    ids: tuple[int, ...] = field(repr=False, default=())
    prompt_ids: tuple[int, ...] = field(repr=False, default=())


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


class _Run:
    """Several requests under way: drives the loop and keeps each request's state."""

    def __init__(
        self,
        model: Generates,
        prompts: Sequence[list[int]],
        after: Sequence[Reading] | None,
        samplings: Sequence[Sampling],
        stop: Sequence[str],
        limits: Sequence[int],
        truncated: Sequence[int],
        callable_tools: Sequence[Collection[str]],
    ) -> None:
        self._ends = model.end_ids
        self.callable_tools = callable_tools
        self._past = [reading.ids.tolist() for reading in after or []] or [[] for _ in prompts]
        self._prompts = prompts
        self._truncated = truncated
        self._limits = limits
        self._texts = [TextAssembler(model.codec, stop) for _ in prompts]
        self._ids: list[list[int]] = [[] for _ in prompts]
        self._reasons: list[FinishReason] = ["cancelled" for _ in prompts]
        samplers = [Sampler(sampling) for sampling in samplings]
        self._loop = DecodeLoop(model, prompts, after, samplers, room=max(limits))

    def pieces(self, cancelled: Callable[[int], bool] | None = None) -> Iterator[tuple[int, str]]:
        """Run to the end, handing out ``(request, text piece)`` as they come."""
        while self._loop.rows:
            for row, token in self._loop.step().items():
                piece = self._take(row, token)
                if self._reasons[row] != "cancelled" or (cancelled is not None and cancelled(row)):
                    self._loop.drop(row)
                if piece:
                    yield row, piece

    def _take(self, row: int, token: int) -> str:
        self._ids[row].append(token)
        text = self._texts[row]
        if token in self._ends:
            self._reasons[row] = "stop"
            return text.flush()
        piece = text.push(token)
        if text.stopped:
            self._reasons[row] = "stop"
        elif len(self._ids[row]) >= self._limits[row]:
            piece += text.flush()
            self._reasons[row] = "stop" if text.stopped else "length"
        return piece

    def result(self, row: int) -> Generation:
        """One request's state as it is now."""
        past = self._past[row]
        usage = Usage(
            prompt_tokens=len(past) + len(self._prompts[row]),
            cached_tokens=len(past),
            completion_tokens=len(self._ids[row]),
            truncated_tokens=self._truncated[row],
        )
        text = self._texts[row].text
        calls = parse_calls(text, self.callable_tools[row])
        return Generation(
            text=before_calls(text) if calls else text,
            finish_reason=self._reasons[row],
            usage=usage,
            tool_calls=calls,
            ids=tuple(self._ids[row]),
            prompt_ids=(*past, *self._prompts[row]),
        )


class Generates(Ranks):
    """The generating job of `GemModel`: the base alone, unless the scope is ``always``."""

    def generate(
        self,
        messages_or_prompt: Request,
        *,
        after: Reading | None = None,
        **options: Any,
    ) -> Generation:
        """Generate one answer.

        Args:
            messages_or_prompt: Chat messages, or a string, which is one user message; rendered with
                the model's chat template.
            after: Go on from this reading, which is not run again. What is asked then follows the
                read text in the same user message, token by token: ``reading.ids + new ids``.
            **options: See `generate_batch`.

        Returns:
            Text, finish reason and token usage.
        """
        readings = None if after is None else [after]
        return self.generate_batch([messages_or_prompt], after=readings, **options)[0]

    def generate_batch(
        self,
        requests: Sequence[Request],
        *,
        max_new_tokens: int = 256,
        temperature: float = 0.0,
        top_p: float = 1.0,
        top_k: int = 0,
        seed: int | None = None,
        stop: str | Sequence[str] | None = None,
        after: Sequence[Reading] | None = None,
        raw: bool = False,
        truncate: bool = False,
        schema: Schema | None = None,
        tools: Sequence[Mapping[str, Any]] | None = None,
        tool_choice: str = "auto",
        logits_hook: LogitsHook | None = None,
        cancelled: Callable[[int], bool] | None = None,
    ) -> list[Generation]:
        """Generate several answers together; each is what it would be alone.

        Args:
            requests: As `generate` takes one.
            max_new_tokens: Longest answer.
            temperature: 0 is greedy.
            top_p: Nucleus sampling.
            top_k: Sample from this many best tokens; 0 is all.
            seed: Random state of each request, for sampling that can be repeated.
            stop: Strings that end the answer and are not part of it; may span tokens.
            after: One reading per request to go on from.
            raw: Take strings as they stand, without the chat template.
            truncate: Cut the start of a prompt that does not leave its answer `max_new_tokens`, or
                half of the context if that is less, and report it in `Usage.truncated_tokens`;
                without it a prompt that does not fit is an error.
            schema: A JSON schema; the answer is JSON that fits it.
            tools: Functions the model may call, as OpenAI-style dicts; see `Generation.tool_calls`.
            tool_choice: "any" makes the model call one, a tool's name that one, "none" none.
                "auto" leaves it to the model, where its template knows tools; where not, ranking
                decides (`TOOL_THRESHOLD`). Arguments fit the tool's parameters.
            logits_hook: See `Sampling`.
            cancelled: Asked after each token with its request's place in `requests`; True stops
                that request.

        Raises:
            ContextLengthError: A prompt leaves no room for an answer.
            GemError: A schema that cannot be enforced, or an unknown tool.
            ReadingError: A reading is another model's or cannot be continued.
        """
        if not requests:
            return []
        run = self._start(
            requests,
            after,
            Sampling(temperature, top_p, top_k, seed, logits_hook),
            stop=stop,
            max_new_tokens=max_new_tokens,
            raw=raw,
            truncate=truncate,
            schema=schema,
            tools=tools,
            tool_choice=tool_choice,
        )
        for _ in run.pieces(cancelled):
            pass
        return [run.result(row) for row in range(len(requests))]

    def stream(
        self,
        messages_or_prompt: Request,
        *,
        max_new_tokens: int = 256,
        temperature: float = 0.0,
        top_p: float = 1.0,
        top_k: int = 0,
        seed: int | None = None,
        stop: str | Sequence[str] | None = None,
        after: Reading | None = None,
        raw: bool = False,
        truncate: bool = False,
        schema: Schema | None = None,
        tools: Sequence[Mapping[str, Any]] | None = None,
        tool_choice: str = "auto",
        logits_hook: LogitsHook | None = None,
    ) -> Stream:
        """Generate one answer piece by piece; arguments as for `generate_batch`.

        Returns:
            An iterator of text pieces that never split a character or show part of a stop string;
            its ``generation`` has finish reason and usage. Closing it stops the computation.
        """
        run = self._start(
            [messages_or_prompt],
            None if after is None else [after],
            Sampling(temperature, top_p, top_k, seed, logits_hook),
            stop=stop,
            max_new_tokens=max_new_tokens,
            raw=raw,
            truncate=truncate,
            schema=schema,
            tools=tools,
            tool_choice=tool_choice,
        )
        pieces = (piece for _, piece in run.pieces())
        names = run.callable_tools[0]
        shown = without_calls(pieces, names) if names else pieces
        return Stream(shown, lambda: run.result(0))

    def _start(
        self,
        requests: Sequence[Request],
        after: Sequence[Reading] | None,
        sampling: Sampling,
        *,
        stop: str | Sequence[str] | None,
        max_new_tokens: int,
        raw: bool,
        truncate: bool,
        schema: Schema | None,
        tools: Sequence[Mapping[str, Any]] | None,
        tool_choice: str,
    ) -> _Run:
        if max_new_tokens < 1:
            raise ValueError(f"max_new_tokens is {max_new_tokens}; expected >= 1")
        if after is not None:
            if len(after) != len(requests):
                raise ValueError(
                    f"{len(requests)} requests with {len(after)} readings; need as many"
                )
            self._own(after)
            self._shareable(after)
        known = [Tool.of(tool) for tool in tools or []] if tool_choice != "none" else []
        prompts, truncated, limits = [], [], []
        for row, request in enumerate(requests):
            past = len(after[row]) if after is not None else 0
            answer = max_new_tokens if truncate else 0
            ids, cut = self._prompt_ids(request, past, known, raw=raw, answer=answer)
            prompts.append(ids)
            truncated.append(cut)
            limits.append(min(max_new_tokens, self.max_context - past - len(ids)))
        choices = [self._tool_choice(request, known, tool_choice) for request in requests]
        hooks = [
            self._constraint(schema, known, choice, limit)
            for choice, limit in zip(choices, limits, strict=True)
        ]
        samplings = [replace(sampling, logits_hook=hook or sampling.logits_hook) for hook in hooks]
        stops = [stop] if isinstance(stop, str) else list(stop or [])
        names = [[tool.name for tool in known if c in ("auto", "any", tool.name)] for c in choices]
        return _Run(self, prompts, after, samplings, stops, limits, truncated, names)

    def _constraint(
        self, schema: Schema | None, tools: Sequence[Tool], choice: str, max_new_tokens: int
    ) -> LogitsHook | None:
        if schema is not None and tools:
            raise GemError("got both schema and tools; an answer can follow one of them")
        if schema is not None:
            return self._grammars.schema(schema, max_new_tokens)
        if not tools or choice == "none":
            return None
        return self._grammars.tools(tools, choice, max_new_tokens)

    def _tool_choice(self, request: Request, tools: Sequence[Tool], choice: str) -> str:
        """ "auto" for a model that was not trained on tools, made up by ranking.

        A tool is called if its description makes the user's last words likelier, as a passage is
        relevant if it makes the question likelier: a skill small models have, unlike deciding.
        """
        if choice != "auto" or not tools or self.codec.renders_tools:
            return choice
        last = {"role": "user", "content": request} if isinstance(request, str) else request[-1]
        words = as_text(last.get("content")).strip()
        if last.get("role") != "user" or not words:
            return "none"
        offsets = self.codec.encode_texts([words], None)[0].offsets
        if len(offsets) > TOOL_WORDS:
            words = words[offsets[-TOOL_WORDS][0] :]
        best = self.rank(words, [tool.signature for tool in tools])[0]
        return tools[best.index].name if best.score >= TOOL_THRESHOLD else "none"

    @cached_property
    def _grammars(self) -> Grammars:
        vocabulary = self.base.model.config.get_text_config().vocab_size
        return Grammars(self.codec, vocabulary, sorted(self.end_ids))

    def _prompt_ids(
        self,
        request: Request,
        past: int,
        tools: Sequence[Tool],
        *,
        raw: bool,
        answer: int,
    ) -> tuple[list[int], int]:
        """A request's ids and how many were cut: none, unless there is an `answer` to cut for.

        The prompt leaves room for that many tokens, or for half of what is left.
        """
        ids = self.codec.prompt_ids(request, raw=raw, continued=past > 0, tools=tools)
        if not ids:
            raise ValueError("the prompt is empty; expected text or messages")
        left = self.max_context - past
        room = left - max(1, min(answer, left // 2))
        if len(ids) <= room:
            return ids, 0
        if not answer or room < 1:
            raise ContextLengthError(
                f"the prompt has {past + len(ids)} tokens, the context window {self.max_context}; "
                "shorten it, or pass truncate=True to cut its start"
            )
        head = self.config.preamble_ids if not past else ()
        kept = list(head) if tuple(ids[: len(head)]) == tuple(head) and len(head) < room else []
        return [*kept, *ids[len(ids) - (room - len(kept)) :]], len(ids) - room

    def submit(self, messages_or_prompt: Request, **options: Any) -> Future[Generation]:
        """Queue a request; requests that wait at the same time are generated as one batch.

        Args:
            messages_or_prompt: As for `generate`.
            **options: As for `generate`; requests with equal ones share a batch.

        Returns:
            A future; cancelling it stops the computation after the next token.
        """
        return self._batcher.submit(messages_or_prompt, options)

    @cached_property
    def _batcher(self) -> Batcher:
        return Batcher(self)

    @property
    def end_ids(self) -> frozenset[int]:
        """Ids that end an answer."""
        declared = self.base.model.generation_config.eos_token_id
        ends = [declared] if isinstance(declared, int) else list(declared or [])
        return frozenset([*ends, *self.codec.end_ids])
