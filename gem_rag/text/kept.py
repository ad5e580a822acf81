"""A tokenizer as plain data: what prompts need of it, without transformers."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import cache
from typing import TYPE_CHECKING, Any, NoReturn

if TYPE_CHECKING:
    from jinja2 import Template
    from transformers import PreTrainedTokenizerBase


@dataclass(frozen=True)
class KeptTokenizer:
    """Stands for a tokenizer of transformers', which is loaded where something else is wanted.

    Attributes:
        serialized: The Rust tokenizer as JSON.
        special_tokens: By what they are for (``bos_token``), as templates see them.
        bos_token_id: Or None.
        eos_token_id: Or None.
        chat_template: Jinja, or None.
        load: Makes transformers' own.
    """

    serialized: str
    special_tokens: dict[str, Any]
    bos_token_id: int | None
    eos_token_id: int | None
    chat_template: str | None
    load: Callable[[], PreTrainedTokenizerBase]

    @classmethod
    def of(
        cls,
        tokenizer: PreTrainedTokenizerBase,
        serialized: str,
        load: Callable[[], PreTrainedTokenizerBase],
    ) -> KeptTokenizer:
        """What is kept of one."""
        return cls(
            serialized=serialized,
            special_tokens=dict(tokenizer.special_tokens_map),
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            chat_template=tokenizer.chat_template,
            load=load,
        )

    @property
    def bos_token(self) -> str | None:
        """What begins a text."""
        return self.special_tokens.get("bos_token")

    def apply_chat_template(
        self,
        messages: Sequence[dict[str, Any]],
        *,
        tools: Sequence[Any] | None = None,
        tokenize: bool = False,
        add_generation_prompt: bool = False,
    ) -> str:
        """Messages as text, as transformers' method of that name renders them."""
        assert not tokenize
        assert self.chat_template is not None
        return _compiled(self.chat_template).render(
            messages=messages,
            tools=tools,
            documents=None,
            add_generation_prompt=add_generation_prompt,
            **self.special_tokens,
        )


@cache
def _compiled(template: str) -> Template:
    """With what transformers gives templates to work with."""
    from jinja2.exceptions import TemplateError
    from jinja2.ext import loopcontrols
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    def refuse(message: str) -> NoReturn:
        raise TemplateError(message)

    world = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[loopcontrols]
    )
    world.filters["tojson"] = _to_json  # Jinja's own writes HTML's entities
    world.globals["raise_exception"] = refuse
    world.globals["strftime_now"] = lambda form: datetime.now().strftime(form)
    return world.from_string(template)


def _to_json(value: Any, ensure_ascii: bool = False, **options: Any) -> str:
    return json.dumps(value, ensure_ascii=ensure_ascii, **options)
