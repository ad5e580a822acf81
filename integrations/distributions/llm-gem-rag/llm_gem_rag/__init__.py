"""A plugin for simonw's `llm`: the bundled models answer and embed; others are registered.

Nothing of the models is imported before one is used: `llm` starts as fast as without the plugin.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import click
import llm

from llm_gem_rag.chat import AsyncGemChat, GemChat
from llm_gem_rag.embedding import GemEmbedding
from llm_gem_rag.registered import commands, known_models

__all__ = ["AsyncGemChat", "GemChat", "GemEmbedding"]


@llm.hookimpl
def register_models(register: Callable[..., Any]) -> None:
    """Every known model, to be asked."""
    for name, model in known_models().items():
        register(GemChat(name, model), AsyncGemChat(name, model))


@llm.hookimpl
def register_embedding_models(register: Callable[..., Any]) -> None:
    """Every known model, to embed documents with, and its twin for questions."""
    for name, model in known_models().items():
        register(GemEmbedding(name, model))
        register(GemEmbedding(f"{name}-query", model, is_query=True))


@llm.hookimpl
def register_commands(cli: click.Group) -> None:
    """``llm gem-rag register`` and its siblings."""
    cli.add_command(commands)
