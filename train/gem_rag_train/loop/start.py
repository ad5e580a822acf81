"""What a run starts from: its model, its batches, and the rows of its next-token loss."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import torch
from transformers import PreTrainedModel

from gem_rag.checkpoints.fingerprint import seal
from gem_rag.config import AdapterConfig
from gem_rag.errors import GemError
from gem_rag.model import GemModel, create
from gem_rag_train.data.files import UserData, hold_out, load_files
from gem_rag_train.data.mix import TrainingMix
from gem_rag_train.data.pairs import Pair
from gem_rag_train.objectives.language import FROM_FILES, LanguageRows
from gem_rag_train.recipes.config import TrainConfig

Prepare = Callable[[PreTrainedModel], object]

# Tasks whose pairs are a question and its passage.
ASKING = ("clozes", "headings", "labelled", "questions", "soft_prompt", "titles")
FEW_ROWS = (
    "data_files have too few different passages to hold a tenth out: what is measured, and decides "
    "which weights are kept, is BoolQ's dev part; set eval_every to 0 to keep the last weights"
)


def new_model(
    config: TrainConfig, device: str = "auto", prepare: Prepare | None = None
) -> GemModel:
    """The model a recipe starts from: untrained, or with the weights of an earlier checkpoint.

    Args:
        config: The recipe.
        device: As for `GemModel.from_pretrained`.
        prepare: As for `gem_rag.model.create`.
    """
    model = untrained(config, device, prepare)
    if config.start_from:
        # A base that is prepared may not fit the device whole.
        earlier = GemModel.from_pretrained(config.start_from, device="cpu" if prepare else device)
        mine, theirs = _shape(model), _shape(earlier)
        if odd := [name for name in mine if mine[name] != theirs[name]]:
            raise GemError(
                f"start_from {config.start_from} differs from the recipe in {odd}; expected the "
                "same, see its gem_config.json"
            )
        with torch.no_grad():
            for new, old in zip(model.parts.parameters(), earlier.parts.parameters(), strict=True):
                new.copy_(old)
        if not config.whitening:  # else it is found anew, from vectors without it
            model.parts.whitening = earlier.parts.whitening.to(model.base.device)
        seal(model.parts)
    return model


def _shape(model: GemModel) -> dict[str, Any]:
    """What two models have in common whose weights mean the same."""
    names = ("preamble_ids", "num_special_tokens", "pooling", "adapter_scope", "adapter")
    return {
        "base": model.config.base.weights,
        "tokenizer": model.codec.serialized(),
        "embed_layers": model.parts.embed_layers,
        **{name: getattr(model.config, name) for name in names},
    }


def untrained(
    config: TrainConfig, device: str = "auto", prepare: Prepare | None = None
) -> GemModel:
    """A model whose adapter changes nothing yet; arguments as for `new_model`."""
    full_precision = config.full_fine_tuning or config.mixed_precision != "no"
    rank = 0 if config.full_fine_tuning else config.adapter_rank
    return create(
        config.base,
        device=device,
        dtype="float32" if full_precision else "auto",
        # Pass 1 needs no gradients; where the base itself is adapted or trained there is no such.
        forward="auto" if config.adapter_scope == "tokens" and prepare is None else "transformers",
        seed=config.seed,
        prepare=prepare,
        num_special_tokens=config.num_special_tokens,
        pooling=config.pooling,
        adapter_scope=config.adapter_scope,
        embed_layers=config.embed_layers or None,
        query_prefix=config.query_prefix,
        query_instruction=config.query_instruction,
        document_instruction=config.document_instruction,
        adapter=AdapterConfig(rank, config.adapter_alpha, config.adapter_targets),
    )


def language_rows(config: TrainConfig, model: GemModel, user: UserData) -> LanguageRows:
    """The rows of the next-token loss.

    Raises:
        GemError: A task needs rows that the data files do not hold.
    """
    missing = [t for t in FROM_FILES if config.lm_tasks.get(t) and t not in user.pairs]
    if missing and config.trains_language:
        raise GemError(
            f"lm_tasks has {missing}, but no data file holds such rows (context+summary, "
            "prompt+answer); add one to data_files, or drop the task"
        )
    return LanguageRows(
        model,
        config.lm_tasks,
        raw_share=config.raw_share,
        own=user.pairs,
        seed=config.seed,
        max_length=config.max_length,
    )


def user_data(config: TrainConfig) -> tuple[UserData, list[Pair]]:
    """What `data_files` hold, and what of it is measured on instead of trained on.

    Warns where the files have too little to hold any out.

    Raises:
        GemError: A file is missing, empty or broken.
    """
    user = load_files(config.data_files)
    if not config.eval_every:
        return user, []
    user, held_out = hold_out(user, config.heldout_passages, config.seed)
    if config.data_files and not held_out:
        warnings.warn(FEW_ROWS, stacklevel=4)
    return user, held_out


def training_mix(config: TrainConfig, user: UserData, processes: int) -> TrainingMix:
    """The run's batches; one is drawn, so that data that cannot make a batch is found now."""
    size = config.batch_size
    if size % processes:
        raise GemError(
            f"batch_size is {size} over {processes} processes; expected a multiple of them"
        )
    shares = config.shares or dict.fromkeys(user.kinds, 1.0)
    tasks = user.tasks()
    own: dict[str, Any] = {"own": tasks} if config.data_files else {}
    mix = TrainingMix(shares, config.prose, seed=config.seed, batch_size=size, **own)
    used = shares.keys() | (config.lm_tasks.keys() if config.trains_language else set())
    if tasks and not used & tasks.keys():
        raise GemError(
            f"data_files hold {sorted(tasks)}, and shares has {sorted(shares)}: nothing of the "
            "files would be trained on; give one of their tasks a share, or pass "
            "--set 'shares={}' to train on the files alone"
        )
    mix.batch(0)
    asks = config.written_questions or any(shares.get(task) for task in ASKING)
    if config.ranker_weight and not asks:
        raise GemError(
            f"ranker_weight is above 0, but {sorted(shares)} give no questions to rank for; add "
            f"one of {', '.join(ASKING)} to shares, or set written_questions"
        )
    return mix
