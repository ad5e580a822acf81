"""From a folder of documents, without labels, to a checkpoint that finds things in them better.

The model writes questions for every chunk, learns from those of most chunks, and is measured on the
questions of the rest, which it has not seen. What is not better is not kept.
"""

from __future__ import annotations

import json
import shutil
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
from torch import Tensor

from gem_rag.errors import GemError
from gem_rag.files import atomic_dir, atomic_write
from gem_rag.model import GemModel, name_of
from gem_rag_train.evaluation.embedding import gains
from gem_rag_train.loop.preflight import require_extra
from gem_rag_train.loop.state import STATE
from gem_rag_train.loop.trainer import train
from gem_rag_train.material.gather import Material, found_at, gather, read_chunks
from gem_rag_train.recipes.config import LOG, TrainConfig
from gem_rag_train.recipes.settings import at_home

CONFIDENCE = 0.8  # of the interval, two-sided: one useless change in ten would pass for a gain
EPOCHS, FEWEST_STEPS = 6, 60  # over all rows, where neither steps nor minutes are given
BATCH_SIZE = 32
LEARNING_RATE, TOKEN_LEARNING_RATE = 1e-4, 5e-4
SHARES = {"labelled": 0.7, "texts": 0.3}
KEPT_BYTES = 20 * 10**9
TIMED_STEPS = 5
CHECKPOINT_EVERY = 10


@dataclass(frozen=True)
class Found:
    """How well held-out questions find their chunk among all chunks: means over questions."""

    recall1: float
    ndcg10: float


@dataclass(frozen=True)
class Verdict:
    """Two checkpoints on the same questions.

    Attributes:
        before: The old one.
        after: The new one.
        gain: nDCG@10 gained, mean over held-out chunks.
        low: Lower end of its bootstrap interval (`CONFIDENCE`); chunks are resampled, because the
            questions of one chunk hang together.
        high: Upper end.
    """

    before: Found
    after: Found
    gain: float
    low: float
    high: float

    @property
    def better(self) -> bool:
        """The gain is more than chance, and no fewer questions find their chunk at once."""
        return self.low > 0 and self.after.recall1 >= self.before.recall1


@dataclass(frozen=True)
class Adapted:
    """What came of it.

    Attributes:
        kept: Whether the new checkpoint is better and was written.
        checkpoint: The one to use: the new one, or the one it started from.
        verdict: The measurement.
        chunks: All chunks.
        held_out_chunks: Those never trained on, with questions.
        held_out_questions: Questions about them.
        questions_written: Questions about the other chunks.
        questions_used: Those whose chunk was found again: what was trained on.
        steps: Optimizer steps.
        candidate: Where the new checkpoint is if it was not kept.
        skipped: Files that could not be read, with the reason.
    """

    kept: bool
    checkpoint: str
    verdict: Verdict
    chunks: int
    held_out_chunks: int
    held_out_questions: int
    questions_written: int
    questions_used: int
    steps: int
    candidate: str | None
    skipped: tuple[tuple[str, str], ...]

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON; the verdict's stand beside the others."""
        facts = asdict(self)
        return {"kept": facts.pop("kept"), **facts.pop("verdict"), **facts}


