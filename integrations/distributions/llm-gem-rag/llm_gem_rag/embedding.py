"""GemEmbedding: a GEM model that `llm` embeds with."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from llm.models import EmbeddingModel


class GemEmbedding(EmbeddingModel):
    """Unit vectors of documents, or of questions.

    `llm` keeps one model a collection and embeds what is looked for as it embedded what is kept: as
    a document. The twin for questions makes the vectors that `Collection.similar_by_vector` finds
    better answers with.

    Args:
        model_id: Its name in `llm`.
        model: A bundled name, folder or hub id; None is the default.
        is_query: Whether questions are embedded.
    """

    batch_size = 64  # of an iterable that may never end; the engine forms its own batches

    def __init__(self, model_id: str, model: str | None = None, *, is_query: bool = False) -> None:
        self.model_id = model_id
        self._model = model
        self._is_query = is_query

    def embed_batch(
        self,
        items: Iterable[str | bytes],
        *,
        key: str | None = None,  # noqa: ARG002
    ) -> Iterator[list[float]]:
        """The vectors of these texts, in their order."""
        from gem_rag.model import GemModel

        gem = GemModel.from_pretrained(self._model)
        texts = [item for item in items if isinstance(item, str)]
        embed = gem.embed_queries if self._is_query else gem.embed_documents
        vectors: list[list[float]] = embed(texts, show_progress=False).tolist()
        yield from vectors
