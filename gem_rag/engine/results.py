"""What a generation came to."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from gem_rag.engine.calls import BrokenCall, ToolCall

FinishReason = Literal["stop", "length", "cancelled"]


@dataclass(frozen=True)
class Usage:
    """Tokens of one request.

    Attributes:
        prompt_tokens: All that stood before the answer, readings included.
        cached_tokens: Those of them that came from a reading and were not run again. Of a committee
            both count every row, the empty text's too.
        completion_tokens: Generated, the token that ended it included.
        truncated_tokens: Cut from the prompt because the caller allowed it.
        proposed_tokens: Guessed from what was read, and checked (`GenerationOptions.speculate`).
        accepted_tokens: Those of them that the model wrote itself: each saved a step. How many
            depends on what ran beside it, so these two do not count where usages are compared.
    """

    prompt_tokens: int
    cached_tokens: int
    completion_tokens: int
    truncated_tokens: int = 0
    proposed_tokens: int = field(default=0, compare=False)
    accepted_tokens: int = field(default=0, compare=False)

    @property
    def total_tokens(self) -> int:
        """Prompt and completion."""
        return self.prompt_tokens + self.completion_tokens

    @property
    def acceptance(self) -> float | None:
        """Which part of what was proposed was accepted; None where nothing was."""
        return self.accepted_tokens / self.proposed_tokens if self.proposed_tokens else None


@dataclass(frozen=True)
class Candidate:
    """A whole answer among others.

    Attributes:
        text: It, control tokens left out.
        ids: Its ids, the ending token included.
        log_likelihood: Of all of them after the prompt, nats.
        score: By which candidates are in order, the larger the better (`beams.LENGTH`).
        finish_reason: ``stop`` or ``length``.
    """

    text: str
    ids: tuple[int, ...]
    log_likelihood: float
    score: float
    finish_reason: FinishReason


@dataclass(frozen=True)
class Generation:
    """A finished (or cancelled) answer.

    Attributes:
        text: The answer, stop strings and control tokens left out.
        finish_reason: ``stop`` (end token or stop string), ``length`` or ``cancelled``.
        usage: Token counts.
        tool_calls: Calls of the tools that were given; `text` is then what was said before them.
        invalid_tool_calls: Calls that came to nothing, cut off by the token limit, say.
        misfit: Why the text does not fit the schema that was given: it was cut off, or decoding
            could not be held to all that the schema says. None where it fits.
        ids: Ids generated, the ending token included.
        prompt_ids: Ids it was generated after, readings included; of a committee, in its first row.
        candidates: The whole answers that a beam search came to, best first: the first is this one.
            Empty where there was none.
        sources: For each of `ids` the place of the reading of a committee that it came from; empty
            where there was none.
    """

    text: str
    finish_reason: FinishReason
    usage: Usage
    tool_calls: tuple[ToolCall, ...] = ()
    invalid_tool_calls: tuple[BrokenCall, ...] = ()
    misfit: str | None = None
    ids: tuple[int, ...] = field(repr=False, default=())
    prompt_ids: tuple[int, ...] = field(repr=False, default=())
    sources: tuple[int, ...] = field(repr=False, default=())
    candidates: tuple[Candidate, ...] = field(repr=False, default=())

    @property
    def acceptance(self) -> float | None:
        """Which part of what speculation proposed was accepted; None where nothing was."""
        return self.usage.acceptance
