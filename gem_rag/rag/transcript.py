"""A conversation as it is kept and handed on: as messages, as Markdown, as JSON."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from gem_rag.rag.answer import Answer

TITLE = 60  # characters


def conversation_of(exchanges: Iterable[tuple[str, Answer]]) -> dict[str, Any]:
    """Questions and answers as the server keeps a conversation, for JSON: title and messages."""
    messages: list[dict[str, Any]] = []
    for question, answer in exchanges:
        said = answer.as_dict()
        messages.append({"role": "user", "content": question})
        messages.append({"role": "assistant", "content": said.pop("answer"), **said})
    title = " ".join(messages[0]["content"].split()) if messages else ""
    cut = title if len(title) <= TITLE else title[:TITLE].rsplit(" ", 1)[0] + " ..."
    return {"title": cut, "messages": messages}


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


def as_json(conversation: Mapping[str, Any]) -> str:
    """All that is known of it."""
    return json.dumps(conversation, ensure_ascii=False, indent=2, default=str) + "\n"


WRITERS: dict[str, Callable[[Mapping[str, Any]], str]] = {".md": as_markdown, ".json": as_json}


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
