"""Commands about an index: index, search."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape

from gem_rag.cli.console import (
    Docs,
    Dtype,
    IndexDir,
    Json,
    Mode,
    Model,
    Rank,
    err,
    open_rag,
    out,
    print_citations,
    print_json,
    print_report,
    worded,
)
from gem_rag.documents.find import existing


def index_(
    paths: Annotated[list[Path], typer.Argument(help="Files or folders.")],
    index: Annotated[Path, typer.Option("--index", help="The index folder to write.")],
    model: Model = None,
    dtype: Dtype = "auto",
    remove_missing: Annotated[
        bool, typer.Option("--remove-missing", help="Drop files that are gone from the folders.")
    ] = False,
    exclude: Annotated[
        list[str] | None,
        typer.Option("--exclude", help="Leave out what this .gitignore pattern says; repeatable."),
    ] = None,
    as_json: Json = False,
) -> None:
    """Index files and folders; unchanged files are not read again."""
    existing(paths)  # a wrong one is found before a model is loaded or an index made
    with open_rag(None, index, model, dtype, create=True) as rag:
        try:
            report = rag.add(paths, remove_missing=remove_missing, exclude=exclude or ())
        except KeyboardInterrupt:
            err.print(f"{rag.index.count()} chunks were committed and are kept")
            raise
        if as_json:
            print_json({**dataclasses.asdict(report), "total_chunks": rag.index.count()})
        else:
            print_report(report)
            out.print(f"{rag.index.count()} chunks in {escape(str(index))}")
    done = report.added or report.replaced or report.unchanged or report.removed
    if not done and (report.skipped or report.passed_over):
        raise typer.Exit(1)


def search(
    query: Annotated[str, typer.Argument(help="What to look for.", callback=worded)],
    index: IndexDir = None,
    docs: Docs = None,
    k: Annotated[int, typer.Option("-k", min=1, help="How many passages.")] = 5,
    model: Model = None,
    dtype: Dtype = "auto",
    mode: Mode = "hybrid",
    rank: Rank = True,
    as_json: Json = False,
) -> None:
    """Find passages without answering."""
    with open_rag(docs, index, model, dtype, mode=mode, rank=rank) as rag:
        citations = rag.retrieve(query, k=k)
        if as_json:
            print_json([dataclasses.asdict(c) for c in citations])
        elif citations:
            print_citations(citations)
        else:
            out.print("nothing found")