def adapt(
    paths: Sequence[str | Path],
    output: str | Path,
    *,
    model: str | Path | None = None,
    steps: int | None = None,
    minutes: float | None = None,
    questions_per_chunk: int = 4,
    seed: int = 0,
    chunk_tokens: int = 256,
    show_progress: bool | None = None,
) -> Adapted:
    """Train a checkpoint on the user's own documents; it is written only if it is better.

    A call made again after an interruption goes on where it was: questions and the training's state
    are kept in ``<output>.adapt``.

    Args:
        paths: Files or folders.
        output: Where the new checkpoint goes; must not exist.
        model: The checkpoint to start from, as for `GemModel.from_pretrained`.
        steps: Optimizer steps.
        minutes: Of training, instead of `steps`: a few steps are timed first.
        questions_per_chunk: Questions written for each chunk.
        seed: Of the held-out chunks, the questions and the training.
        chunk_tokens: Longest chunk; as they will be indexed.
        show_progress: As for `GemModel.read`.

    Raises:
        GemError: Too little text, an output that exists, a checkpoint of another scope than
            ``tokens``, or a training error.
        MissingExtraError: The extra ``train`` is not installed.
    """
    require_extra()
    if steps is not None and minutes is not None:
        raise GemError("got both steps and minutes; give one of them")
    output = _free(output)
    folder = output.with_name(output.name + ".adapt")
    show = sys.stderr.isatty() if show_progress is None else show_progress
    old = _adaptable(model)
    chunks, skipped = read_chunks(paths, old, chunk_tokens, without=[folder])
    material = gather(
        old,
        chunks,
        folder / "questions.jsonl",
        per_chunk=questions_per_chunk,
        max_length=chunk_tokens,
        seed=seed,
        show_progress=show,
    )
    wanted = {
        "material": material.digest,
        "model": old.fingerprint,
        "seed": seed,
        "steps": steps,
        "minutes": minutes,
    }
    first = recipe(old, material, folder, seed=seed, max_length=chunk_tokens)
    config = planned(first, material.rows, folder, wanted, show)
    start = name_of(old)
    del old  # the trainer loads its own
    candidate = trained(config, show)
    verdict = judge(material, measure(candidate, material))
    if verdict.better:
        with atomic_dir(output) as fresh:
            shutil.copytree(candidate, fresh, dirs_exist_ok=True)
    shutil.rmtree(candidate.with_name(candidate.name + ".readings"), ignore_errors=True)
    return _adapted(
        material,
        verdict,
        checkpoint=str(output) if verdict.better else start,
        candidate=candidate,
        steps=config.steps,
        skipped=skipped,
    )


def _free(output: str | Path) -> Path:
    """Where the new checkpoint goes; nothing may be there."""
    output = Path(at_home(str(output)))
    if output.exists():
        raise GemError(f"{output} exists already; choose another output, or delete it")
    return output


def _adaptable(model: str | Path | None) -> GemModel:
    """The checkpoint to start from, of the scope that can be adapted."""
    old = GemModel.from_pretrained(model, dtype="float32")
    if old.config.adapter_scope != "tokens":
        raise GemError(
            f"{name_of(old)} has adapter_scope {old.config.adapter_scope!r}; adapting needs "
            "'tokens', with which the base, and so what it writes, stays as it is"
        )
    return old


def _adapted(
    material: Material,
    verdict: Verdict,
    *,
    checkpoint: str,
    candidate: Path,
    steps: int,
    skipped: Sequence[tuple[str, str]],
) -> Adapted:
    return Adapted(
        kept=verdict.better,
        checkpoint=checkpoint,
        verdict=verdict,
        chunks=len(material.texts),
        held_out_chunks=len(set(material.held_out.chunks)),
        held_out_questions=len(material.held_out),
        questions_written=material.written,
        questions_used=len(material.learnt),
        steps=steps,
        candidate=None if verdict.better else str(candidate),
        skipped=tuple(skipped),
    )


