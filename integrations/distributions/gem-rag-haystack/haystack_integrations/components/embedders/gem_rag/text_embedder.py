"""GemTextEmbedder: a question's vector, in Haystack."""

from __future__ import annotations

from typing import Any

from haystack import component, default_from_dict, default_to_dict
from haystack.utils import ComponentDevice
from haystack_integrations.common.gem_rag import NamedModel

from gem_rag.model import Model


@component
class GemTextEmbedder:
    """Embeds a question as a question; documents are `GemDocumentEmbedder`'s.

    Args:
        model: A bundled name, folder or hub id, or a loaded `GemModel`; None is the default.
        device: Where it runs; None chooses.
        dtype: As for `GemModel.from_pretrained`, like ``revision``.
        revision: Of a hub id.
    """

    def __init__(
        self,
        model: Model = None,
        *,
        device: ComponentDevice | None = None,
        dtype: str = "auto",
        revision: str | None = None,
    ) -> None:
        self._named = NamedModel(model, device, dtype, revision)
        self.model = self._named.name

    def warm_up(self) -> None:
        """Load the model, unless it is loaded."""
        self._named.load()

    def to_dict(self) -> dict[str, Any]:
        """The component as a dict."""
        return default_to_dict(self, **self._named.to_dict())

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> GemTextEmbedder:
        """The component of such a dict."""
        return default_from_dict(cls, data)

    @component.output_types(embedding=list[float], meta=dict[str, Any])
    def run(self, text: str) -> dict[str, Any]:
        """Embed a question.

        Args:
            text: The question.

        Returns:
            ``embedding``: a unit vector; ``meta``: the model's name.

        Raises:
            TypeError: It is no string.
        """
        _require_text(text)
        return self._result(self._named.load().embed_query(text).tolist())

    @component.output_types(embedding=list[float], meta=dict[str, Any])
    async def run_async(self, text: str) -> dict[str, Any]:
        """`run` without blocking the event loop."""
        _require_text(text)
        return self._result((await self._named.load().aembed_query(text)).tolist())

    def _result(self, embedding: list[float]) -> dict[str, Any]:
        return {"embedding": embedding, "meta": {"model": self.model}}


def _require_text(text: object) -> None:
    if not isinstance(text, str):
        raise TypeError(
            f"GemTextEmbedder got {type(text).__name__}; expected a string: a list of documents is "
            "for GemDocumentEmbedder"
        )
