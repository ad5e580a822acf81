"""The trainer: new GEM checkpoints from any Hugging Face decoder."""

from gem_rag_train.config import TrainConfig
from gem_rag_train.trainer import train

__all__ = ["TrainConfig", "train"]
