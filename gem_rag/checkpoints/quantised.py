"""A base whose linear layers are int8 or int4: made once, kept in the cache folder.

``quantised/<weights hash>-<format>/``: plain numbers and scales, and beside them what is not
quantised, as the base has it. The base's own folder is never written to: its files are its
identity, and may not be ours. A cache that cannot be written costs time only.
"""

from __future__ import annotations

import logging
import shutil
from collections.abc import Callable, Container, Iterator
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from gem_rag.checkpoints.base import load_floats
from gem_rag.checkpoints.embedded import converted
from gem_rag.compute.formats import computed_in, is_available, require_available
from gem_rag.compute.quantised import GROUP, INT8_INPUTS, Codes, layer_of
from gem_rag.compute.replaced import Part
from gem_rag.files import atomic_dir, cache_dir
from gem_rag.progress import quiet_transformers, status

if TYPE_CHECKING:
    from transformers import PreTrainedModel

log = logging.getLogger(__name__)
FILE = "model.safetensors"
# Raised when the rounding changes; what an older version made is then made again.
ROUNDING_VERSION = "1"
# torch's int4 kernel takes outputs by so many.
INT4_OUTPUTS = 16

PREFIX = "quantised/"  # of tensors that are parts of codes: ``quantised/scales/<layer>``

Tensors = dict[str, Tensor]


def load_quantised(
    folder: Path, weights: str, name: str, device: torch.device, floats: Callable[[], Any]
) -> tuple[PreTrainedModel, bool]:
    """A base's model, its linear layers' weights in a quantised format, and whether they are
    exactly the base's: those that were int4 once, in the same blocks, are.

    Args:
        folder: The base's.
        weights: Hash of its weights.
        name: ``int8`` or ``int4``.
        device: Where to.
        floats: Loads the base as it is stored, where it was not quantised before.

    Raises:
        OptionError: The format has no kernel there; those that have are named.
    """
    require_available(name, device)
    dtype = computed_in(name, device)
    tensors, exact = _read(weights, name)
    model = None if tensors is None else _skeleton(folder, tensors, dtype)
    if model is None or tensors is None:
        model = floats()
        tensors, exact = _quantised(model, name)
        _keep(_place(weights, name), tensors, exact)
    _install(model, tensors, device, dtype)
    for parameter in model.parameters():  # and no buffers: rounded frequencies are other positions
        parameter.data = parameter.data.to(dtype)
    return model.to(device), exact


def exact_file(folder: Path, weights: str, device: torch.device) -> Path | None:
    """Where int4 weights are kept that are known to be a base's exactly: of the embedded base, and
    of any that was found to be so when it was loaded in int4. None where there are none, where
    there is no kernel, or where they would be made at each start because they cannot be kept.

    Args:
        folder: The base's.
        weights: Hash of its weights.
        device: Where the base is computed.
    """
    if device.type != "cpu" or not is_available("int4", device):
        return None
    kept = kept_file(weights, "int4")
    if kept is None and folder == converted():
        _make(_place(weights, "int4"), folder)
        kept = kept_file(weights, "int4")
    return kept[0] if kept is not None and kept[1] else None


def exact_codes(folder: Path, weights: str, device: torch.device) -> dict[str, Codes]:
    """The codes in `exact_file`, by module, mapped into memory; none where there is none."""
    if exact_file(folder, weights, device) is None:
        return {}
    tensors, _ = _read(weights, "int4")
    return {} if tensors is None else dict(_all_codes(tensors))


def _make(kept: Path, folder: Path) -> None:
    """A base's int4 weights, made only where there is a place to keep them."""
    try:
        with atomic_dir(kept) as fresh:
            size = sum(file.stat().st_size for file in folder.glob("*.safetensors"))
            if shutil.disk_usage(fresh).free < size:
                raise OSError(f"less than {size} bytes are free")
            _write(fresh, *_quantised(load_floats(folder), "int4"))
    except OSError as error:
        log.info("few rows are not computed in int4 (%s): its weights cannot be kept", error)


def _place(weights: str, name: str) -> Path:
    return cache_dir() / "quantised" / f"{weights}-{name}"


def _quantised(model: Any, name: str) -> tuple[Tensors, bool]:
    """Codes of every linear layer, and what is not one, as it is; whether the codes are exact (of
    the head's nothing is embedded)."""
    head = model.get_output_embeddings()
    tensors: Tensors = dict(model.state_dict())
    exact = True
    # Not inference mode: a backward pass through the layers keeps their scales.
    with status(f"making {name} weights (once)"), torch.no_grad():
        for layer, module in model.named_modules():
            if type(module) is nn.Linear and module.in_features % INT8_INPUTS == 0:
                codes = Codes.of(module.weight, _kind(module, name, is_head=module is head))
                exact &= module is head or codes.are(module.weight)
                del tensors[f"{layer}.weight"]
                tensors |= {f"{PREFIX}{part}/{layer}": t for part, t in codes.parts().items()}
    return tensors, exact