def recipe(
    model: GemModel, material: Material, folder: Path, *, seed: int, max_length: int
) -> TrainConfig:
    """Training that goes on from this checkpoint, on these rows."""
    c = model.config
    kinds = {"labelled": "query", "texts": "text"}
    present = {k for k, column in kinds.items() if any(column in row for row in material.rows)}
    rows = len(material.rows)
    passages = {row.get("positive") or row["text"] for row in material.rows}
    # A batch takes one pair of each passage, and is drawn by chance: it must not need them all.
    batch = max(2, min(BATCH_SIZE, len(passages) * 2 // 3))
    examples = max(2 * rows, batch)
    return TrainConfig(
        base=c.base.name,
        output=str(folder / "checkpoint"),
        shares={k: share for k, share in SHARES.items() if k in present},
        data_files=(str(folder / "rows.jsonl"),),
        start_from=name_of(model),
        examples=examples if readings_fit(model, passages, rows, folder, max_length) else 0,
        kept_gigabytes=KEPT_BYTES / 1e9,
        steps=max(FEWEST_STEPS, EPOCHS * rows // batch),
        batch_size=batch,
        checkpoint_every=CHECKPOINT_EVERY,
        learning_rate=LEARNING_RATE,
        token_learning_rate=TOKEN_LEARNING_RATE,
        max_length=max_length,
        seed=seed,
        num_special_tokens=c.num_special_tokens,
        pooling=c.pooling,
        adapter_scope=c.adapter_scope,
        embed_layers=c.embed_layers or 0,
        adapter_rank=c.adapter.rank,
        adapter_alpha=c.adapter.alpha,
        adapter_targets=c.adapter.targets,
        query_prefix=c.query_prefix,
        query_instruction=c.query_instruction,
        document_instruction=c.document_instruction,
    )


def readings_fit(
    model: GemModel, passages: set[str], rows: int, folder: Path, max_length: int
) -> bool:
    """Whether readings of these passages, of crops and of questions can be kept on the disk."""
    tokens = sum(len(t.ids) for t in model.codec.encode_texts(list(passages), max_length))
    one = model.read(["a"], show_progress=False)[0]
    halves = sum(k.numel() + v.numel() for k, v in one.key_values) // len(one) * 2  # fp16 bytes
    folder.mkdir(parents=True, exist_ok=True)
    # Crops and questions beside a passage's own tokens: measured 2.1 times these with 4 rows a
    # passage, 2.7 with 7, 3.4 with 10.
    times = 1.5 + rows / len(passages) / 4
    return times * tokens * halves < min(KEPT_BYTES, shutil.disk_usage(folder).free // 2)


def planned(
    config: TrainConfig,
    rows: Sequence[dict[str, str]],
    folder: Path,
    wanted: dict[str, Any],
    show: bool,
) -> TrainConfig:
    """The recipe with its steps, its rows in a file; a call made again gets what it began with.

    What was trained by another plan is removed: it cannot be gone on with.
    """
    file = folder / "plan.json"
    plan = json.loads(file.read_text(encoding="utf-8")) if file.exists() else {}
    if plan.get("wanted") == wanted:
        return TrainConfig(**plan["recipe"])
    for old in folder.glob("checkpoint*"):
        shutil.rmtree(old) if old.is_dir() else old.unlink()
    lines = (json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    atomic_write(Path(config.data_files[0]), "".join(lines))
    if wanted["minutes"] is not None:
        wanted_steps = round(60 * wanted["minutes"] / seconds_per_step(config, show))
        config = replace(config, steps=max(1, wanted_steps))
    elif wanted["steps"] is not None:
        config = replace(config, steps=wanted["steps"])
    plan = {"wanted": wanted, "recipe": config.to_dict()}
    atomic_write(file, json.dumps(plan, indent=2))
    return config


def seconds_per_step(config: TrainConfig, show: bool) -> float:
    """Time of a step, from a short run that is thrown away."""
    with tempfile.TemporaryDirectory() as folder:
        probe = Path(folder) / "probe"
        few = min(config.examples, 2 * config.batch_size)
        train(
            replace(config, output=str(probe), steps=TIMED_STEPS, examples=few), show_progress=show
        )
        log = (probe.with_name("probe.run") / LOG).read_text(encoding="utf-8").splitlines()
    return median(float(json.loads(line)["seconds"]) for line in log)


def trained(config: TrainConfig, show: bool) -> Path:
    """The new checkpoint: there already, gone on with, or trained from the start."""
    candidate = Path(config.output)
    if candidate.exists():
        return candidate
    run = candidate.with_name(candidate.name + ".run")
    saved = (run / STATE).exists()
    if not saved:
        shutil.rmtree(run, ignore_errors=True)  # interrupted before its first saved state
    return train(config, resume=saved, show_progress=show)


def measure(candidate: Path, material: Material) -> Tensor:
    """At which place each held-out question finds its chunk by the new checkpoint, ``[q]``."""
    model = GemModel.from_pretrained(candidate, dtype="float32")
    return found_at(model, model.embed_documents(material.texts), material.held_out)


def judge(material: Material, after: Tensor) -> Verdict:
    """Compare the places at which the same questions find their chunk."""
    from scipy.stats import bootstrap

    old, new = material.before.numpy(), after.numpy()
    gained, chunk_of = gains(new) - gains(old), np.array(material.held_out.chunks)
    by_chunk = np.array([gained[chunk_of == chunk].mean() for chunk in np.unique(chunk_of)])
    interval = bootstrap(
        (by_chunk,),
        np.mean,
        confidence_level=CONFIDENCE,
        method="percentile",
        rng=np.random.default_rng(0),
    ).confidence_interval
    return Verdict(
        before=scores(old),
        after=scores(new),
        gain=float(by_chunk.mean()),
        low=float(interval.low),
        high=float(interval.high),
    )


def scores(places: np.ndarray) -> Found:
    """Means over questions."""
    return Found(float((places == 0).mean()), float(gains(places).mean()))
