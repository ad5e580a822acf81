"""Checkpoint folders to a model's parts, and parts to folders."""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from gem_rag.checkpoints import outlines
from gem_rag.checkpoints.base import (
    chosen_device,
    chosen_dtype,
    load_base,
    load_floats,
    load_tokenizer,
)
from gem_rag.checkpoints.card import CARD, default_card
from gem_rag.checkpoints.embedded import embedded_base
from gem_rag.checkpoints.fingerprint import seal, token_tensors, weights_hash
from gem_rag.checkpoints.names import EMBEDDED_BASE, OWN_BASE, resolve_base
from gem_rag.checkpoints.quantised import exact_codes, load_quantised
from gem_rag.checkpoints.skills import SKILLS, load_skills, write_skill
from gem_rag.compute.base import Base
from gem_rag.compute.decoder import Decoder
from gem_rag.compute.formats import BOTH, QUANTISED
from gem_rag.compute.parts import Forward, Parts
from gem_rag.config import CONFIG_FILE, AdapterConfig, BaseIdentity, GemConfig
from gem_rag.errors import CheckpointError
from gem_rag.files import atomic_dir
from gem_rag.text.codec import TextCodec

if TYPE_CHECKING:
    from transformers import PreTrainedModel

ROUNDS = (
    "int4 rounds {}'s weights, which were not 4 bits before: what that costs was not measured for "
    "it (gem-rag eval --dtype int4 does); int8 stays nearer"
)
ADAPTER_WEIGHTS = "adapter_model.safetensors"
TOKEN_VECTORS = "special_tokens.safetensors"


def load_parts(
    folder: Path, *, device: str = "auto", dtype: str = "auto", forward: Forward = "auto"
) -> Parts:
    """Load a checkpoint folder and its base, or the folder of a base alone, which does not embed.

    Raises:
        CheckpointError: A file is missing or damaged, or the base is not the recorded one.
    """
    if is_base(folder):
        return _base_parts(folder, device, dtype, forward)
    config = GemConfig.from_folder(folder)
    own = config.base.name == OWN_BASE
    base_folder = folder / OWN_BASE if own else resolve_base(config.base.name, config.base.revision)
    found = weights_hash(base_folder)
    if found != config.base.weights and config.base.name == EMBEDDED_BASE:
        found = weights_hash(embedded_base(verify=True))  # converts it again if it is damaged
    if found != config.base.weights:
        raise CheckpointError(
            f"checkpoint {folder.name} was made for base {config.base.name} with weights "
            f"{config.base.weights[:12]}, but {base_folder} has weights {found[:12]}; use the base "
            "it was made for, or train a checkpoint for this one"
        )
    dtype = chosen_dtype(dtype, chosen_device(device))
    base, codec, decoder = _ready(base_folder, found, device, dtype, forward)
    parts = Parts(base, codec, config)
    _load_weights(parts, folder)
    parts.skills = load_skills(parts, folder)
    _choose_forward(parts, base_folder, forward, decoder)
    parts.path = folder
    return seal(parts)


def is_base(folder: Path) -> bool:
    """Whether a folder holds a plain model and no checkpoint."""
    return (folder / "config.json").exists() and not (folder / CONFIG_FILE).exists()


def _base_parts(folder: Path, device: str, dtype: str, forward: Forward) -> Parts:
    name = chosen_dtype(dtype, chosen_device(device))
    identity = BaseIdentity(str(folder), weights_hash(folder))
    base, codec, decoder = _ready(folder, identity.weights, device, name, forward)
    none = AdapterConfig(rank=0)
    parts = _untrained(base, codec, identity, 0, decoder, num_special_tokens=1, adapter=none)
    _choose_forward(parts, folder, forward, decoder)
    parts.embeds, parts.path = False, folder
    return seal(parts)


