"""A checkpoint for llama.cpp: a GGUF base with the token vectors, and an aLoRA adapter over it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from gem_rag.checkpoints.card import CARD
from gem_rag.checkpoints.export.form import ExportForm, load_export_form, require_free
from gem_rag.checkpoints.export.peft import write_peft
from gem_rag.checkpoints.names import public_name
from gem_rag.errors import CheckpointError, UnsupportedModelError
from gem_rag.files import atomic_dir

OutType = Literal["f32", "f16", "bf16", "q8_0"]
ADAPTER, PEFT = "adapter.gguf", "peft"
ARCHITECTURE = "llama"
FAMILIES = ("llama", "mistral")  # whose decoders llama.cpp runs as its "llama"
BYTE_LEVEL = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True}
DIGITS = {"type": "Digits", "individual_digits": True}
LAYERS = {
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}


def export_gguf(out: Path, model: str | Path | None = None, outtype: OutType = "f16") -> Path:
    """Write ``base-OUTTYPE.gguf`` and, where there is an adapter, ``adapter.gguf`` and ``peft``.

    The base embeds with the token vectors in unused rows of its vocabulary; its output head stays
    the base's own, so that chat is. The card has the exact command.

    Args:
        out: A new or empty folder, or an earlier export, which is replaced.
        model: Bundled name, folder or hub id of a checkpoint; None is the one made for it.
        outtype: Number format of the base's matrices; the adapter's is float32.

    Returns:
        The folder.

    Raises:
        CheckpointError: The checkpoint is not in export form, or the folder holds something else.
        UnsupportedModelError: The base is none that this writes.
    """
    if outtype not in get_args(OutType):
        raise ValueError(f"outtype is {outtype!r}; expected one of {get_args(OutType)}")
    require_free(out, CARD)
    form = load_export_form(model)
    _require_family(form)
    _require_two_tokens(form)
    with atomic_dir(out) as fresh:
        base = fresh / f"base-{outtype}.gguf"
        _write_base(form, base, outtype)
        if form.adapted:
            write_peft(form, fresh / PEFT)
            _write_adapter(form, fresh / ADAPTER)
        (fresh / CARD).write_text(_card(form, out.name, base.name), encoding="utf-8")
    return out


def _require_family(form: ExportForm) -> None:
    config = form.parts.base.config
    rope = config.rope_parameters.get("rope_type", "default")
    if config.model_type not in FAMILIES or rope != "default":
        raise UnsupportedModelError(
            f"{form.name} has a base of the family {config.model_type!r} with positions of type "
            f"{rope!r}; expected one of {', '.join(FAMILIES)} with 'default'"
        )


def _require_two_tokens(form: ExportForm) -> None:
    if form.adapted and form.parts.config.num_special_tokens < 2:
        raise CheckpointError(
            f"{form.name} has one special token and an adapter, but llama.cpp's server switches an "
            "adapter on one token before the one that invokes it, which would be the text's last; "
            "expected two special tokens (num_special_tokens = 2, pooling = 'last', as in the "
            "recipe `export`), or no adapter"
        )


def _write_base(form: ExportForm, path: Path, outtype: OutType) -> None:
    import gguf

    base, config = form.parts.base, form.parts.base.config
    writer = gguf.GGUFWriter(path, ARCHITECTURE)
    writer.add_name(public_name(form.name))
    writer.add_file_type(_file_type(outtype))
    writer.add_context_length(base.max_context)
    writer.add_embedding_length(base.hidden_size)
    writer.add_block_count(base.num_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    width = int(config.head_dim or base.hidden_size // config.num_attention_heads)
    writer.add_key_length(width)
    writer.add_value_length(width)
    writer.add_rope_dimension_count(width)
    writer.add_rope_freq_base(float(config.rope_parameters["rope_theta"]))
    writer.add_layer_norm_rms_eps(float(config.rms_norm_eps))
    writer.add_vocab_size(base.vocabulary)
    writer.add_pooling_type(gguf.PoolingType.LAST)
    _add_tokenizer(form, writer)
    for name, weight in _base_tensors(form):
        _add(writer, name, weight, outtype)
    _finish(writer)


def _base_tensors(form: ExportForm) -> list[tuple[str, Tensor]]:
    base = form.parts.base
    head = base.model.get_output_embeddings().weight  # often the embedding matrix itself
    tensors = [("token_embd.weight", form.embedding()), ("output.weight", head)]
    tensors.append(("output_norm.weight", base.decoder.norm.weight))
    for i, block in enumerate(base.blocks):
        for ours, theirs in LAYERS.items():
            for kind, weight in block.get_submodule(ours).named_parameters():
                name = f"blk.{i}.{theirs}.{kind}"
                tensors.append((name, _in_pairs(form, ours, weight.detach())))
    return tensors


def _in_pairs(form: ExportForm, layer: str, weight: Tensor) -> Tensor:
    """Rows of queries and keys as llama.cpp rotates them: neighbours instead of halves."""
    config = form.parts.base.config
    heads = {
        "self_attn.q_proj": config.num_attention_heads,
        "self_attn.k_proj": config.num_key_value_heads,
    }.get(layer)
    if heads is None:
        return weight
    split = weight.reshape(heads, 2, -1, *weight.shape[1:])  # (heads, 2, width / 2, ...)
    return split.transpose(1, 2).reshape(weight.shape)


def _add_tokenizer(form: ExportForm, writer: Any) -> None:
    import gguf

    model, tokenizer = form.tokenizer["model"], form.parts.codec.tokenizer
    words = {row: word for word, row in model["vocab"].items()}
    words |= {token["id"]: token["content"] for token in form.tokenizer["added_tokens"]}
    control = {token["id"] for token in form.tokenizer["added_tokens"] if token["special"]}
    rows = range(form.parts.base.vocabulary)
    plain, unused = gguf.TokenType.NORMAL, gguf.TokenType.UNUSED
    kinds = [
        gguf.TokenType.CONTROL if row in control else plain if row in words else unused
        for row in rows
    ]
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(_pre_tokenizer(form))
    writer.add_token_list([words.get(row, f"[PAD{row}]") for row in rows])
    writer.add_token_types(kinds)
    writer.add_token_merges([m if isinstance(m, str) else " ".join(m) for m in model["merges"]])
    for add, row in (
        (writer.add_bos_token_id, tokenizer.bos_token_id),
        (writer.add_eos_token_id, tokenizer.eos_token_id),
        (writer.add_unk_token_id, tokenizer.unk_token_id),
        (writer.add_pad_token_id, tokenizer.pad_token_id),
    ):
        if row is not None:
            add(row)
    writer.add_add_bos_token(False)  # the template writes its own
    if tokenizer.chat_template:
        writer.add_chat_template(tokenizer.chat_template)


def _pre_tokenizer(form: ExportForm) -> str:
    found = form.tokenizer["pre_tokenizer"] or {}
    parts = found.get("pretokenizers", [found])
    if form.tokenizer["model"]["type"] == "BPE" and not form.tokenizer["normalizer"]:
        *before, last = [{k: v for k, v in p.items() if k != "use_regex"} for p in parts]
        if last == BYTE_LEVEL and not before:
            return "gpt-2"
        if last == BYTE_LEVEL and before == [DIGITS]:
            return "smollm"
    raise UnsupportedModelError(
        f"{form.name} has a tokenizer of another kind ({found.get('type')}); expected byte-level "
        "BPE. Convert the base with llama.cpp's convert_hf_to_gguf.py out of a "
        "`gem-rag export sentence-transformers` folder"
    )


def _write_adapter(form: ExportForm, path: Path) -> None:
    import gguf

    adapter, config = form.parts.adapter, form.parts.config.adapter
    writer = gguf.GGUFWriter(path, ARCHITECTURE)
    writer.add_type(gguf.GGUFType.ADAPTER)
    writer.add_string(gguf.Keys.Adapter.TYPE, "lora")
    writer.add_float32(gguf.Keys.Adapter.LORA_ALPHA, config.alpha)
    # The server switches it on one token before the invocation: at the first special token.
    writer.add_key_value(
        gguf.Keys.Adapter.ALORA_INVOCATION_TOKENS,
        list(form.rows[1:]),
        gguf.GGUFValueType.ARRAY,
        gguf.GGUFValueType.UINT32,
    )
    for i in range(form.parts.base.num_layers):
        for ours, theirs in LAYERS.items():
            if update := adapter.update_of(f"{i}.{ours}"):
                name = f"blk.{i}.{theirs}.weight"
                _add(writer, f"{name}.lora_a", update.a.detach(), "f32")
                _add(writer, f"{name}.lora_b", _in_pairs(form, ours, update.b.detach()), "f32")
    _finish(writer)


def _add(writer: Any, name: str, weight: Tensor, outtype: OutType) -> None:
    """Matrices in this format where their rows fit it; vectors always in float32."""
    import gguf

    array: NDArray[np.float32] = np.ascontiguousarray(weight.detach().float().cpu().numpy())
    kind = gguf.GGMLQuantizationType[outtype.upper() if array.ndim > 1 else "F32"]
    block, _ = gguf.GGML_QUANT_SIZES[kind]
    if array.shape[-1] % block:
        kind = gguf.GGMLQuantizationType.F16
    if kind in (gguf.GGMLQuantizationType.F32, gguf.GGMLQuantizationType.F16):
        dtype = np.float32 if kind is gguf.GGMLQuantizationType.F32 else np.float16
        writer.add_tensor(name, array.astype(dtype))
    else:
        writer.add_tensor(name, gguf.quants.quantize(array, kind), raw_dtype=kind)


def _file_type(outtype: OutType) -> int:
    import gguf

    names = {"f32": "ALL_F32"}
    return int(gguf.LlamaFileType[names.get(outtype, f"MOSTLY_{outtype.upper()}")])


def _finish(writer: Any) -> None:
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def server_command(form: ExportForm, base: str) -> str:
    """How llama.cpp's server embeds and chats out of this folder."""
    adapter = f" --lora {ADAPTER}" if form.adapted else ""
    return f"llama-server -m {base}{adapter} --embeddings --pooling last -c {form.longest}"


