"""What LangChain users ask for by other names, and what is refused by name instead of dropped."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from pydantic import BaseModel, ConfigDict, model_validator

from gem_rag.arguments import Aliases, renamed, require_known
from gem_rag.engine.options import ALIASES, FIELD_ALIASES, GenerationOptions
from gem_rag.errors import OptionError

MODEL = {"model_name": "model"}
GENERATING = {**MODEL, **FIELD_ALIASES}
RETRIEVING = {
    "filters": "filter",
    "top_k": "k",
    "top_n": "k",
    "similarity_top_k": "k",
    "fetch_k": "candidates",
}
RERANKING = {**MODEL, "top_k": "top_n", "k": "top_n"}
# Of a search of the store itself, which ranks nothing.
SEARCHING = {"filters": "filter", "top_k": "k", "top_n": "k"}

# Of one call: nothing is sent anywhere, arguments always fit, an answer holds one call, and
# LangChain itself acts on `stream`.
WITHOUT_EFFECT = {"api_key", "max_retries", "parallel_tool_calls", "strict", "stream"}
# Accepted with the one value that asks for nothing.
ASKS_NOTHING: Mapping[str, Any] = {
    "n": 1,
    "logprobs": False,
    "top_logprobs": 0,
    "frequency_penalty": 0,
    "presence_penalty": 0,
    "repetition_penalty": 1,
}


class StrictFields(BaseModel):
    """Fields by the names users know them by; a name that would be ignored is an error."""

    model_config = ConfigDict(hide_input_in_errors=True)  # a key may be among it
    aliases: ClassVar[Aliases] = {}

    @model_validator(mode="before")
    @classmethod
    def _known_fields(cls, given: Any) -> Any:
        if not isinstance(given, Mapping):
            return given
        fields = renamed(given, cls.aliases)
        require_known(fields, cls.model_fields, cls.__name__, cls.aliases)
        return fields


def of_call(given: Mapping[str, Any], owner: str) -> dict[str, Any]:
    """What one call asks of a generation, by the core's names; None is not asked for.

    Args:
        given: The call's keyword arguments.
        owner: The class, for messages.

    Raises:
        OptionError: Something that would be ignored.
    """
    asked = {name: value for name, value in given.items() if value is not None}
    asked = renamed(asked, {**ALIASES, **MODEL})
    for name in WITHOUT_EFFECT & asked.keys():
        del asked[name]
    for name in ASKS_NOTHING.keys() & asked.keys():
        if asked.pop(name) != ASKS_NOTHING[name]:
            raise OptionError(
                f"{owner} has no option {name!r}: it gives one answer, as text; ask for several "
                "with batch, a temperature and seeds"
            )
    known = {*GenerationOptions.names(), "model"} - {"raw"}  # which tells the two classes apart
    require_known(asked, known, owner, {**ALIASES, **MODEL})
    return asked
