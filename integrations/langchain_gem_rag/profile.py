"""What a chat model can do and what a conversation costs, as LangChain asks for it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from jinja2 import TemplateError
from langchain_core.language_models.model_profile import ModelProfile

from gem_rag.model import GemModel
from gem_rag.text.codec import TextCodec
from gem_rag.text.template import Message
from gem_rag.text.tools import Tool


def prompt_tokens(
    codec: TextCodec, messages: Sequence[Message], tools: Sequence[Mapping[str, Any]]
) -> int:
    """Tokens of the prompt that messages and tools become.

    Parts of a conversation that a template refuses, such as an answer without its question, are
    counted one by one, which is never less.
    """
    known = [Tool.of(tool) for tool in tools]
    if not messages and not known:
        return 0
    whole = list(messages) or [{"role": "system", "content": ""}]
    try:
        return len(codec.prompt_ids(whole, tools=known))
    except TemplateError:
        alone = [[{**message, "role": "user"}] for message in whole]
        first = len(codec.prompt_ids(alone[0], tools=known))
        return first + sum(len(codec.prompt_ids(one)) for one in alone[1:])


def profile_of(gem: GemModel, name: str, max_tokens: int) -> ModelProfile:
    """What LangChain's middleware wants to know of a model.

    Args:
        gem: The model.
        name: What it is called.
        max_tokens: Longest answer.
    """
    return ModelProfile(
        name=name,
        open_weights=True,
        max_input_tokens=gem.max_context,
        max_output_tokens=max_tokens,
        text_inputs=True,
        image_inputs=False,
        image_url_inputs=False,
        pdf_inputs=False,
        audio_inputs=False,
        video_inputs=False,
        text_outputs=True,
        image_outputs=False,
        audio_outputs=False,
        video_outputs=False,
        reasoning_output=False,
        tool_calling=True,
        tool_choice=True,
        tool_call_streaming=True,
        structured_output=True,
        attachment=False,
        temperature=True,
    )
