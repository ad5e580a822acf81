"""The command line: parsing, printing, and errors as one line; the work is done elsewhere."""

from __future__ import annotations

import atexit
import gc
import sys
import warnings
from collections.abc import Callable
from importlib.metadata import version
from typing import Annotated, Any, NoReturn

import typer
from rich.markup import escape

from gem_rag.cli import ask, chat, export, index, models, serve, training
from gem_rag.cli.console import err, out
from gem_rag.errors import GemError

USAGE_ERROR, INTERRUPTED = 2, 130

app = typer.Typer(
    name="gem-rag",
    help="Ask your own documents: one model reads once, and embeds, ranks and answers.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
COMMANDS: dict[str, Callable[..., None]] = {
    "ask": ask.ask,
    "index": index.index_,
    "remove": index.remove,
    "search": index.search,
    "chat": chat.chat,
    "serve": serve.serve,
    "demo": ask.demo,
    "pull": models.pull,
    "info": models.info,
    "train": training.train,
    "train-skill": training.train_skill,
    "eval": training.eval_,
    "export": export.export,
    "adapt": training.adapt,
}
for name, command in COMMANDS.items():
    app.command(name=name)(command)


def print_version(wanted: bool) -> None:
    """Print the version and stop."""
    if wanted:
        out.print(version("gem-rag"), highlight=False)
        raise typer.Exit


@app.callback()
def _global(
    debug: Annotated[bool, typer.Option("--debug", help="Show tracebacks.")] = False,
    _version: Annotated[
        bool,
        typer.Option("--version", callback=print_version, is_eager=True, help="Show the version."),
    ] = False,
) -> None:
    state["debug"] = debug


state: dict[str, bool] = {"debug": False}


def main() -> None:
    """Entry point: errors become one line and an exit code (1; 2 for usage; 130 for Ctrl-C)."""
    # The last collection goes through all that torch made at its import: half a second for nothing.
    atexit.register(gc.freeze)
    warnings.showwarning = lambda message, *_, **__: err.print(
        f"[yellow]warning:[/yellow] {escape(str(message))}"
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
        err.print("interrupted")
    sys.exit(code if isinstance(code, int) else 0)


def _print_usage_error(error: Any) -> None:
    """One line, and where help is; `gem-rag` alone is answered with all of it."""
    command = getattr(getattr(error, "ctx", None), "command_path", "gem-rag")
    message = " ".join(error.format_message().split())
    if "NoArgs" in type(error).__name__:
        error.show()
    else:
        err.print(f"[red]error:[/red] {escape(message)} (see {command} --help)")


def _fail(error: Exception) -> NoReturn:
    if hasattr(error, "format_message") and hasattr(error, "exit_code"):  # typer's usage errors
        _print_usage_error(error)
        sys.exit(error.exit_code)
    known = isinstance(error, GemError | OSError | ValueError)
    hint = "" if known else " (a bug: run with --debug and report it)"
    text = str(error) or type(error).__name__
    err.print(f"[red]error:[/red] {escape(text)}{hint}")
    sys.exit(1)
