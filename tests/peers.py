"""The runtimes that exports are made for, as their users start them."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor


def llama_server(folder: Path, context: int = 1024):
    """llama.cpp's server inside this process, as the card's command starts it."""
    xllamacpp = pytest.importorskip("xllamacpp", reason="needs xllamacpp, of the extra dev")
    params = xllamacpp.CommonParams()
    params.model.path = str(next(folder.glob("base-*.gguf")))
    if (folder / "adapter.gguf").exists():
        adapter = xllamacpp.CommonAdapterLoraInfo()
        adapter.path, adapter.scale = str(folder / "adapter.gguf"), 1.0
        params.lora_adapters = [adapter]
    params.embedding = True
    params.pooling_type = xllamacpp.llama_pooling_type.LLAMA_POOLING_TYPE_LAST
    params.n_ctx, params.n_parallel, params.verbosity, params.warmup = context, 1, 0, False
    threads = torch.get_num_threads()
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = threads
    return xllamacpp.Server(params)


def llama_vectors(server, before: str, texts: list[str], after: str) -> Tensor:
    """What the server's endpoint /v1/embeddings gives."""
    found = server.handle_embeddings({"input": [f"{before}{text}{after}" for text in texts]})
    return torch.tensor([row["embedding"] for row in found["data"]])


def llama_chat(server, question: str, tokens: int) -> str:
    """What /v1/chat/completions answers, greedily."""
    request = {
        "messages": [{"role": "user", "content": question}],
        "max_tokens": tokens,
        "temperature": 0,
    }
    answer: str = server.handle_chat_completions(request)["choices"][0]["message"]["content"]
    return answer


def cosines(one, other) -> Tensor:
    """Of rows of unit vectors."""
    return (torch.as_tensor(one) * torch.as_tensor(other)).sum(1)
