"""Checkpoints: names to files, loading and saving, and who is who (fingerprints)."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import threading
import weakref
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from gem_rag.base import Base
from gem_rag.config import CONFIG_FILE, BaseIdentity, GemConfig
from gem_rag.errors import CheckpointError
from gem_rag.fetch import atomic_dir, atomic_write, cache_dir
from gem_rag.progress import quiet_transformers
from gem_rag.text import TextCodec

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from gem_rag.model import GemModel

DEFAULT = "smollm2-135m-instruct"
EMBEDDED_BASE = "embedded:smollm2-135m-instruct"
BUNDLED = Path(__file__).parent / "checkpoints"
RULES_VERSION = 1  # raised when reading, masking or pooling change what vectors mean

ADAPTER_WEIGHTS = "adapter_model.safetensors"
ADAPTER_CONFIG = "adapter_config.json"
TOKEN_VECTORS = "special_tokens.safetensors"
CARD = "README.md"
OWN_BASE = "./base"  # name of a base whose trained weights are in the checkpoint's own folder
_HUB_FILES = ["*.safetensors", "*.json", "*.jinja", "tokenizer*", "*.model", "README.md"]

_shared: weakref.WeakValueDictionary[tuple[str, int, str, str], GemModel]
_shared = weakref.WeakValueDictionary()
_shared_lock = threading.Lock()


def bundled_names() -> list[str]:
    """Names of the checkpoints that come with the package."""
    return sorted(path.parent.name for path in BUNDLED.glob(f"*/{CONFIG_FILE}"))


def resolve(name_or_path: str | Path | None, revision: str | None = None) -> Path:
    """A bundled name, local folder or hub id as a local folder.

    Raises:
        CheckpointError: Nothing by that name; the message says where was looked.
    """
    if name_or_path is None:
        name_or_path = DEFAULT
    bundled = BUNDLED / str(name_or_path)
    if str(name_or_path) in bundled_names():
        return bundled
    folder = Path(name_or_path).expanduser()
    if folder.is_dir():
        return folder.resolve()
    return _from_hub(str(name_or_path), revision)


def resolve_base(name_or_path: str | Path, revision: str | None = None) -> Path:
    """A base model's name as a local folder: the embedded one, a folder, or a hub id."""
    if str(name_or_path) in (EMBEDDED_BASE, DEFAULT):
        from gem_rag.embedded import embedded_base

        return embedded_base()
    folder = Path(name_or_path).expanduser()
    if folder.is_dir():
        return folder.resolve()
    return _from_hub(str(name_or_path), revision)


def _from_hub(name: str, revision: str | None) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    try:
        found = snapshot_download(name, revision=revision, allow_patterns=_HUB_FILES)
    except (HFValidationError, HfHubHTTPError, LocalEntryNotFoundError, OSError) as error:
        raise CheckpointError(
            f"no model {name!r}: it is no folder, none of the bundled {bundled_names()}, and the "
            f"hub did not give it ({type(error).__name__}); check the name, folder or network"
        ) from error
    return Path(found)


def load_shared(
    name_or_path: str | Path | None, *, device: str, dtype: str, revision: str | None
) -> GemModel:
    """`load`, but one object per checkpoint, device and dtype in a process, while it is in use."""
    folder = resolve(name_or_path, revision)
    where, what = _device(device), str(dtype).removeprefix("torch.")
    if what == "auto" and where.type == "cpu":
        what = "float32"
    # A checkpoint that was trained on and saved again is another one.
    written = max((f.stat().st_mtime_ns for f in folder.iterdir()), default=0)
    key = (str(folder), written, str(where), what)
    with _shared_lock:
        model = _shared.get(key)
        if model is None:
            model = load(folder, device=device, dtype=dtype)
            _shared[key] = model
    return model


def as_model(model: str | Path | GemModel | None, **options: Any) -> GemModel:
    """A loaded model as it is, or the shared one of a name; for what takes either."""
    from gem_rag.model import GemModel

    return model if isinstance(model, GemModel) else GemModel.from_pretrained(model, **options)


