"""A checkpoint as a sentence-transformers folder that loads without code of its own."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from gem_rag.checkpoints.card import CARD
from gem_rag.checkpoints.export.carried import carrying
from gem_rag.checkpoints.export.form import ExportForm, as_float32, load_export_form, require_free
from gem_rag.checkpoints.export.onnx import require_onnx, write_onnx
from gem_rag.checkpoints.names import public_name
from gem_rag.files import atomic_dir

MODULES = "modules.json"
POOLING, DENSE, NORMALIZE = "1_Pooling", "2_Dense", "3_Normalize"


def export_sentence_transformers(
    out: Path, model: str | Path | None = None, *, onnx: bool = False
) -> Path:
    """Write a folder that ``SentenceTransformer(out)`` loads, float32.

    Its prompts are ``document`` (the default one) and ``query``; its tokenizer appends the special
    tokens, whose vectors stand in unused rows of the vocabulary. An adapter is carried by wider
    MLPs (`gem_rag.checkpoints.export.carried`).

    Args:
        out: A new or empty folder, or an earlier export, which is replaced.
        model: Bundled name, folder or hub id of a checkpoint; None is the one made for it.
        onnx: Write the decoder as ONNX too (extra ``onnx``).

    Returns:
        The folder.

    Raises:
        CheckpointError: The checkpoint is not in export form, or the folder holds something else.
        UnsupportedModelError: A plain decoder cannot express its adapter.
        MissingExtraError: What writes ONNX is not there.
    """
    if onnx:
        require_onnx()
    require_free(out, MODULES)
    form = load_export_form(model)
    with atomic_dir(out) as fresh:
        _write_decoder(form, fresh)
        if onnx:
            write_onnx(fresh)
        _write_tokenizer(form, fresh)
        _write_modules(form, fresh)
        (fresh / CARD).write_text(_card(form, out.name), encoding="utf-8")
    return out


def _write_decoder(form: ExportForm, folder: Path) -> None:
    config, weights = carrying(form) if form.adapted else _plain(form)
    config.architectures = [type(form.parts.base.decoder).__name__]
    config.tie_word_embeddings = False  # there is no output head
    with torch.device("meta"):
        decoder = type(form.parts.base.decoder)(config)
    decoder.to(torch.float32)
    decoder.load_state_dict(weights, assign=True)
    decoder.save_pretrained(folder)
    rope = config.rope_parameters or {}
    if "rope_theta" in rope:  # what transformers 4 looks for
        _add(folder / "config.json", rope_theta=rope["rope_theta"])


def _plain(form: ExportForm) -> tuple[Any, dict[str, Tensor]]:
    """The base's own decoder, but for its embedding matrix."""
    decoder = form.parts.base.decoder
    weights = as_float32(decoder.state_dict())
    weights["embed_tokens.weight"] = form.embedding()
    return copy.deepcopy(decoder.config), weights


def _write_tokenizer(form: ExportForm, folder: Path) -> None:
    from tokenizers import Tokenizer
    from transformers import PreTrainedTokenizerFast

    ids = dict(zip(form.names, form.rows, strict=True))
    special = [{"SpecialToken": {"id": name, "type_id": 0}} for name in ids]
    text = {"Sequence": {"id": "A", "type_id": 0}}
    processor = {
        "type": "TemplateProcessing",
        "single": [text, *special],
        "pair": [text, {"Sequence": {"id": "B", "type_id": 1}}, *special],
        "special_tokens": {n: {"id": n, "ids": [i], "tokens": [n]} for n, i in ids.items()},
    }
    serialized = json.dumps(form.tokenizer | {"post_processor": processor})
    own = form.parts.codec.tokenizer
    # No chat template: with one, sentence-transformers takes texts for messages.
    PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer.from_str(serialized),
        model_max_length=form.longest,
        padding_side="right",
        bos_token=own.bos_token,
        eos_token=own.eos_token,
        pad_token=own.pad_token or own.eos_token,
        unk_token=own.unk_token,
    ).save_pretrained(folder)
    _add(folder / "tokenizer_config.json", tokenizer_class="PreTrainedTokenizerFast")  # 4 and 5


def _write_modules(form: ExportForm, folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    wide, narrow = int(config["hidden_size"]), form.parts.dim
    modules = [("", "Transformer"), (POOLING, "Pooling"), (NORMALIZE, "Normalize")]
    if wide != narrow:
        modules.insert(2, (DENSE, "Dense"))
        _write_cut(folder / DENSE, wide, narrow)
    listed = [
        {"idx": i, "name": str(i), "path": path, "type": f"sentence_transformers.models.{kind}"}
        for i, (path, kind) in enumerate(modules)
    ]
    _write(folder / MODULES, listed)
    _write(
        folder / "sentence_bert_config.json",
        {"max_seq_length": form.longest, "do_lower_case": False},
    )
    pooling = {"word_embedding_dimension": wide, "pooling_mode_lasttoken": True}
    others = ("cls_token", "mean_tokens", "max_tokens", "mean_sqrt_len_tokens")
    off = {f"pooling_mode_{name}": False for name in others}
    _write(folder / POOLING / "config.json", pooling | off | {"include_prompt": True})
    (folder / NORMALIZE).mkdir()
    prompts = {"document": form.document_prompt, "query": form.query_prompt}
    _write(
        folder / "config_sentence_transformers.json",
        {"prompts": prompts, "default_prompt_name": "document", "similarity_fn_name": "cosine"},
    )


def _write_cut(folder: Path, wide: int, narrow: int) -> None:
    """A layer that leaves out what the carrying decoder's stream is wider by."""
    from safetensors.torch import save

    activation = "torch.nn.modules.linear.Identity"
    facts = {"in_features": wide, "out_features": narrow, "bias": False}
    _write(folder / "config.json", facts | {"activation_function": activation})
    (folder / "model.safetensors").write_bytes(save({"linear.weight": torch.eye(narrow, wide)}))


def _add(path: Path, **values: object) -> None:
    """Further values in a file of JSON."""
    _write(path, json.loads(path.read_text(encoding="utf-8")) | values)


def _write(path: Path, value: object) -> None:
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8")


def _card(form: ExportForm, name: str) -> str:
    base = public_name(form.parts.config.base.name)
    carried = (
        "The MLPs are twice as wide as the base's: their second half holds the adapter and acts at "
        "the special tokens alone. Its gates are shut by very large weights: load it in float32 or "
        "bfloat16, not in float16.\n\n"
        if form.adapted
        else ""
    )
    return (
        "---\nlibrary_name: sentence-transformers\npipeline_tag: sentence-similarity\n"
        "tags: [sentence-transformers, gem-rag]\n---\n\n"
        f"# {name}\n\nThe GEM checkpoint `{public_name(form.name)}` over {base}, exported by "
        "gem-rag: the same vectors as `gem_rag.GemModel` gives.\n\n```python\n"
        "from sentence_transformers import SentenceTransformer\n\n"
        f'model = SentenceTransformer("{name}")\n'
        'passages = model.encode_document(["The kettle has a warranty of seven years."])\n'
        'question = model.encode_query("How long is the warranty?")\n'
        "model.similarity(question, passages)\n```\n\n"
        f"{carried}`encode` without a prompt's name takes a text for a document. Texts are up to "
        f"{form.longest} tokens long, the prompt among them. Control tokens in a text, such as "
        "`<|im_end|>`, are taken for what they say, which `GemModel` does not do.\n"
    )
