"""What the chat class and the completion class share: the loaded model and its settings."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from langchain_core.language_models.base import LangSmithParams
from langchain_core.load.serializable import Serializable
from langchain_core.messages.ai import InputTokenDetails, UsageMetadata
from pydantic import PrivateAttr

from gem_rag.checkpoints.names import DEFAULT
from gem_rag.engine.options import GenerationOptions
from gem_rag.engine.results import Generation
from gem_rag.model import GemModel, as_model
from gem_rag.model import name_of as checkpoint_name


class GeneratesWithGem(Serializable):
    """Fields of a generating class; the weights are shared with every user of the checkpoint."""

    model: str | None = None
    """Bundled name, folder or hub id; None is the embedded default."""
    device: str = "auto"
    dtype: str = "auto"
    revision: str | None = None
    max_tokens: int = 256
    temperature: float = 0.0
    top_p: float = 1.0
    top_k: int = 0
    seed: int | None = None
    stop: list[str] | None = None
    truncate: bool = False
    """Cut the start of a prompt that does not fit the context window."""
    _gem: GemModel = PrivateAttr()

    def __init__(self, model: str | Path | GemModel | None = None, **fields: Any) -> None:
        if isinstance(model, GemModel):
            name: str | None = checkpoint_name(model)
        else:
            name = None if model is None else str(model)
        super().__init__(model=name, **fields)
        self._gem = as_model(model, device=self.device, dtype=self.dtype, revision=self.revision)

    @property
    def gem(self) -> GemModel:
        """The loaded model."""
        return self._gem

    def gem_for(self, calls: dict[str, Any]) -> GemModel:
        """The model of one call: another checkpoint where the call names one (``model=...``)."""
        name = calls.get("model")
        if name is None:
            return self._gem
        return GemModel.from_pretrained(name, device=self.device, dtype=self.dtype)

    def get_token_ids(self, text: str) -> list[int]:
        """The model's tokens of a text, by which LangChain counts and trims."""
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
            **{name: vars(self)[name] for name in names},
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
        longest = calls.get("max_tokens")
        own["max_new_tokens"] = self.max_tokens if longest is None else longest
        if stop is not None:
            own["stop"] = stop
        taken = names - {"stop", "raw"}  # LangChain's own argument; what tells the two classes
        return own | {k: v for k, v in calls.items() if k in taken and v is not None}

    def langsmith(self, params: LangSmithParams, calls: dict[str, Any]) -> LangSmithParams:
        """Tracing parameters with the model's name in them."""
        params["ls_provider"] = "gem-rag"
        params["ls_model_name"] = name_of(calls.get("model", self.model))
        return params


def name_of(model: str | None) -> str:
    """A checkpoint's short name."""
    return DEFAULT if model is None else Path(model).name


def usage(generation: Generation) -> UsageMetadata:
    """Token counts as LangChain has them."""
    u = generation.usage
    return UsageMetadata(
        input_tokens=u.prompt_tokens,
        output_tokens=u.completion_tokens,
        total_tokens=u.total_tokens,
        input_token_details=InputTokenDetails(cache_read=u.cached_tokens),
    )
