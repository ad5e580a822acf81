"""GemModel: one set of weights that reads once, and embeds, ranks and answers."""

from gem_rag.compute.ranker import Ranked
from gem_rag.compute.reading import Reading
from gem_rag.model.gem_model import GemModel, load
from gem_rag.model.named import LOADING, Model, as_model, create, name_of

__all__ = [
    "LOADING",
    "GemModel",
    "Model",
    "Ranked",
    "Reading",
    "as_model",
    "create",
    "load",
    "name_of",
]
