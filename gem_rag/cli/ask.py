"""Commands that answer from documents: ask, chat, demo."""

from __future__ import annotations

import sys
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape

from gem_rag.cli.console import (
    Docs,
    Dtype,
    IndexDir,
    Json,
    Mode,
    Model,
    Rank,
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
from gem_rag.errors import GemError

if TYPE_CHECKING:
    from gem_rag.rag.answer import Answer
    from gem_rag.rag.citation import Citation
    from gem_rag.rag.pipeline import GemRAG

Context = Annotated[int, typer.Option("--context", min=1, help="Passages put before the model.")]
SeveralWay = Annotated[
    str,
    typer.Option("--several", help="Several passages: together, committee or join."),
]
# What a user reads; the others are about experiments, and long.
DEMO_PAGES = ("cli.md", "how-it-works.md", "langchain.md", "llama-index.md")
CHAT_COMMANDS = "/sources /clear /quit"
MaxTokens = Annotated[int, typer.Option("--max-tokens", min=1, help="Longest answer, in tokens.")]


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

    The answer streams; below it stands where it is from, with the sentence that carries it. Where
    nothing answers, that is said, and the nearest passages are offered.
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


def chat(
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
    as_json: Annotated[
        bool, typer.Option("--json", help="Print each answer, or error, as one line of JSON.")
    ] = False,
) -> None:
    """Ask again and again; follow-ups are understood in the light of what was asked before.

    /sources shows what the last answer rests on, /clear forgets the conversation, /quit ends it.
    """
    condition = parsed(where)
    answering: dict[str, Any] = {"mode": mode, "rank": rank, "skill": skill}
    answering |= {"context": context, "several": several}
    with open_rag(docs, index, model, dtype, **answering) as rag:
        if not as_json:
            err.print(f"[dim]{rag.index.count()} chunks. {CHAT_COMMANDS}[/dim]")
        history: list[dict[str, str]] = []
        citations: list[Citation] = []
        while (line := prompt(err if as_json else out)) is not None:
            if line == "/quit":
                break
            if line == "/clear":
                history, citations = [], []
            elif line == "/sources":
                show_sources(citations, as_json)
            elif line.startswith("/"):
                err.print(f"the commands are {CHAT_COMMANDS}; anything else is a question")
            elif line:
                answer = reply(rag, line, history, max_tokens, as_json, condition)
                if answer is None:
                    continue
                citations = answer.citations
                history += [
                    {"role": "user", "content": line},
                    {"role": "assistant", "content": answer.answer},
                ]


def reply(
    rag: GemRAG,
    line: str,
    history: list[dict[str, str]],
    max_tokens: int,
    as_json: bool,
    where: dict[str, Any] | None = None,
) -> Answer | None:
    """Answer one line of a conversation; Ctrl-C or an error ends this answer, not the conversation.

    Returns:
        The answer as far as it came; None where there is none.
    """
    stream = None
    try:
        stream = rag.stream(line, history=history, where=where, max_new_tokens=max_tokens)
        if as_json:
            for _ in stream:
                pass
        else:
            print_stream(stream)
            if stream.nearest:
                print_nearest(stream.nearest)
    except KeyboardInterrupt:
        err.print()
    except GemError as error:
        if as_json:
            print_json({"error": str(error)}, indent=None)  # a script waits for this line
        else:
            err.print(f"[red]error:[/red] {escape(str(error))}")
        return None
    if stream is None:
        return None
    stream.close()
    if as_json:
        print_json(stream.answer.as_dict(), indent=None)
    return stream.answer


def show_sources(citations: list[Citation], as_json: bool) -> None:
    """What the last answer rests on."""
    if as_json:
        print_json([c.as_dict() for c in citations], indent=None)
    elif citations:
        print_citations(citations)
    else:
        out.print("no sources yet")


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


def prompt(console: Console) -> str | None:
    """The next line; None at the end of the input. On a terminal Ctrl-C starts the line again.

    Args:
        console: Where to prompt.
    """
    if not sys.stdin.isatty():
        line = sys.stdin.readline()
        return line.strip() if line else None
    with suppress(ImportError):  # where there is one, it edits lines and recalls them
        import readline  # noqa: F401
    try:
        return console.input("[bold]> [/bold]").strip()
    except EOFError:
        console.print()
        return None
    except KeyboardInterrupt:
        console.print()
        return ""
