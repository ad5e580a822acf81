"""What was found out about a base, kept so that the next process starts without transformers.

``outlines/<key>/``: facts and outline as JSON, and the tokenizer's own. The weights are those in
the base's folder (or in ``quantised/``); nothing of them is copied. The key holds all that an
outline depends on, so what is there is never changed.
"""

from __future__ import annotations

import hashlib
import json
import logging
from dataclasses import asdict
from functools import partial
from importlib.metadata import version
from pathlib import Path
from threading import RLock
from typing import TYPE_CHECKING, Any, NamedTuple

import torch

from gem_rag.checkpoints.base import load_floats, load_tokenizer
from gem_rag.checkpoints.quantised import exact_file, kept_file, load_quantised
from gem_rag.checkpoints.tensors import Files
from gem_rag.compute.base import Base, Unloaded
from gem_rag.compute.decoder import Decoder, lend
from gem_rag.compute.facts import Facts, Rotary, fixed_rotary
from gem_rag.compute.formats import BOTH, FORMATS, QUANTISED, computed_in, require_available
from gem_rag.compute.outline import BlockOutline, Gain, Outline
from gem_rag.compute.parts import Parts
from gem_rag.files import atomic_dir, cache_dir
from gem_rag.text.codec import TextCodec
from gem_rag.text.kept import KeptTokenizer

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

log = logging.getLogger(__name__)
_loading = RLock()  # modules of a base that was made without
# Raised when what is kept, or what is made of it, changes.
OUTLINE_VERSION = "2"
OUTLINE, TOKENIZER = "outline.json", "tokenizer.json"
CHECKED_POSITIONS = 64
CONVERSATION = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": 'One <b>&</b> "two"\nlines?'},
    {"role": "assistant", "content": " Yes. "},
    {"role": "user", "content": "\u00e9 \u6f22"},
]
TOOLS = [
    {
        "type": "function",
        "function": {
            "name": "look_up",
            "description": "Looks a word up: \u00e9, <b>.",
            "parameters": {"type": "object", "properties": {"word": {"type": "string"}}},
        },
    }
]


class Ready(NamedTuple):
    """What a kept outline makes of a base's folder."""

    base: Base
    codec: TextCodec
    decoder: Decoder


def read(folder: Path, weights: str, name: str, device: torch.device) -> Ready | None:
    """A base that runs on our forward, made without its modules; None where nothing is kept of it.

    Args:
        folder: The base's.
        weights: Hash of its weights.
        name: The number format.
        device: Where to.

    Raises:
        OptionError: The format has no kernel there; those that have are named.
    """
    from safetensors import SafetensorError

    kept = _place(folder, weights)
    if name not in FORMATS or not (kept / OUTLINE).exists():
        return None
    require_available(name, device)
    quantised = kept_file(weights, name) if name in QUANTISED else None
    if name in QUANTISED and quantised is None:
        return None
    files = [quantised[0]] if quantised else sorted(folder.glob("*.safetensors"))
    exact = exact_file(folder, weights, device) if name == BOTH else None
    dtype = computed_in(name, device)
    try:
        data = json.loads((kept / OUTLINE).read_text(encoding="utf-8"))
        outline, facts = _outline(data["outline"]), _facts(data["facts"])
        rotary = Rotary(
            {k: torch.tensor(f, device=device) for k, f in data["frequencies"].items()},
            facts.turned_by,
        )
        load = partial(_load_model, folder, weights, name, device)
        base = Base(
            Unloaded(facts, rotary, dtype, device, load, _loading),
            name if quantised or exact else None,
            rounded=quantised is not None and not quantised[1],
        )
        with torch.no_grad():
            decoder = Decoder(outline, Files(files, dtype, device, exact), rotary)
        tokenizer = KeptTokenizer(
            serialized=(kept / TOKENIZER).read_text(encoding="utf-8"),
            load=partial(load_tokenizer, folder),
            **data["tokenizer"],
        )
        codec = TextCodec(tokenizer)
    except (OSError, KeyError, TypeError, ValueError, SafetensorError) as error:
        log.info("what was kept of %s in %s cannot be used: %s", folder.name, kept, error)
        return None
    base.once_loaded(partial(lend, decoder))
    return Ready(base, codec, decoder)


def keep(parts: Parts, folder: Path) -> None:
    """Keep what was found out about a base, if all of it can be made again from its files alone.

    Args:
        parts: Over the loaded base, running on our forward.
        folder: The base's.
    """
    from safetensors import SafetensorError

    if parts.decoder is None:
        return
    rotary = fixed_rotary(parts.base.model, parts.base.facts)
    tokenizer = KeptTokenizer.of(
        parts.codec.tokenizer, parts.codec.serialized(), partial(load_tokenizer, folder)
    )
    try:
        with torch.no_grad():
            why = (
                _other_positions(parts.base, rotary)
                or _other_words(parts.codec.tokenizer, tokenizer)
                or _other_weights(parts.base, parts.decoder.outline, folder)
            )
    except (OSError, RuntimeError, AttributeError, SafetensorError) as error:
        why = str(error)  # the model is loaded: nothing that is kept is worth losing it
    if why or rotary is None:
        log.info("no outline of %s is kept: %s", folder.name, why)
        return
    told = asdict(tokenizer)
    serialized = told.pop("serialized")
    del told["load"]
    data = {
        "facts": asdict(parts.base.facts),
        "outline": asdict(parts.decoder.outline),
        "frequencies": {k: f.cpu().tolist() for k, f in rotary.frequencies.items()},
        "tokenizer": told,
    }
    try:
        with atomic_dir(_place(folder, parts.config.base.weights)) as fresh:
            (fresh / TOKENIZER).write_text(serialized, encoding="utf-8")
            (fresh / OUTLINE).write_text(json.dumps(data), encoding="utf-8")
    except (OSError, TypeError) as error:
        log.info("no outline of %s is kept: %s", folder.name, error)


