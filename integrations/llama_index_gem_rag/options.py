"""What LlamaIndex users call things by other names."""

from __future__ import annotations

RETRIEVING = {
    "filter": "filters",
    "k": "similarity_top_k",
    "top_k": "similarity_top_k",
    "top_n": "similarity_top_k",
    "similarity_cutoff": "cutoff",
}
RERANKING = {"k": "top_n", "top_k": "top_n", "similarity_cutoff": "cutoff"}
