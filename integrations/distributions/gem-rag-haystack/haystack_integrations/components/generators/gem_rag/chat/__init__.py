"""Haystack's chat generator over a GEM model, where Haystack keeps those that chat."""

from haystack_integrations.components.generators.gem_rag.chat.chat_generator import (
    GemChatGenerator,
)

__all__ = ["GemChatGenerator"]
