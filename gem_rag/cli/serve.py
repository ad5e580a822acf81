"""The command that serves: chat, search and embeddings over HTTP, and the page."""

from __future__ import annotations

import os
import sys
import threading
import webbrowser
from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape

from gem_rag.cli.console import Dtype, IndexDir, Model, err, out
from gem_rag.documents.find import existing
from gem_rag.errors import MissingExtraError

PORT = 8377
KEY_VARIABLE = "GEM_RAG_API_KEY"


def serve(
    paths: Annotated[
        list[Path] | None, typer.Argument(help="Files or folders that are indexed and watched.")
    ] = None,
    index: IndexDir = None,
    host: Annotated[str, typer.Option("--host", help="Where to listen.")] = "127.0.0.1",
    port: Annotated[
        int, typer.Option("--port", min=0, max=65535, help="Where to listen; 0 is any free one.")
    ] = PORT,
    api_key: Annotated[
        str | None,
        typer.Option(
            "--api-key",
            envvar=KEY_VARIABLE,
            show_envvar=False,
            help=f"Who asks must know it; auto makes one. The variable {KEY_VARIABLE} says it too.",
        ),
    ] = None,
    allow_root: Annotated[
        list[Path] | None,
        typer.Option("--allow-root", help="Others may add folders below this one; repeatable."),
    ] = None,
    no_open: Annotated[bool, typer.Option("--no-open", help="Do not open the page.")] = False,
    model: Model = None,
    dtype: Dtype = "auto",
) -> None:
    """Serve chat, search, embeddings and a page to ask from; watch files and folders."""
    try:
        from gem_rag.index.address import is_address
        from gem_rag.server import run
        from gem_rag.server.settings import Settings, home_of, is_loopback, new_key
    except ImportError as error:
        raise MissingExtraError("serving", "server") from error
    _require_key(host, api_key, is_needed=not is_loopback(host))
    whole = existing(paths or [])
    key = new_key() if api_key == "auto" else api_key
    address = index if index is not None and is_address(index) else None
    settings = Settings(
        home=home_of(whole, index) if address or index is None else Path(index).expanduser(),
        index=address,
        paths=whole,
        host=host,
        key=key,
        roots=existing(allow_root or []),
        model=model,
        dtype=dtype,
    )
    listener = run.bound(host, port)
    address = f"http://{_in_address(host)}:{listener.getsockname()[1]}"

    def started() -> None:
        out.print(f"{address}  [dim](Ctrl-C ends it)[/dim]", highlight=False)
        err.print(f"[dim]index and conversations: {escape(str(settings.home))}[/dim]")
        if api_key == "auto":
            err.print(f"the key: {escape(str(key))}", highlight=False)
        if not no_open and _has_browser():
            threading.Thread(target=webbrowser.open, args=(address,), daemon=True).start()

    run.serve(settings, listener, started)


def _require_key(host: str, key: str | None, *, is_needed: bool) -> None:
    if key is None and is_needed:
        raise typer.BadParameter(
            f"--host {host} can be reached by other machines; give --api-key KEY too "
            "(--api-key auto makes one)"
        )
    if key is not None and not key.strip():
        raise typer.BadParameter("--api-key is empty; expected a key, or auto")


def _in_address(host: str) -> str:
    """A host as it stands in an address; any of this machine's is its own."""
    if host in ("0.0.0.0", "::"):
        return "127.0.0.1"
    return f"[{host}]" if ":" in host else host


def _has_browser() -> bool:
    """Whether a window can open: one in the terminal would take that away."""
    if sys.platform in ("win32", "darwin"):
        return True
    return bool(os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY"))
