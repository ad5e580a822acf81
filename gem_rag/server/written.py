"""A conversation as Markdown."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def as_markdown(conversation: Mapping[str, Any]) -> str:
    """Questions as headings, answers with the places they stand on."""
    lines = [f"# {conversation['title'] or 'Conversation'}", ""]
    for message in conversation["messages"]:
        if message["role"] == "user":
            lines += [f"## {' '.join(message['content'].split())}", ""]
            continue
        lines += [message["content"], ""]
        citations = message.get("citations") or []
        lines += [f"{number}. {_place(one)}" for number, one in enumerate(citations, 1)]
        lines += [""] if citations else []
    return "\n".join(lines).rstrip() + "\n"


def _place(citation: Mapping[str, Any]) -> str:
    page = "" if citation.get("page") is None else f", page {citation['page']}"
    heading = f", {citation['heading']}" if citation.get("heading") else ""
    quote = _quote(citation)
    return f"{citation.get('name') or citation['source']}{page}{heading}" + (
        f': "{" ".join(quote.split())}"' if quote else ""
    )


def _quote(citation: Mapping[str, Any]) -> str:
    start, end = citation.get("quote_start"), citation.get("quote_end")
    if start is None or end is None:
        return ""
    return str(citation["text"][start - citation["start"] : end - citation["start"]])
