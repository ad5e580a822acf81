"""JSON schemas of tools and classes, as an answer is held to them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from gem_rag.text.schemas import at_root, closed

if TYPE_CHECKING:
    from llama_index.core.tools.types import BaseTool
    from pydantic import BaseModel


def schema_of(cls: type[BaseModel]) -> dict[str, Any]:
    """A class' own JSON schema, without room for what the class does not know."""
    return dict(closed(at_root(cls.model_json_schema())))


def as_tool(tool: BaseTool) -> dict[str, Any]:
    """A tool as an OpenAI-style dict, with all that its schema says."""
    metadata = tool.metadata
    out = metadata.to_openai_tool(skip_length_check=True)
    if metadata.fn_schema is None:
        return out
    return {**out, "function": {**out["function"], "parameters": schema_of(metadata.fn_schema)}}
