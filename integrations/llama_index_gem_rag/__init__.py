"""LlamaIndex classes over one loaded GEM model (completed by a later version)."""
