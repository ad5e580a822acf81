"""The command line: parsing, printing, and errors as one line; the work is done elsewhere."""

from __future__ import annotations

import dataclasses
import json
import sys
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer
from rich.console import Console
from rich.markup import escape

from gem_rag.errors import GemError, MissingExtraError

if TYPE_CHECKING:
    from gem_rag.model import GemModel
    from gem_rag.rag import Citation, GemRAG, IngestReport

app = typer.Typer(
    name="gem-rag",
    help="Ask your own documents: one model reads once, and embeds, ranks and answers.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
out = Console()
err = Console(stderr=True)

USAGE_ERROR, INTERRUPTED = 2, 130

Docs = Annotated[
    list[Path] | None, typer.Option("--docs", help="Files or folders to answer from; repeatable.")
]
IndexDir = Annotated[Path | None, typer.Option("--index", help="An index folder.")]
Model = Annotated[
    str | None, typer.Option("--model", help="GEM checkpoint: bundled name, folder or hub id.")
]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON document and nothing else.")]
Rank = Annotated[bool, typer.Option("--rank/--no-rank", help="Rank what the index found.")]
Context = Annotated[int, typer.Option("--context", min=1, help="Passages put before the model.")]
MaxTokens = Annotated[int, typer.Option("--max-tokens", min=1, help="Longest answer, in tokens.")]


@app.callback()
def _global(
    debug: Annotated[bool, typer.Option("--debug", help="Show tracebacks.")] = False,
) -> None:
    state["debug"] = debug


state: dict[str, bool] = {"debug": False}


@app.command()
def ask(
    question: Annotated[str, typer.Argument(help="What you want to know.")],
    docs: Docs = None,
    index: IndexDir = None,
    model: Model = None,
    rank: Rank = True,
    context: Context = 1,
    max_tokens: MaxTokens = 256,
    as_json: Json = False,
) -> None:
    """Answer a question from documents, with citations.

    The answer streams; below it stand the passages it rests on.
    """
    with _rag(docs, index, model, rank=rank, context=context) as rag:
        stream = rag.stream(question, max_new_tokens=max_tokens)
        if as_json:
            for _ in stream:
                pass
            _print_json(dataclasses.asdict(stream.answer))
            return
        _print_stream(stream)
        _print_citations(stream.citations)


@app.command(name="index")
def index_(
    paths: Annotated[list[Path], typer.Argument(help="Files or folders.")],
    index: Annotated[Path, typer.Option("--index", help="The index folder to write.")],
    model: Model = None,
    remove_missing: Annotated[
        bool, typer.Option("--remove-missing", help="Drop files that are gone from the folders.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Index files and folders; unchanged files are not read again."""
    with _rag(None, index, model, create=True) as rag:
        report = rag.add(paths, remove_missing=remove_missing)
        if as_json:
            _print_json({**dataclasses.asdict(report), "total_chunks": rag.index.count()})
        else:
            _print_report(report)
            out.print(f"{rag.index.count()} chunks in {index}")
    if report.skipped and not (report.added or report.replaced or report.unchanged):
        raise typer.Exit(1)


@app.command()
def search(
    query: Annotated[str, typer.Argument(help="What to look for.")],
    index: IndexDir = None,
    docs: Docs = None,
    k: Annotated[int, typer.Option("-k", min=1, help="How many passages.")] = 5,
    model: Model = None,
    rank: Rank = True,
    as_json: Json = False,
) -> None:
    """Find passages without answering."""
    with _rag(docs, index, model, rank=rank) as rag:
        citations = rag.retrieve(query, k=k)
        if as_json:
            _print_json([dataclasses.asdict(c) for c in citations])
        elif citations:
            _print_citations(citations, whole=True)
        else:
            out.print("nothing found")


@app.command()
def chat(
    docs: Docs = None,
    index: IndexDir = None,
    model: Model = None,
    rank: Rank = True,
    context: Context = 1,
    max_tokens: MaxTokens = 256,
) -> None:
    """Ask again and again; follow-ups are understood in the light of what was asked before.

    /sources shows what the last answer rests on, /clear forgets the conversation, /quit ends it.
    """
    with _rag(docs, index, model, rank=rank, context=context) as rag:
        err.print(f"[dim]{rag.index.count()} chunks. /sources /clear /quit[/dim]")
        history: list[dict[str, str]] = []
        citations: list[Citation] = []
        while (line := _prompt()) is not None:
            if line == "/quit":
                break
            if line == "/sources":
                _print_citations(citations, whole=True)
            elif line == "/clear":
                history, citations = [], []
            elif line:
                stream = rag.stream(line, history=history, max_new_tokens=max_tokens)
                try:
                    _print_stream(stream)
                except KeyboardInterrupt:  # stops this answer, not the conversation
                    stream.close()
                    out.print()
                citations = stream.citations
                history += [
                    {"role": "user", "content": line},
                    {"role": "assistant", "content": stream.answer.answer},
                ]


@app.command()
def pull(as_json: Json = False) -> None:
    """Fetch and convert the default model ahead of time."""
    from gem_rag.embedded import NAME, embedded_base

    folder = embedded_base()
    size = sum(f.stat().st_size for f in folder.iterdir())
    if as_json:
        _print_json({"model": NAME, "path": str(folder), "bytes": size})
    else:
        out.print(f"{NAME} is ready: {_size(size)} in {folder}")


@app.command()
def info(index: IndexDir = None, model: Model = None, as_json: Json = False) -> None:
    """Show the model, its fingerprint and memory, and an index."""
    facts: dict[str, Any] = {"model": _model_facts(_load(model))}
    if index is not None:
        from gem_rag.index import GemIndex

        with GemIndex(index, create=False) as opened:
            facts["index"] = dataclasses.asdict(opened.info())
    if as_json:
        _print_json(facts)
        return
    for part, values in facts.items():
        out.print(f"[bold]{part}[/bold]")
        for name, value in values.items():
            shown = _size(value) if name.endswith("bytes") else escape(str(value))
            out.print(f"  {name:<16} {shown}")


@app.command()
def train(
    recipe: Annotated[str, typer.Argument(help="A bundled recipe's name or a .toml file.")],
    settings: Annotated[
        list[str] | None, typer.Option("--set", help="key=value over the recipe; repeatable.")
    ] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on with an interrupted run.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Make a GEM checkpoint by a recipe."""
    try:
        from gem_rag_train import TrainConfig
        from gem_rag_train import train as run
    except ImportError as error:
        raise MissingExtraError("training", "train") from error
    pairs = dict(_key_value(s) for s in settings or [])
    folder = run(TrainConfig.from_recipe(recipe, pairs), resume=resume)
    if as_json:
        _print_json({"checkpoint": str(folder)})
    else:
        out.print(f"checkpoint: {folder}")


@app.command()
def demo(as_json: Json = False) -> None:
    """Index this project's own documentation and answer a question about it."""
    question = "Where does GemIndex keep text, metadata and vectors?"
    docs = _own_docs()
    with tempfile.TemporaryDirectory() as folder:
        if not as_json:
            err.print(f"[dim]indexing {docs}; one model, loaded once, does all of it[/dim]")
            out.print(f"[bold]{question}[/bold]")
        ask(
            question,
            docs=[docs],
            index=Path(folder),
            model=None,
            rank=True,
            context=1,
            max_tokens=96,
            as_json=as_json,
        )


def _own_docs() -> Path:
    """The documentation: inside an installed package, or beside it in a source tree."""
    packaged = Path(__file__).parent / "_docs"
    return packaged if packaged.is_dir() else Path(__file__).parent.parent / "docs"


@contextmanager
def _rag(
    docs: list[Path] | None,
    index: Path | None,
    model: str | None,
    *,
    create: bool = False,
    **options: Any,
) -> Iterator[GemRAG]:
    """A `GemRAG` over an index folder, over documents indexed for the occasion, or both."""
    if not docs and index is None:
        raise typer.BadParameter("give --docs PATH or --index DIR")
    from gem_rag.index import GemIndex
    from gem_rag.rag import GemRAG

    for path in docs or []:
        if not path.exists():
            raise GemError(f"no file or folder {str(path)!r}; check the path given to --docs")
    gem = _load(model)
    opened = GemIndex(
        index, fingerprint=gem.fingerprint, dim=gem.dim, create=create or docs is not None
    )
    with opened:
        rag = GemRAG(gem, opened, **options)
        if docs:
            _print_problems(rag.add(docs))
            if not opened.count():
                raise GemError(f"no text in {', '.join(map(str, docs))}; nothing to answer from")
        yield rag


def _load(name: str | None) -> GemModel:
    from gem_rag.progress import status

    with status("loading the model"):
        from gem_rag.model import GemModel
    return GemModel.from_pretrained(name)


def _model_facts(model: GemModel) -> dict[str, Any]:
    c = model.config
    weights = sum(p.nbytes for p in model.base.model.parameters())
    return {
        "checkpoint": str(model.path),
        "base": c.base.name,
        "fingerprint": model.fingerprint,
        "dimensions": model.dim,
        "special_tokens": c.num_special_tokens,
        "scope": c.adapter_scope,
        "context_window": model.max_context,
        "device": str(model.base.device),
        "dtype": str(model.base.dtype).removeprefix("torch."),
        "weights_bytes": weights,
        "adapter_bytes": sum(p.nbytes for p in model.parameters()),
    }


def _key_value(text: str) -> tuple[str, str]:
    key, equals, value = text.partition("=")
    if not equals or not key:
        raise typer.BadParameter(f"--set {text!r}; expected key=value")
    return key, value


def _prompt() -> str | None:
    try:
        if sys.stdin.isatty():
            return out.input("[bold]> [/bold]").strip()
        line = sys.stdin.readline()
        return line.strip() if line else None
    except EOFError:
        return None


def _print_stream(pieces: Any) -> None:
    for piece in pieces:
        out.print(piece, end="", markup=False, highlight=False, soft_wrap=True)
    out.print()


def _print_citations(citations: list[Citation], *, whole: bool = False) -> None:
    for number, c in enumerate(citations, 1):
        rank = "" if c.rank_score is None else f"  rank {c.rank_score:.2f}"
        place = f"{c.source}:{c.start}-{c.end}" + (f"  {c.heading}" if c.heading else "")
        out.print(f"\n[dim]\\[{number}] {escape(place)}  score {c.score:.2f}{rank}[/dim]")
        text = c.text if whole else _shortened(c.text)
        out.print(escape(text), highlight=False, soft_wrap=True)


def _shortened(text: str, length: int = 240) -> str:
    flat = " ".join(text.split())
    return flat if len(flat) <= length else flat[:length].rsplit(" ", 1)[0] + " ..."


def _print_report(report: IngestReport) -> None:
    counts = ", ".join(
        f"{len(getattr(report, what))} {what}"
        for what in ("added", "replaced", "unchanged", "removed")
        if getattr(report, what)
    )
    out.print(counts or "nothing to index")
    _print_problems(report)


def _print_problems(report: IngestReport) -> None:
    for source, reason in report.skipped:
        err.print(f"[yellow]skipped[/yellow] {escape(source)}: {escape(reason)}", soft_wrap=True)


def _print_json(value: Any) -> None:
    sys.stdout.write(json.dumps(value, ensure_ascii=False, indent=2, default=str) + "\n")


def _size(count: int) -> str:
    return f"{count / 1e6:.1f} MB"


def main() -> None:
    """Entry point: errors become one line and an exit code (1; 2 for usage; 130 for Ctrl-C)."""
    warnings.showwarning = lambda message, *_, **__: err.print(
        f"[yellow]warning[/yellow] {escape(str(message))}", soft_wrap=True
    )
    try:
        code = app(standalone_mode=False)
    except (KeyboardInterrupt, typer.Abort):
        code = INTERRUPTED
    except Exception as error:
        if state["debug"]:
            raise
        _fail(error)
    if code == INTERRUPTED:  # typer turns Ctrl-C into this code itself
        err.print("interrupted; what was committed is kept")
    sys.exit(code if isinstance(code, int) else 0)


def _fail(error: Exception) -> NoReturn:
    if hasattr(error, "show") and hasattr(error, "exit_code"):  # typer's usage errors
        error.show()
        sys.exit(error.exit_code)
    known = isinstance(error, GemError | OSError | ValueError)
    hint = "" if known else " (a bug: run with --debug and report it)"
    text = str(error) or type(error).__name__
    err.print(f"[red]error[/red] {escape(text)}{hint}", soft_wrap=True)
    sys.exit(1)


if __name__ == "__main__":
    main()
