"""What LlamaIndex users call things by other names."""

from __future__ import annotations

from gem_rag.engine.options import ALIASES as GENERATION

# Fields of `GemLLM`: LlamaIndex calls the longest answer `max_tokens`.
GENERATING = {
    **{name: own for name, own in GENERATION.items() if own != "max_new_tokens"},
    **{name: "max_tokens" for name, own in GENERATION.items() if own == "max_new_tokens"},
    "max_new_tokens": "max_tokens",
}
del GENERATING["max_tokens"]
RETRIEVING = {
    "filter": "filters",
    "k": "similarity_top_k",
    "top_k": "similarity_top_k",
    "top_n": "similarity_top_k",
    "similarity_cutoff": "cutoff",
}
RERANKING = {"k": "top_n", "top_k": "top_n", "similarity_cutoff": "cutoff"}