def name_of(model: GemModel) -> str:
    """What a loaded model can be loaded by again: bundled name, or folder.

    A model that was made here and never saved goes by its base's name.
    """
    if model.path is None:
        return model.config.base.name
    return model.path.name if model.path.parent == BUNDLED else str(model.path)


def load(folder: Path, *, device: str = "auto", dtype: str = "auto") -> GemModel:
    """Load a checkpoint folder and its base.

    Raises:
        CheckpointError: A file is missing or damaged, or the base is not the recorded one.
    """
    from gem_rag.model import GemModel

    config = GemConfig.from_folder(folder)
    own = config.base.name == OWN_BASE
    base_folder = folder / OWN_BASE if own else resolve_base(config.base.name, config.base.revision)
    found = weights_hash(base_folder)
    if found != config.base.weights and config.base.name == EMBEDDED_BASE:
        from gem_rag.embedded import embedded_base

        found = weights_hash(embedded_base(verify=True))  # converts it again if it is damaged
    if found != config.base.weights:
        raise CheckpointError(
            f"checkpoint {folder.name} was made for base {config.base.name} with weights "
            f"{config.base.weights[:12]}, but {base_folder} has weights {found[:12]}; use the base "
            "it was made for, or train a checkpoint for this one"
        )
    model, tokenizer = load_base(base_folder, device=device, dtype=dtype)
    gem = GemModel(Base(model), TextCodec(tokenizer), config)
    _load_weights(gem, folder)
    gem.path = folder
    return seal(gem)


def create(
    base: str | Path,
    *,
    revision: str | None = None,
    device: str = "auto",
    dtype: str = "auto",
    seed: int = 0,
    prepare: Callable[[PreTrainedModel], object] | None = None,
    **settings: Any,
) -> GemModel:
    """A new, untrained GEM model over a base: the adapter changes nothing yet.

    Args:
        base: ``embedded:smollm2-135m-instruct``, a folder or a hub id.
        revision: Hub revision.
        device: As for `GemModel.from_pretrained`.
        dtype: Likewise.
        seed: Of the adapter's and token vectors' start.
        prepare: Called with the base in the CPU's memory, before it goes to the device.
        **settings: Fields of `GemConfig`.
    """
    from gem_rag.model import GemModel

    folder = resolve_base(base, revision)
    identity = BaseIdentity(str(base), weights_hash(folder), revision)
    model, tokenizer = load_base(folder, device=device, dtype=dtype, prepare=prepare)
    codec = TextCodec(tokenizer)
    text, ids = codec.preamble()
    config = GemConfig(base=identity, preamble=text, preamble_ids=tuple(ids), **settings)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        gem = GemModel(Base(model), codec, config)
        _start_token_vectors(gem)
    return seal(gem)


def _start_token_vectors(gem: GemModel) -> None:
    """Special tokens start as the average word, each a little different."""
    vocabulary = gem.base.model.get_input_embeddings().weight.shape[0]
    sample = torch.randint(vocabulary, (min(4096, int(vocabulary)),))
    words = gem.base.embed_tokens(sample.to(gem.base.device)).float()
    noise = torch.randn(gem.special_vectors.shape).to(words.device)
    with torch.no_grad():
        gem.special_vectors.copy_(words.mean(0) + noise * words.std(0))


def seal(gem: GemModel) -> GemModel:
    """Compute the fingerprints; call again after the weights changed."""
    c = gem.config
    reading = [
        f"rules {RULES_VERSION}",
        c.base.weights,
        _digest(gem.codec.serialized().encode()),
        str(c.preamble_ids),
    ]
    own = hashlib.sha256()
    for _, tensor in sorted(gem.adapter.to_peft().items()):
        own.update(tensor.numpy().tobytes())
    for tensor in _token_tensors(gem).values():
        own.update(tensor.numpy().tobytes())
    adapted = own.hexdigest() if c.adapter_scope != "tokens" else ""
    adapter = (c.adapter.rank, c.adapter.alpha, *filter(None, [c.adapter.targets]))
    rules: tuple[object, ...] = (c.num_special_tokens, c.pooling, c.adapter_scope, adapter)
    if c.embed_layers is not None:  # older checkpoints keep their fingerprints
        rules = (*rules, f"first {c.embed_layers} layers")
    words = (c.query_instruction, c.document_instruction)
    gem.reading_fingerprint = _digest("\n".join([*reading, adapted]).encode())
    gem.fingerprint = _digest("\n".join([*reading, own.hexdigest(), repr((rules, words))]).encode())
    return gem


