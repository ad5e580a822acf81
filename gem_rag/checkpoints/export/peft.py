"""A checkpoint's adapter as PEFT's aLoRA: what converters for other runtimes start from."""

from __future__ import annotations

import json
from pathlib import Path

from gem_rag.checkpoints.export.form import ExportForm
from gem_rag.checkpoints.fingerprint import token_tensors
from gem_rag.checkpoints.folder import ADAPTER_WEIGHTS, TOKEN_VECTORS


def write_peft(form: ExportForm, folder: Path) -> None:
    """Adapter, tokenizer with the special tokens' names, and their vectors in a file beside it.

    In PEFT (`PeftModelForCausalLM`) the adapter acts from the first special token on, over a base
    in whose rows `alora_invocation_tokens` the vectors of `special_tokens.safetensors` stand.

    Args:
        form: The checkpoint.
        folder: A new one.
    """
    from peft import LoraConfig
    from safetensors.torch import save

    folder.mkdir()
    c = form.parts.config
    LoraConfig(
        r=c.adapter.rank,
        lora_alpha=c.adapter.alpha,
        target_modules=form.parts.adapter.target_modules,
        alora_invocation_tokens=list(form.rows),
        base_model_name_or_path=c.base.name,
        task_type="CAUSAL_LM",
        inference_mode=True,
    ).save_pretrained(str(folder))
    (folder / ADAPTER_WEIGHTS).write_bytes(save(form.parts.adapter.to_peft()))
    (folder / TOKEN_VECTORS).write_bytes(save(token_tensors(form.parts)))
    (folder / "tokenizer.json").write_text(json.dumps(form.tokenizer), encoding="utf-8")
