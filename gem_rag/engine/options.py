"""What may be asked of a generation, in one place."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

from gem_rag.arguments import renamed, require_known
from gem_rag.engine.sampling import LogitsHook, Sampling
from gem_rag.text.tools import Tool, choice_of

Schema = Mapping[str, Any]
# What other libraries call these.
ALIASES = {
    "max_tokens": "max_new_tokens",
    "max_completion_tokens": "max_new_tokens",
    "num_predict": "max_new_tokens",
    "num_output": "max_new_tokens",
    "stop_sequences": "stop",
    "request_timeout": "timeout",
    "num_beams": "beams",
}
# Of classes that call the longest answer `max_tokens`, as both frameworks do.
FIELD_ALIASES = {
    name: "max_tokens" if own == "max_new_tokens" else own
    for name, own in {**ALIASES, "max_new_tokens": "max_new_tokens"}.items()
    if name != "max_tokens"
}


@dataclass(frozen=True)
class GenerationOptions:
    """How answers are generated.

    Attributes:
        max_new_tokens: Longest answer.
        temperature: 0 is greedy.
        top_p: Nucleus sampling.
        top_k: Sample from this many best tokens; 0 is all.
        seed: Random state of each request, for sampling that can be repeated.
        stop: Strings that end the answer and are not part of it; may span tokens.
        raw: Take strings as they stand, without the chat template.
        truncate: Cut the start of a prompt that does not leave its answer `max_new_tokens`, or half
            of the context if that is less, and report it in `Usage.truncated_tokens`; without it a
            prompt that does not fit is an error.
        schema: A JSON schema; the answer is JSON that fits it.
        tools: Functions the model may call, as OpenAI-style dicts; see `Generation.tool_calls`.
        tool_choice: "any" makes the model call one, a tool's name that one, "none" none. "auto"
            leaves it to the model, where its template knows tools; where not, ranking decides
            (`gem_rag.engine.request.TOOL_THRESHOLD`). Arguments fit the tool's parameters. Other
            providers' forms (True, "required", ``{"type": "any"}``) say the same. With a schema
            beside the tools, an answer that calls none fits that.
        skill: A skill of the checkpoint, by name; None is the plain base. It acts on what follows a
            reading, or on what follows the user's last words where there is none.
        speculate: Whether what comes next is guessed from what was read and checked together, which
            changes how fast a text is written and not the text; None does it where that is faster
            (not on transformers' forward); never with beams. See `Usage.proposed_tokens`.
        beams: Beginnings of an answer that are kept side by side, for the likeliest whole answer
            instead of the likeliest next token (beam search, `gem_rag.engine.beams`): better short
            answers, at the cost of as many rows. Nothing is shown before the end. 1 is none; more
            go with a greedy answer in the model's own words alone.
        timeout: Seconds from when the request is queued, in which its answer must be whole; after
            that it is an error (`GenerationTimeout`), and not computed further. None waits.
        logits_hook: Called with the ids generated so far and the next logits ``[vocab]``; returns
            the logits to use.

    Raises:
        ValueError: A number is out of its range.
        GemError: A tool choice that says nothing.
    """

    max_new_tokens: int = 256
    temperature: float = 0.0
    top_p: float = 1.0
    top_k: int = 0
    seed: int | None = None
    stop: str | Sequence[str] | None = None
    raw: bool = False
    truncate: bool = False
    schema: Schema | None = None
    tools: Sequence[Mapping[str, Any]] | None = None
    tool_choice: str | bool | Mapping[str, Any] | None = "auto"
    skill: str | None = None
    speculate: bool | None = None
    beams: int = 1
    timeout: float | None = None
    logits_hook: LogitsHook | None = None

    def __post_init__(self) -> None:
        if self.max_new_tokens < 1:
            raise ValueError(f"max_new_tokens is {self.max_new_tokens}; expected >= 1")
        if self.timeout is not None and self.timeout <= 0:
            raise ValueError(f"timeout is {self.timeout} s; expected > 0, or None")
        if self.beams < 1:
            raise ValueError(f"beams is {self.beams}; expected >= 1")
        if self.beams > 1 and not self.is_free:
            raise ValueError(
                f"beams is {self.beams} with a temperature, stop strings, a schema, tools or a "
                "logits hook; expected none of them, or beams=1"
            )
        self.sampling(None)
        choice_of(self.tool_choice)

    @classmethod
    def of(cls, options: Mapping[str, Any]) -> GenerationOptions:
        """From a call's keyword arguments, by these names or those of `ALIASES`.

        Raises:
            OptionError: An argument is none of the options.
        """
        own = renamed(options, ALIASES)
        require_known(own, cls.names(), "generation", ALIASES)
        return cls(**own)

    @classmethod
    def names(cls) -> set[str]:
        """Names of all options."""
        return {field.name for field in fields(cls)}

    def sampling(self, constraint: LogitsHook | None) -> Sampling:
        """How tokens are chosen; a constraint takes the place of the caller's hook."""
        hook = constraint or self.logits_hook
        return Sampling(self.temperature, self.top_p, self.top_k, self.seed, hook)

    @property
    def is_free(self) -> bool:
        """Whether it is greedy, and the model alone says what is written and where it ends."""
        held = self.schema is not None or self.logits_hook is not None
        return not (held or self.tools or self.stop) and self.temperature == 0

    @property
    def stops(self) -> list[str]:
        """The stop strings as a list."""
        return [self.stop] if isinstance(self.stop, str) else list(self.stop or [])

    @property
    def callable_tools(self) -> list[Tool]:
        """The tools, none where the choice is "none"."""
        return [] if self.choice == "none" else [Tool.of(tool) for tool in self.tools or []]

    @property
    def choice(self) -> str:
        """The tool choice: "auto", "any", "none" or a tool's name."""
        return choice_of(self.tool_choice)
