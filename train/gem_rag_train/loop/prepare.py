"""What a run with `examples` makes once: the pairs, the model's own questions, kept readings."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from itertools import chain

import torch
from torch import Tensor

from gem_rag.config import Task
from gem_rag.model import GemModel
from gem_rag_train.data.batches import texts_of
from gem_rag_train.data.mix import Pool, TrainingMix
from gem_rag_train.data.pairs import Pair
from gem_rag_train.kept.readings import KeptReadings
from gem_rag_train.material.questions import found_again, written_pairs
from gem_rag_train.objectives.teacher import Teacher
from gem_rag_train.recipes.config import TrainConfig

FILE_PAIRS = 1600  # in a file of readings: reading that was interrupted goes on with the next
TAUGHT = "teacher.safetensors"
FOUND_AMONG = 3  # of all passages, by the judge, that of a written question must be
Embed = Callable[[Sequence[str], Task], Tensor]  # unit vectors [n, d]


def prepare(
    config: TrainConfig,
    model: GemModel,
    mix: TrainingMix,
    teacher: Teacher | None,
    *,
    show_progress: bool | None = None,
) -> tuple[Pool, KeptReadings]:
    """Draw the pairs, write the questions and read the texts that the whole run uses."""
    pairs = mix.draw(config.examples)
    tokenized = partial(_tokenized, model=model, max_length=config.max_length)
    parts = [tokenized(pairs[i : i + FILE_PAIRS]) for i in range(0, len(pairs), FILE_PAIRS)]
    kept = _kept(config, model, parts, show_progress)
    written: list[Pair] = []
    if config.written_questions:
        written = written_pairs(
            model,
            pairs,
            config.written_questions,
            kept,
            config.readings_folder,
            max_length=config.max_length,
            seed=config.seed,
            show_progress=show_progress,
        )
    if teacher:
        texts = [text for text, _ in texts_of([*pairs, *written])]
        teacher.keep(texts, config.readings_folder / TAUGHT, show_progress=show_progress)
    if written:
        judge = _judge(config, model, teacher)
        written = _consistent(written, judge) if judge else written
        kept.add("questions", tokenized(written))
        pairs += written
    return _pool(config, pairs, teacher), kept


def _kept(
    config: TrainConfig,
    model: GemModel,
    parts: Sequence[Sequence[tuple[Sequence[int], Task]]],
    show_progress: bool | None,
) -> KeptReadings:
    """Readings of the drawn pairs' texts, a file a part."""
    kept = KeptReadings(
        model,
        config.readings_folder,
        most_bytes=int(config.kept_gigabytes * 1e9),
        precision=config.reading_precision,
        show_progress=show_progress,
    )
    kept.require_room(chain.from_iterable(parts))
    for number, part in enumerate(parts):
        kept.add(f"pairs-{number}", part)
    return kept


def _pool(config: TrainConfig, pairs: Sequence[Pair], teacher: Teacher | None) -> Pool:
    """The run's batches, of near texts where a teacher says which those are."""
    near = teacher if config.neighbours > 1 else None
    return Pool(
        pairs,
        seed=config.seed,
        batch_size=config.batch_size,
        vectors=near.embed([p.second for p in pairs]) if near else None,
        neighbours=config.neighbours,
    )


def _tokenized(
    pairs: Sequence[Pair], *, model: GemModel, max_length: int
) -> list[tuple[Sequence[int], Task]]:
    """The pairs' texts as `KeptReadings` takes them."""
    texts = texts_of(pairs)
    ids = [t.ids for t in model.codec.encode_texts([text for text, _ in texts], max_length)]
    return list(zip(ids, (task for _, task in texts), strict=True))


def _judge(config: TrainConfig, model: GemModel, teacher: Teacher | None) -> Embed | None:
    """Who says whether a question leads back to its passage: an untrained model cannot."""
    if teacher is not None:
        return lambda texts, _: teacher.embed(texts)
    if not config.start_from:
        return None
    # As it was before the first step: a run that is resumed has to keep the same questions.
    device, dtype = str(model.base.device), str(model.base.dtype)
    start = GemModel.from_pretrained(config.start_from, device=device, dtype=dtype)

    def embed(texts: Sequence[str], task: Task) -> Tensor:
        method = start.embed_queries if task == "query" else start.embed_documents
        vectors = method(texts, max_length=config.max_length, show_progress=False)
        return torch.from_numpy(vectors)

    return embed


def _consistent(pairs: list[Pair], embed: Embed) -> list[Pair]:
    """Written questions whose passage is found among all passages."""
    place = {text: i for i, text in enumerate(dict.fromkeys(p.second for p in pairs))}
    found = found_again(
        embed([p.first for p in pairs], "query"),
        embed(list(place), "document"),
        [place[p.second] for p in pairs],
        top=FOUND_AMONG,
    )
    return [pair for pair, kept in zip(pairs, found, strict=True) if kept]
