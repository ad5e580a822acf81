"""HTML as Markdown; its title is part of the text."""

from __future__ import annotations

import re
from pathlib import Path

from gem_rag.documents.decode import decode
from gem_rag.documents.document import Document


def read_html(path: Path) -> Document:
    """A page, below its title."""
    html, notes = decode(path.read_bytes())
    text, title = markdown_of(html)
    return Document(titled(text, title), str(path), markdown=True, title=title, notes=notes)


def markdown_of(html: str) -> tuple[str, str]:
    """A page's body as Markdown, and its title or ""."""
    from markitdown import converters

    # What calls itself something else is UTF-8 by now.
    result = converters.HtmlConverter().convert_string(html, table_infer_header=True)
    return tidy(result.markdown), " ".join((result.title or "").split())


def titled(text: str, title: str) -> str:
    """A text below its title, unless it begins with that anyway."""
    first = text.lstrip().partition("\n")[0].strip("# \t")
    return f"# {title}\n\n{text}" if title and first.casefold() != title.casefold() else text


def tidy(text: str) -> str:
    """A converter's Markdown without blanks at lines' ends and without many empty lines."""
    lines = (line.rstrip() for line in re.split(r"\r?\n", text))
    return re.sub(r"\n{3,}", "\n\n", "\n".join(lines)).strip()
