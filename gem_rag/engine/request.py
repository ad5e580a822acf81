"""Requests to rows: prompts within their limits, tools and schemas as constraints."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import cached_property

from gem_rag.compute.reader import Reader
from gem_rag.compute.reading import Reading
from gem_rag.compute.skill import Skilled
from gem_rag.engine.bulk import Bulk
from gem_rag.engine.committee import After, Committee
from gem_rag.engine.grammar import Grammars
from gem_rag.engine.options import GenerationOptions
from gem_rag.engine.rows import Row, Seat
from gem_rag.engine.sampling import LogitsHook
from gem_rag.errors import ContextLengthError, GemError
from gem_rag.text.template import Message, as_text
from gem_rag.text.tools import Tool

Request = str | Sequence[Message]
# Nats per token. Between the 0.27 and the 0.39 that were nearest to it from either side in eleven
# hand-written questions to three tools (docs/benchmarks.md).
TOOL_THRESHOLD = 0.3
# Of a long message the end is ranked: there it says what it wants, and a tool must fit beside it.
TOOL_WORDS = 256


class Requests:
    """Makes rows of requests.

    Args:
        reader: Guards readings; its parts tokenize and bound.
        bulk: Ranks tools for models that were not trained on them.
    """

    def __init__(self, reader: Reader, bulk: Bulk) -> None:
        self._reader = reader
        self._parts = reader.parts
        self._bulk = bulk

    def rows(
        self,
        requests: Sequence[Request],
        after: Sequence[After] | None,
        options: GenerationOptions,
    ) -> list[Row]:
        """Rows that can be run together.

        Args:
            requests: Messages or prompts.
            after: One reading, or committee of readings, per request to go on from.
            options: For all of them.

        Raises:
            ContextLengthError: A prompt leaves no room for an answer.
            GemError: A schema that cannot be enforced, an unknown tool, or a committee and beams.
            ReadingError: A reading is another model's or cannot be continued.
        """
        if after is not None and len(after) != len(requests):
            raise ValueError(f"{len(requests)} requests with {len(after)} readings; need as many")
        tools = options.callable_tools
        befores: Sequence[After | None] = [None] * len(requests) if after is None else after
        readings = [self._readings(before, options.beams) for before in befores]
        prompts = [
            self._prompt(request, _longest(own), tools, options)
            for request, own in zip(requests, readings, strict=True)
        ]
        choices = [self._tool_choice(request, tools, options.choice) for request in requests]
        rows = [
            self._row(ids, cut, own, tools, choice, options)
            for (ids, cut), own, choice in zip(prompts, readings, choices, strict=True)
        ]
        return [
            replace(row, committee=before) if isinstance(before, Committee) else row
            for row, before in zip(rows, befores, strict=True)
        ]

    def _readings(self, before: After | None, beams: int) -> list[Reading]:
        """What a request's seats go on from; the empty text is last, where a committee wants it."""
        if before is None:
            return []
        readings = list(before.readings) if isinstance(before, Committee) else [before]
        self._reader.require_own(readings)
        self._reader.require_shareable(readings)
        if isinstance(before, Committee) and beams > 1:
            raise GemError(f"beams is {beams} after a committee; expected one reading, or beams=1")
        if isinstance(before, Committee) and before.contrast:
            readings += self._bulk.read([""], None, False)
        return readings

    def _row(
        self,
        ids: list[int],
        cut: int,
        readings: Sequence[Reading],
        tools: Sequence[Tool],
        choice: str,
        options: GenerationOptions,
    ) -> Row:
        left = self._parts.base.max_context - _longest(readings) - len(ids)
        limit = min(options.max_new_tokens, left)
        seats = [Seat(r, self._skilled(options, len(r), len(ids))) for r in readings]
        return Row(
            prompt=ids,
            seats=tuple(seats) or (Seat(None, self._skilled(options, 0, len(ids))),),
            sampling=options.sampling(self._constraint(options, tools, choice, limit)),
            stops=options.stops,
            limit=limit,
            truncated=cut,
            tools=[tool.name for tool in tools if choice in ("auto", "any", tool.name)],
            must_call=bool(tools) and choice not in ("auto", "none"),
            schema=options.schema,
            speculates=self._speculates(options),
            beams=options.beams,
        )

    def _speculates(self, options: GenerationOptions) -> bool | None:
        """As asked for; transformers' forward is for its results bit for bit, a token at a time."""
        if options.beams > 1:
            return False
        own_forward = self._parts.decoder is not None
        return options.speculate if own_forward or options.speculate else False

    def _skilled(self, options: GenerationOptions, past: int, prompt: int) -> Skilled | None:
        """The skill that was asked for, from the first position that is not the text's.

        Without a reading the text is among the user's words, so that it acts after those.
        """
        if options.skill is None:
            return None
        skill = self._parts.skill(options.skill)
        if skill.config.task != "answer":
            raise GemError(
                f"skill {skill.name!r} is for the task {skill.config.task!r}; expected one that "
                "answers"
            )
        own = self._parts.codec.after_words
        return Skilled(skill, past or prompt - max(1, 0 if options.raw else len(own)))

    def _prompt(
        self,
        request: Request,
        past: int,
        tools: Sequence[Tool],
        options: GenerationOptions,
    ) -> tuple[list[int], int]:
        """A request's ids after so many tokens, and how many were cut: see `truncate`.

        A cut prompt leaves room for the longest answer, or for half of what is left.
        """
        codec, max_context = self._parts.codec, self._parts.base.max_context
        ids = codec.prompt_ids(request, raw=options.raw, continued=past > 0, tools=tools)
        if not ids:
            raise ValueError("the prompt is empty; expected text or messages")
        answer = options.max_new_tokens if options.truncate else 0
        left = max_context - past
        room = left - max(1, min(answer, left // 2))
        if len(ids) <= room:
            return ids, 0
        if not answer or room < 1:
            raise ContextLengthError(
                f"the prompt has {past + len(ids)} tokens, the context window {max_context}; "
                "shorten it, or pass truncate=True to cut its start"
            )
        head = self._parts.config.preamble_ids if not past else ()
        kept = list(head) if tuple(ids[: len(head)]) == tuple(head) and len(head) < room else []
        return [*kept, *ids[len(ids) - (room - len(kept)) :]], len(ids) - room

    def _constraint(
        self, options: GenerationOptions, tools: Sequence[Tool], choice: str, limit: int
    ) -> LogitsHook | None:
        if tools and choice != "none":
            return self.grammars.tools(tools, choice, limit, options.schema)
        return None if options.schema is None else self.grammars.schema(options.schema, limit)

    def _tool_choice(self, request: Request, tools: Sequence[Tool], choice: str) -> str:
        """ "auto" for a model that was not trained on tools, made up by ranking.

        A tool is called if its description makes the user's last words likelier, as a passage is
        relevant if it makes the question likelier: a skill small models have, unlike deciding.
        """
        if choice != "auto" or not tools or self._parts.codec.renders_tools:
            return choice
        last = {"role": "user", "content": request} if isinstance(request, str) else request[-1]
        words = as_text(last.get("content")).strip()
        if last.get("role") != "user" or not words:
            return "none"
        offsets = self._parts.codec.encode_texts([words], None)[0].offsets
        if len(offsets) > TOOL_WORDS:
            words = words[offsets[-TOOL_WORDS][0] :]
        best = self._bulk.rank(words, [tool.signature for tool in tools])[0]
        return tools[best.index].name if best.score >= TOOL_THRESHOLD else "none"

    @cached_property
    def grammars(self) -> Grammars:
        """Constraints for this tokenizer."""
        return Grammars(self._parts.codec, self._parts.base.vocabulary, sorted(self._parts.end_ids))


def _longest(readings: Sequence[Reading]) -> int:
    """Tokens that stand before a prompt, in the longest of its rows."""
    return max(map(len, readings), default=0)
