"""One line that makes one model the default for everything in LlamaIndex."""

from __future__ import annotations

from typing import Any

from llama_index.core import Settings

from gem_rag.model import GemModel, Model
from llama_index_gem_rag.embedding import GemEmbedding
from llama_index_gem_rag.llm import GemLLM


def use_gem(model: Model = None, **options: Any) -> GemModel:
    """Set ``Settings.llm``, ``Settings.embed_model`` and ``Settings.tokenizer`` from one model.

    Args:
        model: A bundled name, folder or hub id, or a loaded `GemModel`; None is the default.
        **options: As for `GemLLM`: its fields (``max_tokens``, ``temperature``, ...) and options of
            `GemModel.from_pretrained` (``device``, ``dtype``, ``revision``).

    Returns:
        The model both share.
    """
    llm = GemLLM(model, **options)
    loaded = llm.gem
    Settings.llm = llm
    Settings.embed_model = GemEmbedding(loaded, model_name=llm.model_name)
    # Chunk sizes and prompt lengths are counted in this model's tokens, not in OpenAI's.
    Settings.tokenizer = lambda text: loaded.codec.backend.encode(text).ids
    return loaded
