"""Tiny random models of many families and a tokenizer trained on the spot: no network."""

from __future__ import annotations

from pathlib import Path

import torch

from gem_rag.compute.quantised import Codes
from gem_rag.model import GemModel

TEXTS = [
    "The kettle has a warranty of seven years.",
    "Rivers run to the sea.",
    "",
    "naïve café 🙂 in winter, and a long letter about steam engines. " * 4,
    "Who wrote it?",
]

WORDS = (
    "The kettle has a warranty of seven years. Rivers run to the sea, naïve café 🙂 in winter.\n"
    "Who wrote the long letter about steam engines? A young child is riding a grey horse! "
)
TEMPLATE = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
SMALL = {
    "vocab_size": 400,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 1024,
    "bos_token_id": 0,
    "eos_token_id": 1,
    "pad_token_id": 1,
}
FAMILIES = ["llama", "mistral", "qwen2", "qwen3", "gemma2", "gemma3", "phi3", "smollm3", "gpt_neox"]


def save_tokenizer(folder: Path, *, template: bool = True) -> None:
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=SMALL["vocab_size"],
        special_tokens=["<|im_start|>", "<|im_end|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator([WORDS] * 4, trainer)
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token="<|im_start|>",
        eos_token="<|im_end|>",
        pad_token="<|im_end|>",
    )
    if template:
        fast.chat_template = TEMPLATE
    fast.save_pretrained(folder)


def tiny_config(family: str):
    import transformers as tf

    window = {"sliding_window": 8}
    mixed = {"layer_types": ["sliding_attention", "full_attention"], **window}
    makers = {
        "llama": lambda: tf.LlamaConfig(**SMALL),
        "gpt_neox": lambda: tf.GPTNeoXConfig(**SMALL),
        "mistral": lambda: tf.MistralConfig(**SMALL, **window),
        "qwen2": lambda: tf.Qwen2Config(**SMALL),
        "qwen3": lambda: tf.Qwen3Config(**SMALL, head_dim=8),
        "gemma2": lambda: tf.Gemma2Config(**SMALL, **mixed, head_dim=8, query_pre_attn_scalar=8),
        "gemma3": lambda: tf.Gemma3TextConfig(
            **SMALL, **mixed, head_dim=8, query_pre_attn_scalar=8
        ),
        "phi3": lambda: tf.Phi3Config(**SMALL),
        "smollm3": lambda: tf.SmolLM3Config(**SMALL),
        "gpt2": lambda: tf.GPT2Config(n_embd=32, n_layer=2, n_head=4, vocab_size=400),
    }
    return makers[family]()


def make_base(folder: Path, family: str = "llama", *, template: bool = True, **sizes: int) -> Path:
    from transformers import AutoModelForCausalLM

    torch.manual_seed(0)
    config = tiny_config(family)
    config.update(sizes)
    config.initializer_range = 0.2  # distinct outputs from two layers
    model = AutoModelForCausalLM.from_config(config)
    model.generation_config.eos_token_id = 1
    model.save_pretrained(folder)
    save_tokenizer(folder, template=template)
    return folder


def make_four_bits(folder: Path, family: str = "llama") -> Path:
    """A base whose weights were 4 bits once, as those out of a GGUF file of Q4_1."""
    from safetensors.torch import load_file, save_file

    file = make_base(folder, family) / "model.safetensors"
    tensors = load_file(file)
    for name, weight in tensors.items():
        if name.endswith("_proj.weight"):
            tensors[name] = Codes.of(weight, "int4").dense()
    save_file(tensors, file, {"format": "pt"})
    return folder


def same_numbers(one, other) -> bool:
    """Whether two readings hold the same keys and values."""
    pairs = zip(one.key_values, other.key_values, strict=True)
    return all(torch.equal(k0, k1) and torch.equal(v0, v1) for (k0, v0), (k1, v1) in pairs)


def disturb(model: GemModel, size: float = 0.05) -> GemModel:
    """Give the adapter weights that do something, as training would."""
    from gem_rag.checkpoints.fingerprint import seal

    torch.manual_seed(1)
    with torch.no_grad():
        for parameter in model.parts.parameters():
            parameter.add_(torch.randn_like(parameter) * size)
            parameter.copy_(parameter.half().float())
    seal(model.parts)
    return model
