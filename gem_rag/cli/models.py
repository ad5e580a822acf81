"""Commands about models: pull, info."""

from __future__ import annotations

import dataclasses
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from rich.markup import escape

from gem_rag.cli.console import Dtype, IndexDir, Json, Model, load_model, out, print_json, size

if TYPE_CHECKING:
    from gem_rag.model import GemModel


def pull(as_json: Json = False) -> None:
    """Fetch and convert the default model ahead of time."""
    from gem_rag.checkpoints.embedded import NAME, embedded_base
    from gem_rag.checkpoints.folder import load_parts
    from gem_rag.files import open_to_readers

    folder = embedded_base()
    with suppress(PermissionError):  # another user's
        open_to_readers(folder)  # older ones were for who had made them alone
    load_parts(folder)  # keeps what it finds out: who loads the model may not be allowed to write
    taken = sum(f.stat().st_size for f in folder.iterdir())
    if as_json:
        print_json({"model": NAME, "path": str(folder), "bytes": taken})
    else:
        out.print(f"{NAME} is ready: {size(taken)} in {escape(str(folder))}")


def info(
    index: IndexDir = None, model: Model = None, dtype: Dtype = "auto", as_json: Json = False
) -> None:
    """Show the model, its fingerprint and memory, and an index."""
    gem = load_model(model, dtype)
    facts: dict[str, Any] = {"model": model_facts(gem)}
    if index is not None:
        from gem_rag.index.address import open_index

        with open_index(index, create=False) as opened:
            facts["index"] = dataclasses.asdict(opened.info())
    facts["engine"] = dataclasses.asdict(gem.engine.stats())
    if as_json:
        print_json(facts)
        return
    for part, values in facts.items():
        out.print(f"[bold]{part}[/bold]")
        for name, value in values.items():
            shown = size(value) if name.endswith("bytes") else escape(str(value))
            out.print(f"  {name:<16} {shown}")


def model_facts(model: GemModel) -> dict[str, Any]:
    """What `info` shows of a model."""
    c = model.config
    return {
        "checkpoint": str(model.path),
        "base": c.base.name,
        "fingerprint": model.fingerprint,
        "dimensions": model.dim,
        "special_tokens": c.num_special_tokens,
        "embed_layers": model.parts.embed_layers,
        "scope": c.adapter_scope,
        "context_window": model.max_context,
        "device": str(model.base.device),
        "dtype": model.base.number_format,
        "forward": model.parts.forward_note,
        "weights_bytes": model.parts.weights_bytes,
        "skills": {n: s.config.task for n, s in sorted(model.parts.skills.items())},
        "adapter_bytes": sum(p.nbytes for p in model.parts.parameters()),
    }
