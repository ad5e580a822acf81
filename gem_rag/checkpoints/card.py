"""A short model card: how a checkpoint is to be used."""

from __future__ import annotations

from gem_rag.checkpoints.names import public_name
from gem_rag.config import GemConfig

CARD = "README.md"


def default_card(config: GemConfig) -> str:
    """A model card that says how the checkpoint is to be used."""
    c = config
    return (
        "---\nlibrary_name: gem-rag\ntags: [gem, rag, embeddings]\n---\n\n"
        f"# GEM checkpoint for {public_name(c.base.name)}\n\n"
        f"{c.num_special_tokens} special tokens, {c.pooling} pooling, adapter scope "
        f"`{c.adapter_scope}`. Use it through `gem_rag.GemModel.from_pretrained`: the adapter is "
        "stored in PEFT's format, but plain PEFT would apply it at every position, which is not "
        "what it was trained for.\n"
    )
