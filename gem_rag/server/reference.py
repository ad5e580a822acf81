"""`/docs`: the OpenAPI document as a page, without scripts and without anything from elsewhere."""

from __future__ import annotations

import html
import json
from collections.abc import Iterator, Mapping
from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import HTMLResponse

router = APIRouter(include_in_schema=False)
STYLE = "/docs/style.css"
CSS = """
:root { color-scheme: light dark; }
body { font: 16px/1.6 system-ui, sans-serif; max-width: 56rem; margin: 2rem auto; padding: 0 1rem; }
summary { cursor: pointer; padding: .3rem 0; }
code, pre { font: 14px/1.5 ui-monospace, monospace; }
pre { overflow: auto; padding: .8rem; border: 1px solid #8886; }
section > details { border-top: 1px solid #8886; }
b { display: inline-block; min-width: 4.5rem; }
"""


@router.get("/docs", response_class=HTMLResponse)
async def docs(request: Request) -> HTMLResponse:
    """Everything that can be asked."""
    return HTMLResponse(page(request.app.openapi()))


@router.get(STYLE)
async def style() -> HTMLResponse:
    """How that looks."""
    return HTMLResponse(CSS, media_type="text/css")


def page(described: Mapping[str, Any]) -> str:
    """An OpenAPI document as HTML."""
    info = described["info"]
    title = html.escape(f"{info['title']} {info['version']}")
    parts = "".join(_operations(described))
    return (
        f'<!doctype html><html lang="en"><meta charset="utf-8"><title>{title}</title>'
        f'<link rel="stylesheet" href="{STYLE}"><h1>{title}</h1>'
        f"<p>{html.escape(info.get('description', ''))} The same for programs: "
        f'<a href="/openapi.json">openapi.json</a>.</p><section>{parts}</section></html>'
    )


def _operations(described: Mapping[str, Any]) -> Iterator[str]:
    for path, methods in described["paths"].items():
        for method, operation in methods.items():
            said = html.escape(operation.get("description", ""))
            yield (
                f"<details><summary><b>{method.upper()}</b> <code>{html.escape(path)}</code> "
                f"{said.splitlines()[0] if said else ''}</summary><p>{said}</p>"
            )
            for parameter in operation.get("parameters", ()):
                text = f"{parameter['name']} ({parameter['in']}) {parameter.get('description', '')}"
                yield f"<p><code>{html.escape(text)}</code></p>"
            if body := operation.get("requestBody"):
                yield _schemas("asked", body["content"], described)
            for status, answer in operation["responses"].items():
                yield _schemas(str(status), answer.get("content", {}), described)
            yield "</details>"


def _schemas(title: str, content: Mapping[str, Any], described: Mapping[str, Any]) -> str:
    parts = []
    for kind, said in content.items():
        schema = _resolved(said.get("schema", {}), described)
        shown = html.escape(json.dumps(schema, indent=1, ensure_ascii=False))
        parts.append(f"<p>{html.escape(title)} <code>{html.escape(kind)}</code></p>")
        parts.append(f"<pre>{shown}</pre>")
    return "".join(parts)


def _resolved(schema: Any, described: Mapping[str, Any], depth: int = 4) -> Any:
    """A schema with what it refers to written in it."""
    if isinstance(schema, list):
        return [_resolved(inner, described, depth) for inner in schema]
    if not isinstance(schema, dict):
        return schema
    name = str(schema.get("$ref", "")).rpartition("/")[2]
    if name and depth:
        return _resolved(described["components"]["schemas"][name], described, depth - 1)
    return {key: _resolved(value, described, depth) for key, value in schema.items()}
