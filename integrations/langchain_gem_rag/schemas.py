"""Tools and classes in the core's form, their JSON schemas as they say them themselves.

LangChain's own conversion writes out references, and so empties those of a class to itself.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from langchain_core.tools import BaseTool, Tool
from langchain_core.tools.base import create_schema_from_function
from langchain_core.utils.function_calling import convert_to_openai_tool
from langchain_core.utils.pydantic import is_basemodel_subclass
from pydantic import BaseModel, TypeAdapter
from typing_extensions import is_typeddict

from gem_rag.text.schemas import asked_for, at_root, closed, untitled

AnyTool = Mapping[str, Any] | type | Callable[..., Any] | BaseTool
_CALLED = "answer"  # a schema without a title


def as_tool(tool: AnyTool) -> dict[str, Any]:
    """Anything LangChain takes for a tool, as an OpenAI-style dict."""
    if isinstance(tool, Mapping):
        is_schema = not {"name", "function", "toolSpec"} & tool.keys() and _is_schema(tool)
        return _function(tool) if is_schema else convert_to_openai_tool(tool)
    if isinstance(tool, type) and is_basemodel_subclass(tool):
        return _function(schema_of(tool))
    if isinstance(tool, BaseTool):
        schema = tool.tool_call_schema
        if isinstance(tool, Tool) and not tool.args_schema:  # one string
            return convert_to_openai_tool(tool)
        said = dict(schema) if isinstance(schema, Mapping) else schema_of(schema)
        return _function(said, tool.name, tool.description)
    if is_typeddict(tool):
        return _typed_dict(tool)
    name = getattr(tool, "__name__", type(tool).__name__)
    model = create_schema_from_function(
        name,
        tool,
        filter_args=(),
        parse_docstring=True,
        error_on_invalid_docstring=False,
        include_injected=False,
    )
    return _function(schema_of(model), name, model.__doc__ or "")


def _typed_dict(cls: Any) -> dict[str, Any]:
    try:
        out = convert_to_openai_tool(cls)
    except RecursionError:
        return _function(closed(at_root(TypeAdapter(cls).json_schema())), cls.__name__)
    if not cls.__doc__:  # LangChain's conversion takes that of `dict`
        out["function"]["description"] = ""
    return out


def schema_of(cls: Any) -> dict[str, Any]:
    """A pydantic class' own JSON schema, without room for what the class does not know."""
    own = cls.model_json_schema() if issubclass(cls, BaseModel) else cls.schema()
    return dict(closed(at_root(own)))


def traceable(schema: Any, tool: dict[str, Any]) -> Any:
    """What tracing is told was asked for: LangChain cannot write a recursive `TypedDict` out."""
    is_recursive = is_typeddict(schema) and "$defs" in tool["function"]["parameters"]
    return tool if is_recursive else schema


def _is_schema(value: Mapping[str, Any]) -> bool:
    return bool({"title", "$ref", "$defs", "properties", "type", "anyOf"} & value.keys())


def _function(
    schema: Mapping[str, Any], name: str | None = None, description: str | None = None
) -> dict[str, Any]:
    out = at_root(schema)
    title, said = out.pop("title", None), out.pop("description", None)
    return {
        "type": "function",
        "function": {
            "name": name or title or _CALLED,
            "description": (said if description is None else description) or "",
            "parameters": untitled(out),
        },
    }


def asked_schema(response_format: Any) -> Mapping[str, Any] | None:
    """The JSON schema of an OpenAI-style ``response_format`` (or class); None where it is text.

    Raises:
        GemError: It is none.
    """
    if isinstance(response_format, type) and is_basemodel_subclass(response_format):
        return schema_of(response_format)
    return asked_for(response_format)
