"""The command that writes a checkpoint for other runtimes."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer
from rich.markup import escape

from gem_rag.cli.console import Json, Model, out, print_json, size
from gem_rag.errors import GemError


def export(
    target: Annotated[
        Literal["sentence-transformers", "gguf"], typer.Argument(help="What loads it.")
    ],
    folder: Annotated[Path, typer.Argument(metavar="OUT", help="A new folder to write.")],
    model: Model = None,
    outtype: Annotated[
        Literal["f32", "f16", "bf16", "q8_0"] | None,
        typer.Option("--outtype", help="Number format of a GGUF base; f16 without it."),
    ] = None,
    onnx: Annotated[
        bool, typer.Option("--onnx", help="ONNX beside sentence-transformers' weights.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Write a checkpoint for sentence-transformers or llama.cpp."""
    from gem_rag.checkpoints.export.gguf import export_gguf
    from gem_rag.checkpoints.export.sentence_transformers import export_sentence_transformers

    if target == "gguf":
        if onnx:
            raise GemError("--onnx is of sentence-transformers alone; gguf has no such files")
        export_gguf(folder, model, outtype or "f16")
    elif outtype is not None:
        raise GemError(f"--outtype {outtype} is of gguf alone; sentence-transformers gets float32")
    else:
        export_sentence_transformers(folder, model, onnx=onnx)
    files = {
        str(path.relative_to(folder)): path.stat().st_size
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }
    if as_json:
        print_json({"target": target, "path": str(folder), "files": files})
        return
    for name, taken in files.items():
        out.print(f"  {escape(name):<44} {size(taken)}")
    out.print(f"written: {escape(str(folder))}; its README.md says how to use it")
