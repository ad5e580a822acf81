"""Commands about an index: index, search."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from threading import Event
from typing import TYPE_CHECKING, Annotated, Any, Literal

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
    Where,
    err,
    open_rag,
    out,
    parsed,
    print_citations,
    print_json,
    print_removal,
    print_report,
    worded,
)
from gem_rag.documents.find import existing

if TYPE_CHECKING:
    from gem_rag.rag.ingest.report import IngestReport
    from gem_rag.rag.pipeline import GemRAG

RemoveMissing = Annotated[
    bool, typer.Option("--remove-missing", help="Drop files that are gone from the folders.")
]
Exclude = Annotated[
    list[str] | None,
    typer.Option("--exclude", help="Leave out what this .gitignore pattern says; repeatable."),
]
On = Annotated[
    Literal["ray"] | None,
    typer.Option("--on", help="Cut and embed on Ray: the cluster of RAY_ADDRESS, or here."),
]
Actors = Annotated[
    int | None,
    typer.Option("--actors", min=1, help="How many embed on Ray; else one a CPU, or GPU."),
]


def index_(
    paths: Annotated[list[Path], typer.Argument(help="Files or folders.")],
    index: Annotated[
        str, typer.Option("--index", help="The index to write: a folder, or a server's address.")
    ],
    model: Model = None,
    dtype: Dtype = "auto",
    remove_missing: RemoveMissing = False,
    exclude: Exclude = None,
    readings: Annotated[
        bool | None,
        typer.Option(
            "--readings/--no-readings",
            help="Keep what was read beside the index, to rank and answer sooner; remembered.",
        ),
    ] = None,
    readings_mb: Annotated[
        int | None,
        typer.Option("--readings-mb", min=0, help="How many MB of it at most; remembered."),
    ] = None,
    readings_format: Annotated[
        Literal["auto", "int8", "bfloat16", "float16", "float32"] | None,
        typer.Option("--readings-format", help="The numbers it is kept in; remembered."),
    ] = None,
    watch: Annotated[
        bool,
        typer.Option("--watch", help="Go on: take over what changes, until Ctrl-C."),
    ] = False,
    on: On = None,
    actors: Actors = None,
    as_json: Json = False,
) -> None:
    """Index files and folders; unchanged files are not read again."""
    if watch:
        _require_watching()
    if on is not None or actors is not None:
        _require_ray(on)
    if readings is False and readings_mb:
        raise typer.BadParameter("--no-readings keeps none; give it or --readings-mb")
    if not (remove_missing and _is_index(index)):
        existing(paths)  # a wrong one is found before a model is loaded or an index made
    kept = {
        "keep_readings": readings,
        "readings_bytes": None if readings_mb is None else readings_mb * 1_000_000,
        "readings_format": readings_format,
    }
    with open_rag(None, index, model, dtype, create=True, **kept) as rag:
        try:
            add = rag.add if on is None else partial(_add_on_ray, rag, actors)
            report = add(paths, remove_missing=remove_missing, exclude=exclude or ())
        except KeyboardInterrupt:
            err.print(f"{rag.index.count()} chunks were committed and are kept")
            raise
        _print_indexed(rag, report, index, as_json)
        if watch:
            _watch(rag, paths, exclude or (), index, as_json)
    if not watch and not _did(report) and (report.skipped or report.passed_over):
        raise typer.Exit(1)


def _require_watching() -> None:
    """Find out before a model is loaded that nothing can be watched."""
    from gem_rag.rag.ingest.watch import Watch

    Watch([])


def _require_ray(on: str | None) -> None:
    """Likewise that there is no Ray, or that it is not asked for."""
    if on is None:
        raise typer.BadParameter("--actors is for --on ray; give both or neither")
    from gem_rag.rag.ingest.ray import require_ray

    require_ray()


def _add_on_ray(rag: GemRAG, actors: int | None, paths: list[Path], **options: Any) -> IngestReport:
    from gem_rag.rag.ingest.ray import add

    return add(rag, paths, actors=actors, **options)


def _watch(
    rag: GemRAG, paths: list[Path], exclude: Sequence[str], index: str, as_json: bool
) -> None:
    """Take over what changes, until Ctrl-C."""
    from gem_rag.rag.ingest.watch import follow

    if not as_json:
        err.print("[dim]watching; Ctrl-C ends it[/dim]")
    with suppress(KeyboardInterrupt):
        for report in follow(rag, paths, exclude=exclude, stop=Event()):
            changed = report.added or report.replaced or report.moved or report.removed
            if changed or report.skipped:
                _print_indexed(rag, report, index, as_json, indent=None)


def _print_indexed(
    rag: GemRAG, report: IngestReport, index: str, as_json: bool, indent: int | None = 2
) -> None:
    if as_json:
        print_json({**dataclasses.asdict(report), "total_chunks": rag.index.count()}, indent)
    else:
        from gem_rag.index.address import shown

        print_report(report)
        out.print(f"{rag.index.count()} chunks in {escape(shown(index))}")


def _did(report: IngestReport) -> bool:
    """Whether an ingest found anything that is in the index, or took anything out of it."""
    changed = report.added or report.replaced or report.moved or report.removed
    return bool(changed or report.unchanged)


def _is_index(place: str) -> bool:
    """Whether there is one; of a server's it is not known before it is opened."""
    from gem_rag.index.address import is_address
    from gem_rag.index.gem_index import DATABASE_FILE

    return is_address(place) or (Path(place).expanduser() / DATABASE_FILE).exists()


def remove(
    index: Annotated[
        str, typer.Option("--index", help="The index: a folder, or a server's address.")
    ],
    paths: Annotated[
        list[str] | None,
        typer.Argument(help="Files, folders or names of documents, gone or not."),
    ] = None,
    where: Where = None,
    as_json: Json = False,
) -> None:
    """Remove documents from an index, and what was read of them."""
    if bool(paths) == (where is not None):
        raise typer.BadParameter("give either PATH... or --where JSON")
    condition = parsed(where)
    from gem_rag.index.address import open_index, shown
    from gem_rag.rag.ingest.remove import remove
    from gem_rag.rag.readings import forget_beside

    with open_index(index, create=False) as opened:
        removal = remove(opened, paths or [], condition, partial(forget_beside, opened))
        facts = {**dataclasses.asdict(removal), "total_chunks": opened.count()}
    if as_json:
        print_json(facts)
    else:
        print_removal(removal)
        out.print(f"{facts['total_chunks']} chunks in {escape(shown(index))}")
    if removal.missing and not removal.removed:
        raise typer.Exit(1)


def search(
    query: Annotated[str, typer.Argument(help="What to look for.", callback=worded)],
    index: IndexDir = None,
    docs: Docs = None,
    k: Annotated[int, typer.Option("-k", min=1, help="How many passages.")] = 5,
    model: Model = None,
    dtype: Dtype = "auto",
    mode: Mode = "hybrid",
    where: Where = None,
    rank: Rank = True,
    as_json: Json = False,
) -> None:
    """Find passages without answering."""
    condition = parsed(where)
    with open_rag(docs, index, model, dtype, mode=mode, rank=rank) as rag:
        citations = rag.retrieve(query, k=k, where=condition)
        if as_json:
            print_json([c.as_dict() for c in citations])
        elif citations:
            print_citations(citations)
        else:
            out.print("nothing found")
