"""What the chat class and the completion class share: the loaded model and its settings."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any, Self

from langchain_core.language_models.base import LangSmithParams
from langchain_core.load.serializable import Serializable
from langchain_core.messages.ai import InputTokenDetails, UsageMetadata
from pydantic import Field, PrivateAttr, SecretStr

from gem_rag.checkpoints.names import DEFAULT
from gem_rag.compute.parts import Forward
from gem_rag.engine.options import GenerationOptions
from gem_rag.engine.results import Generation
from gem_rag.model import LOADING, GemModel, Model, as_model
from gem_rag.model import name_of as checkpoint_name
from langchain_gem_rag.options import GENERATING, StrictFields, of_call


class GeneratesWithGem(StrictFields, Serializable):
    """Fields of a generating class; the weights are shared with every user of the checkpoint."""

    aliases = GENERATING

    model: str = DEFAULT
    """Bundled name, folder or hub id."""
    device: str = "auto"
    dtype: str = "auto"
    revision: str | None = None
    forward: Forward = "auto"
    max_tokens: int = 256
    temperature: float = 0.0
    top_p: float = 1.0
    top_k: int = 0
    seed: int | None = None
    stop: list[str] | None = None
    truncate: bool = False
    """Cut the start of a prompt that does not fit the context window."""
    skill: str | None = None
    """A skill of the checkpoint that answers, such as "answer"; None is the plain base."""
    timeout: float | None = Field(default=None, gt=0)
    """Seconds an answer may take; after that it is an error, and not computed further."""
    max_retries: int | None = Field(default=None, exclude=True)
    """Without effect: nothing is sent anywhere that could fail for a moment."""
    api_key: SecretStr | None = Field(default=None, exclude=True, repr=False)
    """Without effect: the model runs here."""
    _gem: GemModel = PrivateAttr()

    def __init__(self, model: str | Path | GemModel | None = None, **fields: Any) -> None:
        given = fields.pop("model_name", None) if model is None else model
        if isinstance(given, GemModel):
            # By which it is found again where LangChain makes another object of these fields.
            own = {} if given.origin is None else dataclasses.asdict(given.origin)
            fields = {"model": own.pop("name", checkpoint_name(given)), **own, **fields}
        elif given is not None:
            fields["model"] = str(given)
        super().__init__(**fields)
        self._gem = self._load(given)
        if self.skill is not None:
            self._gem.parts.skill(self.skill)  # an unknown name is said now

    def _load(self, model: Model) -> GemModel:
        options: dict[str, Any] = {name: vars(self)[name] for name in LOADING}
        return as_model(model, **options)

    def __deepcopy__(self, memo: dict[int, Any] | None = None) -> Self:
        """A copy of the settings; what is counted and kept for all calls is shared."""
        names = ("cache", "callbacks", "rate_limiter")
        shared = {id(held): held for name in names if (held := vars(self).get(name)) is not None}
        return super().__deepcopy__({**shared, **(memo or {})})

    @property
    def gem(self) -> GemModel:
        """The loaded model."""
        return self._gem

    def gem_for(self, calls: dict[str, Any]) -> GemModel:
        """The model of one call: another checkpoint where the call names one (``model=...``)."""
        name = of_call(calls, type(self).__name__).get("model")
        if name is None:
            return self._gem
        if isinstance(name, GemModel):
            return name
        options = {one: vars(self)[one] for one in LOADING if one != "revision"}
        return GemModel.from_pretrained(name, **options)

    def get_token_ids(self, text: str) -> list[int]:
        """The model's tokens of a text, by which LangChain counts and trims."""
        own: Callable[[str], list[int]] | None = vars(self).get("custom_get_token_ids")
        if own is not None:
            return own(text)
        return list(self.gem.codec.encode_texts([text], None)[0].ids)

    @property
    def model_name(self) -> str:
        """The checkpoint's name, as in `response_metadata`."""
        return name_of(self.model)

    @property
    def _llm_type(self) -> str:
        return "gem-rag"

    @property
    def _identifying_params(self) -> dict[str, Any]:
        # LangChain's cache of completions has nothing else to tell two settings apart by.
        names = ("dtype", "max_tokens", "temperature", "top_p", "top_k", "seed", "stop", "truncate")
        return {
            "model_name": self.model_name,
            "fingerprint": self.gem.fingerprint,
            **{name: vars(self)[name] for name in (*names, "skill")},
        }

    @classmethod
    def is_lc_serializable(cls) -> bool:
        """Its settings can be written and read back; there are no secrets."""
        return True

    @classmethod
    def get_lc_namespace(cls) -> list[str]:
        """Where `langchain_core.load` finds the class."""
        return ["langchain_gem_rag"]

    def options(self, stop: list[str] | None, calls: dict[str, Any]) -> dict[str, Any]:
        """This object's settings with those of one call over them, as `GemModel` takes them."""
        names = GenerationOptions.names()
        own = {name: value for name, value in vars(self).items() if name in names}
        asked = of_call({"stop": stop} | calls, type(self).__name__)
        asked.pop("model", None)
        return own | {"max_new_tokens": self.max_tokens} | asked

    def langsmith(self, params: LangSmithParams, calls: dict[str, Any]) -> LangSmithParams:
        """Tracing parameters with the model's name in them."""
        params["ls_provider"] = "gem-rag"
        params["ls_model_name"] = name_of(str(calls.get("model") or self.model))
        return params


def name_of(model: str) -> str:
    """A checkpoint's short name."""
    return Path(model).name


def usage(generation: Generation) -> UsageMetadata:
    """Token counts as LangChain has them."""
    u = generation.usage
    return UsageMetadata(
        input_tokens=u.prompt_tokens,
        output_tokens=u.completion_tokens,
        total_tokens=u.total_tokens,
        input_token_details=InputTokenDetails(cache_read=u.cached_tokens),
    )
