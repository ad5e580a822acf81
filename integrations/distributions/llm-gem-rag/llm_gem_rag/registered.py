"""Which models `llm` knows: the default as "gem-rag", and those that were registered."""

from __future__ import annotations

import json
from pathlib import Path

import click
import llm

NAME = "gem-rag"


def _file() -> Path:
    return Path(llm.user_dir()) / "gem-rag.json"


def registered() -> dict[str, str]:
    """Registered models: `llm`'s id -> a folder, or a hub id."""
    try:
        held = json.loads(_file().read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    return {str(name): str(model) for name, model in held.items()}


def known_models() -> dict[str, str | None]:
    """All models: `llm`'s id -> what `GemModel.from_pretrained` takes; None is the default."""
    return {NAME: None, **registered()}


@click.group(name=NAME)
def commands() -> None:
    """Models of gem-rag beside the bundled one."""


@commands.command()
@click.argument("model")
@click.option("--as", "name", help="What to call it; its last part where nothing is said.")
def register(model: str, name: str | None) -> None:
    """Let llm know a checkpoint, a folder or a hub id: `llm -m gem-rag/NAME`."""
    folder = Path(model).expanduser()
    kept = str(folder.resolve()) if folder.is_dir() else model
    called = f"{NAME}/{name or Path(kept).name}"
    _file().write_text(json.dumps({**registered(), called: kept}, indent=2), encoding="utf-8")
    click.echo(f"{called} is {kept}")


@commands.command()
@click.argument("name")
def forget(name: str) -> None:
    """Take a registered model out of llm's list; the model itself stays."""
    held = registered()
    if name not in held:
        known = ", ".join(held) or "none"
        raise click.ClickException(f"no registered model {name!r}; there are: {known}")
    del held[name]
    _file().write_text(json.dumps(held, indent=2), encoding="utf-8")


@commands.command(name="list")
def list_models() -> None:
    """What is known, and where it is."""
    for name, model in known_models().items():
        click.echo(f"{name}: {model or 'the bundled default'}")