def _card(form: ExportForm, name: str, base: str) -> str:
    say = f'{{"input": [{_shown(form.document_prompt)[:-1]}TEXT{form.ending}"]}}'
    switched = (
        f"\n`{ADAPTER}` is an activated LoRA (`adapter.alora.invocation_tokens`): it acts from the "
        "special tokens on, and nowhere in a request without them, so that chat is the base's. "
        "Tested with llama.cpp's builds of 2026, whose server switches such an adapter on one "
        f"token before its invocation. `{PEFT}` is the same adapter as PEFT's aLoRA.\n"
        if form.adapted
        else ""
    )
    return (
        "---\nlibrary_name: gguf\ntags: [gguf, llama.cpp, embeddings, gem-rag]\n---\n\n"
        f"# {name}\n\nThe GEM checkpoint `{public_name(form.name)}` over "
        f"{public_name(form.parts.config.base.name)}, exported by gem-rag. One process embeds and "
        f"chats:\n\n```bash\n{server_command(form, base)}\n```\n\n"
        "`/v1/chat/completions` is the base's. `/v1/embeddings` gives the vectors of "
        "`gem_rag.GemModel` for texts that stand between a prompt and the special tokens, as JSON "
        f"writes them:\n\n```json\n{say}\n```\n\n"
        "| | before the text | after it |\n|---|---|---|\n"
        f"| a document | `{_shown(form.document_prompt)}` | `{form.ending}` |\n"
        f"| a query | `{_shown(form.query_prompt)}` | `{form.ending}` |\n{switched}"
    )


def _shown(text: str) -> str:
    """As it stands in JSON."""
    return json.dumps(text, ensure_ascii=False)
