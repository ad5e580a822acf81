"""Commands that answer one question from documents: ask, demo."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.markup import escape

from gem_rag.cli.console import (
    Context,
    Docs,
    Dtype,
    IndexDir,
    Json,
    MaxTokens,
    Mode,
    Model,
    Rank,
    SeveralWay,
    Skill,
    Where,
    err,
    open_rag,
    out,
    parsed,
    print_citations,
    print_json,
    print_nearest,
    print_stream,
    worded,
)

# What a user reads; the others are about experiments, and long.
DEMO_PAGES = ("cli.md", "how-it-works.md", "langchain.md", "llama-index.md")


def ask(
    question: Annotated[str, typer.Argument(help="What you want to know.", callback=worded)],
    docs: Docs = None,
    index: IndexDir = None,
    model: Model = None,
    dtype: Dtype = "auto",
    mode: Mode = "hybrid",
    where: Where = None,
    rank: Rank = True,
    context: Context = 1,
    several: SeveralWay = "together",
    skill: Skill = "auto",
    max_tokens: MaxTokens = 256,
    as_json: Json = False,
) -> None:
    """Answer a question from documents, with citations.

    Below the answer stands where it is from, with the sentence that carries it. Where nothing
    answers, that is said, and the nearest passages are offered.
    """
    condition = parsed(where)
    answering: dict[str, Any] = {"mode": mode, "rank": rank, "skill": skill}
    answering |= {"context": context, "several": several}
    with open_rag(docs, index, model, dtype, **answering) as rag:
        stream = rag.stream(question, where=condition, max_new_tokens=max_tokens)
        if as_json:
            for _ in stream:
                pass
            print_json(stream.answer.as_dict())
            return
        print_stream(stream)
        if stream.citations:
            out.print()
            answer = stream.answer
            print_citations(answer.citations, about=f"{question} {answer.answer}")
        if stream.nearest:
            print_nearest(stream.nearest)


def demo(as_json: Json = False) -> None:
    """Index this project's own documentation and answer a question about it."""
    question = "What does gem-rag pull do?"
    docs = own_docs()
    with tempfile.TemporaryDirectory() as folder:
        if not as_json:
            err.print(
                f"[dim]indexing {escape(str(docs))}; one model, loaded once, does all of it[/dim]"
            )
            out.print(f"[bold]{question}[/bold]")
        ask(
            question,
            docs=[docs / page for page in DEMO_PAGES],
            index=folder,
            model=None,
            dtype="auto",
            mode="hybrid",
            rank=True,
            context=1,
            skill="auto",
            max_tokens=24,  # the sentence that answers
            as_json=as_json,
        )


def own_docs() -> Path:
    """The documentation: inside an installed package, or beside it in a source tree."""
    package = Path(__file__).parents[1]
    packaged = package / "_docs"
    return packaged if packaged.is_dir() else package.parent / "docs"