def _token_tensors(gem: GemModel) -> dict[str, torch.Tensor]:
    """What `TOKEN_VECTORS` holds, float16: ``[K, hidden]``, and ``[d, r]`` where r is not 0."""
    tensors = {"special_tokens": gem.special_vectors.detach()}
    if gem.whitening.shape[1]:
        tensors["whitening"] = gem.whitening
    return {name: tensor.half().cpu().contiguous() for name, tensor in tensors.items()}


def load_base(
    folder: Path,
    *,
    device: str = "auto",
    dtype: str = "auto",
    prepare: Callable[[PreTrainedModel], object] | None = None,
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """The base model and tokenizer in a folder; safetensors only, no code from the folder."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    where = _device(device)
    if dtype == "auto":
        chosen: Any = torch.float32 if where.type == "cpu" else "auto"
    else:
        chosen = getattr(torch, str(dtype).removeprefix("torch."), None)
        if not isinstance(chosen, torch.dtype):
            raise ValueError(f"dtype is {dtype!r}; expected 'auto', 'float32', 'bfloat16', ...")
    try:
        with quiet_transformers():
            tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
            model = AutoModelForCausalLM.from_pretrained(
                folder, dtype=chosen, use_safetensors=True, trust_remote_code=False
            )
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{folder} holds no base model that loads: {error}") from error
    if prepare is not None:
        prepare(model)
    placed: Any = model
    return placed.to(where), tokenizer


def _device(device: str) -> torch.device:
    if device != "auto":
        return torch.device(device)
    if torch.cuda.is_available():
        return torch.device("cuda")
    return torch.device("mps" if torch.backends.mps.is_available() else "cpu")


def _load_weights(gem: GemModel, folder: Path) -> None:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        tensors = load_file(folder / TOKEN_VECTORS)
        vectors = tensors["special_tokens"]
        _require_shape("special_tokens", vectors, tuple(gem.special_vectors.shape), folder)
        with torch.no_grad():
            gem.special_vectors.copy_(vectors)
        if "whitening" in tensors:
            whitening = tensors["whitening"].float().to(gem.base.device)
            _require_shape("whitening", whitening, (gem.dim, whitening.shape[-1]), folder)
            gem.whitening = whitening
        if gem.config.adapter.rank:
            gem.adapter.load_peft(load_file(folder / ADAPTER_WEIGHTS))
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


def save(gem: GemModel, folder: Path, *, card: str | None = None, with_base: bool = False) -> Path:
    """Write a checkpoint folder; what stood there is replaced only when all is written.

    Args:
        gem: The model.
        folder: Where: a new folder, an empty one, or a checkpoint, which is replaced.
        card: Markdown of the model card; None writes a short one.
        with_base: Write the base's weights as well, and make them the checkpoint's base: for a
            base that was trained. The model takes on that identity.

    Raises:
        CheckpointError: The folder holds something else, which would be lost.
    """
    from safetensors.torch import save as to_bytes

    if holds_something_else(folder):
        raise CheckpointError(
            f"{folder} holds files and no checkpoint; choose a new folder, what is there would be "
            "replaced"
        )
    with atomic_dir(folder) as fresh:
        if with_base:
            gem.base.model.save_pretrained(fresh / OWN_BASE)
            gem.codec.tokenizer.save_pretrained(str(fresh / OWN_BASE))
            identity = BaseIdentity(OWN_BASE, weights_hash(fresh / OWN_BASE))
            gem.config = dataclasses.replace(gem.config, base=identity)
            seal(gem)
        (fresh / CONFIG_FILE).write_text(gem.config.to_json(), encoding="utf-8")
        (fresh / TOKEN_VECTORS).write_bytes(to_bytes(_token_tensors(gem)))
        if gem.config.adapter.rank:
            (fresh / ADAPTER_WEIGHTS).write_bytes(to_bytes(gem.adapter.to_peft()))
            _write_peft_config(gem, fresh)
        (fresh / CARD).write_text(card or default_card(gem), encoding="utf-8")
    return folder


def holds_something_else(folder: Path) -> bool:
    """Whether a path is taken by something that is no checkpoint."""
    if not folder.is_dir():
        return folder.exists()
    return any(folder.iterdir()) and not (folder / CONFIG_FILE).exists()


def _write_peft_config(gem: GemModel, folder: Path) -> None:
    from peft import LoraConfig

    depth = gem.config.embed_layers
    LoraConfig(
        r=gem.config.adapter.rank,
        lora_alpha=gem.config.adapter.alpha,
        target_modules=gem.adapter.target_modules,
        layers_to_transform=None if depth is None else list(range(depth)),
        base_model_name_or_path=gem.config.base.name,
        task_type="CAUSAL_LM",
        inference_mode=True,
    ).save_pretrained(str(folder))


def public_name(name: str) -> str:
    """A base's or checkpoint's name for a card: of a folder of the maker's, its last part."""
    folder = Path(name).expanduser() if name else None
    return folder.name if folder and folder.is_dir() else name


def default_card(gem: GemModel) -> str:
    """A model card that says how the checkpoint is to be used."""
    c = gem.config
    return (
        "---\nlibrary_name: gem-rag\ntags: [gem, rag, embeddings]\n---\n\n"
        f"# GEM checkpoint for {public_name(c.base.name)}\n\n"
        f"{c.num_special_tokens} special tokens, {c.pooling} pooling, adapter scope "
        f"`{c.adapter_scope}`. Use it through `gem_rag.GemModel.from_pretrained`: the adapter is "
        "stored in PEFT's format, but plain PEFT would apply it at every position, which is not "
        "what it was trained for.\n"
    )


def weights_hash(folder: Path) -> str:
    """sha256 over the tensors of a folder's safetensors, however they are split into files.

    Hashed once and remembered by size and modification time.

    Raises:
        CheckpointError: The folder has no safetensors.
    """
    files = sorted(folder.glob("*.safetensors"))
    if not files:
        raise CheckpointError(
            f"{folder} has no .safetensors weights; convert it (pickled weights are not read)"
        )
    stats = [(str(f.resolve()), f.stat().st_size, f.stat().st_mtime_ns) for f in files]
    key = _digest(json.dumps(stats).encode())
    memory = cache_dir() / "weights-hashes" / key
    try:
        remembered = memory.read_text(encoding="ascii").strip()
        if len(remembered) == 64:
            return remembered
    except OSError:
        pass
    digest = _hash_tensors(files)
    with suppress(OSError):  # a cache that may only be read costs time, not the model
        atomic_write(memory, digest)
    return digest


def _hash_tensors(files: list[Path]) -> str:
    entries = []
    for file in files:
        with file.open("rb") as f:
            size = int.from_bytes(f.read(8), "little")
            header = json.loads(f.read(size))
        for name, info in header.items():
            if name != "__metadata__":
                entries.append((name, info, file, 8 + size))
    digest = hashlib.sha256()
    for name, info, file, offset in sorted(entries, key=lambda e: e[0]):
        start, end = info["data_offsets"]
        digest.update(f"{name} {info['dtype']} {info['shape']}\n".encode())
        with file.open("rb") as f:
            f.seek(offset + start, os.SEEK_SET)
            left = end - start
            while left:
                chunk = f.read(min(left, 1 << 22))
                if not chunk:
                    raise CheckpointError(f"{file} is cut short; fetch it again")
                digest.update(chunk)
                left -= len(chunk)
    return digest.hexdigest()


def _digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