def _ready(
    folder: Path, weights: str, device: str, dtype: str, forward: Forward
) -> tuple[Base, TextCodec, Decoder | None]:
    """A base to run: without transformers, where an outline of it is kept."""
    ready = None
    if forward == "auto":
        ready = outlines.read(folder, weights, dtype, chosen_device(device))
    if ready is None:
        return *_load(folder, weights, device, dtype), None
    _warn_of_rounding(ready.base, folder)
    return ready


def _choose_forward(parts: Parts, folder: Path, forward: Forward, decoder: Decoder | None) -> None:
    if decoder is not None:
        parts.take(decoder)
        return
    parts.choose_forward(forward, keep_weights=False)
    if forward == "auto":
        outlines.keep(parts, folder)


def new_parts(
    base: str | Path,
    *,
    revision: str | None = None,
    device: str = "auto",
    dtype: str = "auto",
    forward: Forward = "auto",
    keep_weights: bool = True,
    seed: int = 0,
    prepare: Callable[[PreTrainedModel], object] | None = None,
    **settings: Any,
) -> Parts:
    """New, untrained parts over a base: the adapter changes nothing yet.

    Args:
        base: ``embedded:smollm2-135m-instruct``, a folder or a hub id.
        revision: Hub revision.
        device: As for `GemModel.from_pretrained`.
        dtype: A torch dtype's name; ``auto`` is float32 on a CPU, for training.
        forward: Likewise.
        keep_weights: Let the base keep its own weights, so that it can be trained through.
        seed: Of the adapter's and token vectors' start.
        prepare: Called with the base in the CPU's memory, before it goes to the device.
        **settings: Fields of `GemConfig`.
    """
    folder = resolve_base(base, revision)
    identity = BaseIdentity(str(base), weights_hash(folder), revision)
    loaded, codec = _load(folder, identity.weights, device, dtype, keep_weights, prepare)
    parts = _untrained(loaded, codec, identity, seed, **settings)
    parts.choose_forward(forward, keep_weights=keep_weights)
    return seal(parts)


def _untrained(
    base: Base,
    codec: TextCodec,
    identity: BaseIdentity,
    seed: int,
    decoder: Decoder | None = None,
    **settings: Any,
) -> Parts:
    text, ids = codec.preamble()
    config = GemConfig(base=identity, preamble=text, preamble_ids=tuple(ids), **settings)
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(seed)
        parts = Parts(base, codec, config)
        if decoder is not None:
            parts.take(decoder)
        _start_token_vectors(parts)
    return parts


def _load(
    folder: Path,
    weights: str,
    device: str,
    dtype: str,
    floats: bool = False,
    prepare: Callable[[PreTrainedModel], object] | None = None,
) -> tuple[Base, TextCodec]:
    """A base in any number format; `floats`: in one that it can be trained in."""
    where = chosen_device(device)
    if floats or dtype not in QUANTISED:
        codes = exact_codes(folder, weights, where) if dtype == BOTH and not floats else {}
        model, tokenizer = load_base(folder, device=device, dtype=dtype, prepare=prepare)
        return Base(model, BOTH if codes else None, codes=codes), TextCodec(tokenizer)
    model, exact = load_quantised(folder, weights, dtype, where, partial(load_floats, folder))
    base = Base(model, dtype, rounded=not exact)
    _warn_of_rounding(base, folder)
    return base, TextCodec(load_tokenizer(folder))


def _warn_of_rounding(base: Base, folder: Path) -> None:
    if base.number_format == "int4" and base.rounded:
        warnings.warn(ROUNDS.format(folder.name), stacklevel=5)


def _start_token_vectors(parts: Parts) -> None:
    """Special tokens start as the average word, each a little different."""
    rows = parts.base.facts.table_rows
    sample = torch.randint(rows, (min(4096, rows),))
    words = parts.embed_tokens(sample.to(parts.base.device)).float()
    noise = torch.randn(parts.special_vectors.shape).to(words.device)
    with torch.no_grad():
        parts.special_vectors.copy_(words.mean(0) + noise * words.std(0))