def _kind(module: nn.Linear, name: str, *, is_head: bool) -> str:
    """int8 where int4 cannot be, and for the head: its rows are the words that are told apart."""
    fits = module.in_features % GROUP == 0 and module.out_features % INT4_OUTPUTS == 0
    return name if fits and not is_head else "int8"


def _install(model: Any, tensors: Tensors, device: torch.device, dtype: torch.dtype) -> None:
    """Put the quantised layers where the model's own were."""
    table = model.get_input_embeddings().weight
    for layer, codes in _all_codes(tensors):
        module = model.get_submodule(layer)
        bias = None if module.bias is None else module.bias.detach().to(device, dtype)
        # The embedding's weight stays what it is, for looking up, where the head shares it.
        shared = table if module.weight is table else None
        part = Part(layer_of(codes.to(device, dtype), bias), slice(None), module, shared)
        owner, _, leaf = layer.rpartition(".")
        setattr(model.get_submodule(owner), leaf, part)


def codes_in(names: Container[str], tensor: Callable[[str], Tensor], layer: str) -> Codes | None:
    """A layer's codes among what was kept; None where it is not quantised.

    Args:
        names: Of all that was kept.
        tensor: One of these by its name.
        layer: The module's name.
    """
    stored = {part: f"{PREFIX}{part}/{layer}" for part in Codes.PARTS}
    if stored["codes"] not in names:
        return None
    return Codes(**{part: tensor(name) for part, name in stored.items() if name in names})


def _all_codes(tensors: Tensors) -> Iterator[tuple[str, Codes]]:
    """All codes among what was kept, by module."""
    start = f"{PREFIX}codes/"
    for layer in [name.removeprefix(start) for name in tensors if name.startswith(start)]:
        codes = codes_in(tensors, tensors.__getitem__, layer)
        assert codes is not None
        yield layer, codes


def kept_file(weights: str, name: str) -> tuple[Path, bool] | None:
    """Where a base's weights in a quantised format are kept, and whether they are exactly the
    base's; None if they are not there, or were made by an older version.

    Args:
        weights: Hash of the base's weights.
        name: ``int8`` or ``int4``.
    """
    from safetensors import SafetensorError, safe_open

    file = _place(weights, name) / FILE
    try:
        with safe_open(file, framework="pt") as opened:
            facts = opened.metadata() or {}
    except (OSError, SafetensorError):
        return None
    if facts.get("rounding") != ROUNDING_VERSION:
        return None
    return file, facts.get("exact") == str(True)


def _keep(kept: Path, tensors: Tensors, exact: bool) -> None:
    try:
        with atomic_dir(kept) as fresh:
            _write(fresh, tensors, exact)
    except OSError as error:
        log.info("the rounded weights are not kept (%s): they are made again next time", error)


def _write(fresh: Path, tensors: Tensors, exact: bool) -> None:
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    # What is tied stands once, by its first name, as which it is tied again.
    places = {t.data_ptr(): name for name, t in reversed(tensors.items())}
    whole = {name: tensors[name].contiguous() for name in places.values()}
    facts = {"rounding": ROUNDING_VERSION, "exact": str(exact)}
    try:
        save_file(whole, fresh / FILE, facts)
    except SafetensorError as error:  # a full disk, say
        raise OSError(str(error)) from error


def _skeleton(folder: Path, tensors: Tensors, dtype: torch.dtype) -> Any | None:
    """The model with all but its linear layers' weights; None where that is not whole."""
    from transformers import AutoConfig, AutoModelForCausalLM, GenerationConfig

    config = AutoConfig.from_pretrained(folder, trust_remote_code=False)
    with quiet_transformers(), torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config, dtype=dtype, trust_remote_code=False)
    with suppress(OSError):  # not every base has one
        model.generation_config = GenerationConfig.from_pretrained(folder)
    for name, module in list(model.named_modules()):
        if any(b.is_meta for b in module.buffers(recurse=False)):
            if not name.endswith("rotary_emb"):  # its frequencies follow from the config
                return None
            owner, _, leaf = name.rpartition(".")
            fresh = type(module)(config=model.config.get_text_config())
            setattr(model.get_submodule(owner), leaf, fresh)
    own = {name: t for name, t in tensors.items() if not name.startswith(PREFIX)}
    model.load_state_dict(own, strict=False, assign=True)
    model.tie_weights()
    quantised = {f"{n.removeprefix(f'{PREFIX}codes/')}.weight" for n in tensors.keys() - own}
    there = dict(model.named_parameters()) | dict(model.named_buffers())
    return None if any(t.is_meta for n, t in there.items() if n not in quantised) else model.eval()


def _read(weights: str, name: str) -> tuple[Tensors | None, bool]:
    """What was kept, mapped into memory, and whether it is exact; None if nothing was, or it is
    damaged."""
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    kept = kept_file(weights, name)
    if kept is None:
        return None, False
    file, exact = kept
    try:
        return load_file(file), exact
    except (OSError, SafetensorError):
        return None, False
