"""Export form: what of a checkpoint other runtimes can express, and its tokens in a vocabulary."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from gem_rag.checkpoints.folder import holds_something_else, load_parts
from gem_rag.checkpoints.names import resolve
from gem_rag.compute.parts import Parts
from gem_rag.config import CONFIG_FILE, GemConfig
from gem_rag.errors import CheckpointError, UnsupportedModelError

EXPORTED = "smollm2-135m-instruct-export"  # what is exported where no other is named


@dataclass(frozen=True)
class ExportForm:
    """A checkpoint in export form, and where its special tokens are in the base's vocabulary.

    Attributes:
        name: What it was loaded by, for the card.
        parts: Its parts, of float32, on transformers' modules.
        rows: Rows of the embedding matrix, unused by the base, that hold the token vectors.
        names: The special tokens as text.
        tokenizer: The base's tokenizer with these names, as JSON.
    """

    name: str
    parts: Parts
    rows: tuple[int, ...]
    names: tuple[str, ...]
    tokenizer: dict[str, Any]

    @property
    def adapted(self) -> bool:
        """Whether its grade is the adapter's: else token vectors are all there is."""
        return self.parts.config.adapter.rank > 0

    @property
    def document_prompt(self) -> str:
        """What is read before a document."""
        return self.parts.config.preamble

    @property
    def query_prompt(self) -> str:
        """What is read before a query."""
        return self.parts.config.preamble + self.parts.config.query_prefix

    @property
    def ending(self) -> str:
        """What is read after a text: the special tokens."""
        return "".join(self.names)

    @property
    def longest(self) -> int:
        """Tokens of a document that the checkpoint reads, with all that stands around it."""
        c = self.parts.config
        around = len(c.preamble_ids) + c.num_special_tokens
        return min(c.max_text_tokens + around, self.parts.base.max_context)

    def embedding(self) -> Tensor:
        """The base's embedding matrix ``[vocab, hidden]``, float32, the token vectors in it."""
        base = self.parts.base
        weight: Tensor = base.model.get_input_embeddings().weight.detach().float().clone()
        first = torch.zeros(1, dtype=torch.long, device=weight.device)
        scale = (
            base.embed_tokens(first).norm() / weight[0].norm()
        )  # some bases scale what they read
        weight[list(self.rows)] = self.parts.special_vectors.detach().float() / scale
        return weight


def load_export_form(model: str | Path | None) -> ExportForm:
    """A checkpoint to export, by bundled name, folder or hub id; None is the one made for it.

    Raises:
        CheckpointError: It is not in export form.
        UnsupportedModelError: The base has no unused row for its special tokens.
    """
    name = str(model or EXPORTED)
    folder = resolve(name)
    if (folder / CONFIG_FILE).exists():
        _require_export_form(name, GemConfig.from_folder(folder))
    parts = load_parts(folder, device="cpu", dtype="float32", forward="transformers")
    parts.require_embeds()
    if parts.whitening.shape[1]:
        raise CheckpointError(_refusal(name, ["whitens queries"]))
    rows = _unused_rows(parts)
    names = tuple(f"<|gem_{i + 1}|>" for i in range(len(rows)))
    form = ExportForm(name, parts, rows, names, _named(parts, rows, names))
    _require_prompts(form)
    return form


def require_free(out: Path, mark: str) -> None:
    """Refuse a folder that holds something else than an earlier export.

    Args:
        out: Where the export goes.
        mark: A file that every export of this kind has.
    """
    if holds_something_else(out) and not (out / mark).exists():
        raise CheckpointError(
            f"{out} holds files and no export; choose a new folder, what is there would be replaced"
        )


def _require_export_form(name: str, config: GemConfig) -> None:
    c = config
    found = []
    if c.num_special_tokens > 1 and c.pooling != "last":
        found.append(f"has {c.num_special_tokens} special tokens with pooling {c.pooling!r}")
    if c.adapter_scope != "tokens":
        found.append(f"has an adapter of scope {c.adapter_scope!r}")
    after = {
        "query_instruction": c.query_instruction,
        "document_instruction": c.document_instruction,
    }
    found += [f"reads the {name} {words!r} after a text" for name, words in after.items() if words]
    if c.embed_layers is not None:
        found.append(f"embeds with {c.embed_layers} layers of its base")
    if found:
        raise CheckpointError(_refusal(name, found))


def _refusal(name: str, found: list[str]) -> str:
    return (
        f"{name} is not in export form: it {', '.join(found)}; expected scope 'tokens', one vector "
        "by the last token, words before a text alone, no whitening. Export "
        f"{EXPORTED!r}, or train one with the recipe `export`: `gem-rag train export --set "
        "base=... --set output=...`"
    )


def _unused_rows(parts: Parts) -> tuple[int, ...]:
    """Rows of the embedding matrix that no text and no template of the base's leads to."""
    count = parts.config.num_special_tokens
    tokenizer = parts.codec.tokenizer
    rows = range(len(tokenizer), parts.base.vocabulary)  # padding of the matrix
    if len(rows) >= count:
        return tuple(rows[:count])
    added = parts.codec.backend.get_added_tokens_decoder()
    used = {*parts.end_ids, *parts.config.preamble_ids}
    template = str(tokenizer.chat_template or "")
    named = set(tokenizer.special_tokens_map.values()) if tokenizer.special_tokens_map else set()
    spare = [
        i
        for i, token in sorted(added.items())
        if token.special and token.content not in template
        if i not in used and token.content not in named
    ]
    if len(spare) < count:
        raise UnsupportedModelError(
            f"{parts.config.base.name} has {len(spare)} unused rows in its vocabulary; expected "
            f"{count}, one for each special token"
        )
    return tuple(spare[-count:])


def _named(parts: Parts, rows: tuple[int, ...], names: tuple[str, ...]) -> dict[str, Any]:
    """The base's tokenizer in which these rows have these names."""
    tokenizer: dict[str, Any] = json.loads(parts.codec.serialized())
    vocabulary = tokenizer["model"]["vocab"]
    of_row = dict(zip(rows, names, strict=True))
    for word in [word for word, row in vocabulary.items() if row in of_row]:
        row = vocabulary.pop(word)
        vocabulary[of_row[row]] = row
    kept = [token for token in tokenizer["added_tokens"] if token["id"] not in of_row]
    plain = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
    new = [{"id": row, "content": name, **plain, "special": True} for row, name in of_row.items()]
    tokenizer["added_tokens"] = sorted([*kept, *new], key=lambda token: int(token["id"]))
    return tokenizer


def _require_prompts(form: ExportForm) -> None:
    """The prompts' text must say what the checkpoint reads: other runtimes know text alone."""
    codec, config = form.parts.codec, form.parts.config
    wanted = [*config.preamble_ids, *codec.encode(config.query_prefix)]
    found = codec.encode(form.query_prompt)
    if found != wanted or codec.encode(form.document_prompt) != list(config.preamble_ids):
        raise CheckpointError(
            f"{form.name}: preamble and query_prefix {form.query_prompt!r} are other tokens as one "
            "text than apart; end query_prefix with a line break"
        )


def as_float32(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Weights of their own memory, float32 on the CPU, as files of them need."""
    return {name: t.detach().to(torch.float32).cpu().clone() for name, t in tensors.items()}