def _place(folder: Path, weights: str) -> Path:
    """By all that an outline depends on: the weights, the files beside them, and whose code read
    them."""
    digest = hashlib.sha256(f"{OUTLINE_VERSION} {version('transformers')} {weights}".encode())
    for file in sorted(folder.iterdir()):
        if file.is_file() and file.suffix in (".json", ".jinja", ".txt", ".model"):
            digest.update(f"{file.name} {file.stat().st_size}\n".encode() + file.read_bytes())
    return cache_dir() / "outlines" / digest.hexdigest()


def _load_model(folder: Path, weights: str, name: str, device: torch.device) -> PreTrainedModel:
    if name in QUANTISED:
        return load_quantised(folder, weights, name, device, partial(load_floats, folder))[0]
    model: Any = load_floats(folder, computed_in(name, device))
    placed: PreTrainedModel = model.to(device)
    return placed


def _other_positions(base: Base, rotary: Rotary | None) -> str:
    """How fixed frequencies differ from the model's own positions; empty if they do not."""
    if rotary is None:
        return "its positions change with the text's length"
    x = torch.zeros(1, device=base.device, dtype=base.dtype)
    last = base.max_context - 1
    at = torch.tensor([[*range(min(CHECKED_POSITIONS, last)), last]], device=base.device)
    for kind in base.facts.turned_by:
        named = [kind] if kind else []
        for ours, theirs in zip(rotary(x, at, *named), base.rotary(x, at, *named), strict=True):
            if not torch.equal(ours, theirs):
                return "its positions are not those of its frequencies"
    return ""


def _other_words(theirs: PreTrainedTokenizerBase, ours: KeptTokenizer) -> str:
    """How the template reads otherwise without transformers; empty if it does not."""
    if not ours.chat_template:
        return ""
    if not isinstance(ours.chat_template, str):
        return "it has several chat templates"
    tried = 0
    for messages, tools in ((CONVERSATION, None), (CONVERSATION[1:2], None), (CONVERSATION, TOOLS)):
        given: dict[str, Any] = {"tools": tools, "tokenize": False, "add_generation_prompt": True}
        try:
            expected = theirs.apply_chat_template(messages, **given)
        except Exception:  # some refuse a system message, each in its own way
            continue
        try:
            found = ours.apply_chat_template(messages, **given)
        except Exception as error:  # what stands in a template may do anything
            return f"its chat template needs transformers: {error}"
        if found != expected:
            return "its chat template reads otherwise"
        tried += 1
    return "" if tried else "its chat template could not be tried"


def _other_weights(base: Base, outline: Outline, folder: Path) -> str:
    """How what its files hold differs from the model's parameters; empty if it does not."""
    files = Files(sorted(folder.glob("*.safetensors")), base.dtype, base.device)
    layers = [*outline.linears, *([] if outline.tied else [outline.head])]
    biased = [name for name in layers if base.model.get_submodule(name).bias is not None]
    if {name for name in layers if f"{name}.bias" in files} != set(biased):
        return "it has other biases than its files"
    names = [outline.table, *outline.gains, *(f"{name}.bias" for name in biased)]
    if base.number_format not in QUANTISED:  # those are kept by the names of the model's layers
        names += [f"{name}.weight" for name in layers]
    for name in names:
        module, _, leaf = name.rpartition(".")
        own = getattr(base.model.get_submodule(module), leaf)
        if name not in files or not torch.equal(files.tensor(name), own):
            return f"{name} is not that of its files"
    return ""


def _facts(data: dict[str, Any]) -> Facts:
    fixed = {
        "layer_types": tuple(data["layer_types"]),
        "end_ids": tuple(data["end_ids"]),
        "linears": {name: (int(w), int(o)) for name, (w, o) in data["linears"].items()},
    }
    return Facts(**(data | fixed))


def _outline(data: dict[str, Any]) -> Outline:
    fixed = {
        "norm": Gain(**data["norm"]),
        "rotary_kinds": tuple(data["rotary_kinds"]),
        "blocks": tuple(map(_block, data["blocks"])),
    }
    return Outline(**(data | fixed))


def _block(data: dict[str, Any]) -> BlockOutline:
    first, second, third, fourth = (gain and Gain(**gain) for gain in data["norms"])
    heads = data["head_norms"]
    return BlockOutline(
        kind=data["kind"],
        rotary=data["rotary"],
        norms=(first, second, third, fourth),
        head_norms=None if heads is None else (Gain(**heads[0]), Gain(**heads[1])),
        parts={f: [(name, int(out)) for name, out in own] for f, own in data["parts"].items()},
    )
