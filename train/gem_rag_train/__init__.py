"""The trainer: new GEM checkpoints from any Hugging Face decoder."""

from gem_rag_train.loop.skill import TrainedSkill, train_skill
from gem_rag_train.loop.trainer import train
from gem_rag_train.recipes.config import TrainConfig
from gem_rag_train.recipes.skill import SkillTraining

__all__ = ["SkillTraining", "TrainConfig", "TrainedSkill", "train", "train_skill"]
