"""The trainer: new GEM checkpoints from any Hugging Face decoder."""

from gem_rag_train.loop.trainer import train
from gem_rag_train.recipes.config import TrainConfig

__all__ = ["TrainConfig", "train"]