def _load_weights(parts: Parts, folder: Path) -> None:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        tensors = load_file(folder / TOKEN_VECTORS)
        vectors = tensors["special_tokens"]
        _require_shape("special_tokens", vectors, tuple(parts.special_vectors.shape), folder)
        with torch.no_grad():
            parts.special_vectors.copy_(vectors)
        if "whitening" in tensors:
            whitening = tensors["whitening"].float().to(parts.base.device)
            _require_shape("whitening", whitening, (parts.dim, whitening.shape[-1]), folder)
            parts.whitening = whitening
        if parts.config.adapter.rank:
            parts.adapter.load_peft(load_file(folder / ADAPTER_WEIGHTS))
    except (FileNotFoundError, KeyError, SafetensorError) as error:
        raise CheckpointError(
            f"{folder} is no whole GEM checkpoint: {error}; copy or fetch it again"
        ) from error


def _require_shape(name: str, found: torch.Tensor, shape: tuple[int, ...], folder: Path) -> None:
    if found.shape != shape:
        raise CheckpointError(
            f"{folder / TOKEN_VECTORS} has {name} of shape {tuple(found.shape)}; the config and "
            f"base need {shape}"
        )


def save(parts: Parts, folder: Path, *, card: str | None = None, with_base: bool = False) -> Path:
    """Write a checkpoint folder; what stood there is replaced only when all is written.

    Args:
        parts: The model's.
        folder: Where: a new folder, an empty one, or a checkpoint, which is replaced.
        card: Markdown of the model card; None writes a short one.
        with_base: Write the base's weights as well, and make them the checkpoint's base: for a
            base that was trained. The model takes on that identity.

    Raises:
        CheckpointError: The folder holds something else, which would be lost.
    """
    from safetensors.torch import save as to_bytes

    parts.require_embeds()
    if holds_something_else(folder):
        raise CheckpointError(
            f"{folder} holds files and no checkpoint; choose a new folder, what is there would be "
            "replaced"
        )
    if with_base and parts.base.number_format in QUANTISED:
        raise CheckpointError(
            f"the base was rounded to {parts.base.number_format} and is not saved as its own: load "
            "it with dtype='float32' or 'bfloat16', or save without the base"
        )
    with atomic_dir(folder) as fresh:
        if with_base:
            parts.base.model.save_pretrained(fresh / OWN_BASE)
            parts.codec.tokenizer.save_pretrained(str(fresh / OWN_BASE))
            identity = BaseIdentity(OWN_BASE, weights_hash(fresh / OWN_BASE))
            parts.config = dataclasses.replace(parts.config, base=identity)
            seal(parts)
        (fresh / CONFIG_FILE).write_text(parts.config.to_json(), encoding="utf-8")
        (fresh / TOKEN_VECTORS).write_bytes(to_bytes(token_tensors(parts)))
        if parts.config.adapter.rank:
            (fresh / ADAPTER_WEIGHTS).write_bytes(to_bytes(parts.adapter.to_peft()))
            _write_peft_config(parts, fresh)
        for name, skill in parts.skills.items():
            own = fresh / SKILLS / name
            own.mkdir(parents=True)
            write_skill(skill, own)
        (fresh / CARD).write_text(card or default_card(parts.config), encoding="utf-8")
    return folder


def holds_something_else(folder: Path) -> bool:
    """Whether a path is taken by something that is no checkpoint."""
    if not folder.is_dir():
        return folder.exists()
    return any(folder.iterdir()) and not (folder / CONFIG_FILE).exists()


def _write_peft_config(parts: Parts, folder: Path) -> None:
    from peft import LoraConfig

    depth = parts.config.embed_layers
    LoraConfig(
        r=parts.config.adapter.rank,
        lora_alpha=parts.config.adapter.alpha,
        target_modules=parts.adapter.target_modules,
        layers_to_transform=None if depth is None else list(range(depth)),
        base_model_name_or_path=parts.config.base.name,
        task_type="CAUSAL_LM",
        inference_mode=True,
    ).save_pretrained(str(folder))
