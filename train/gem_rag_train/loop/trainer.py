"""One readable training loop: batches by (seed, step), a resumable state, a loadable checkpoint."""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import torch
from torch import Tensor, nn

from gem_rag.checkpoints.fingerprint import seal
from gem_rag.errors import GemError
from gem_rag.files import atomic_write
from gem_rag.model import GemModel
from gem_rag_train.data.batches import Text, texts_of
from gem_rag_train.data.mix import Pool, TrainingMix
from gem_rag_train.loop.checkpointing import checkpoint_activations
from gem_rag_train.loop.grouped import use_grouped_attention
from gem_rag_train.loop.hub import make_repository, push
from gem_rag_train.loop.optimizer import new_optimizer, set_rates
from gem_rag_train.loop.preflight import (
    keep_freed_memory,
    require_context,
    require_extra,
    require_finite,
    require_memory,
    require_room_for_base,
    require_settings,
)
from gem_rag_train.loop.prepare import prepare
from gem_rag_train.loop.processes import Processes
from gem_rag_train.loop.schedule import alpha, peak, rate
from gem_rag_train.loop.sharding import shard
from gem_rag_train.loop.start import language_rows, new_model, training_mix, user_data
from gem_rag_train.loop.state import Average, Best, open_run, parameters_of
from gem_rag_train.monitor.card import model_card
from gem_rag_train.monitor.heldout import HeldOut
from gem_rag_train.monitor.live import reports
from gem_rag_train.monitor.report import write_report
from gem_rag_train.objectives.contrastive import BatchLosses, ContrastiveObjective
from gem_rag_train.objectives.embedder import TOKENS_PER_BATCH, TrainedEmbedder
from gem_rag_train.objectives.language import LanguageObjective
from gem_rag_train.objectives.losses import LOG_SCALE_START, Rotation, keep_in_range
from gem_rag_train.objectives.ranker import Ranker
from gem_rag_train.objectives.step import Outcome
from gem_rag_train.objectives.teacher import KnownTexts, Teacher
from gem_rag_train.objectives.whitening import half_whitening, some_texts
from gem_rag_train.recipes.config import RECIPE, TrainConfig


def train(config: TrainConfig, *, resume: bool = False, show_progress: bool | None = None) -> Path:
    """Train a checkpoint and write it to ``config.output``.

    Args:
        config: The recipe.
        resume: Go on from the last saved state of the same recipe; the weights become those of an
            uninterrupted run.
        show_progress: A live line; None shows one on a terminal.

    Returns:
        The checkpoint's folder, which `GemModel.from_pretrained` loads.

    Raises:
        GemError: Nothing to resume, another recipe's state, broken data, too little memory, or a
            loss that is not finite.
    """
    keep_freed_memory()
    return Trainer(config, resume=resume).run(show_progress)


class Trainer:
    """A run: model, data, optimizer, and the step they are at."""

    def __init__(self, config: TrainConfig, *, resume: bool) -> None:
        require_extra()
        self.config = config
        self.processes = Processes()
        device = torch.device(self.processes.device)
        require_settings(config, device, shards=self.processes.shards)
        self.output = Path(config.output)
        self.folder = open_run(config, resume=resume)
        user, held_out = user_data(config)
        self.data: TrainingMix | Pool = training_mix(config, user, self.processes.count)
        require_room_for_base(config, device)
        self.model = self._model()
        self.rows = language_rows(config, self.model, user)
        self.teacher = Teacher(config.teacher) if config.teacher else None
        self.rotation = self._rotation() if config.alignment or config.neighbourhood else None
        self.ranker = self._ranker() if config.ranker_weight else None
        self.log_scale = nn.Parameter(torch.tensor(LOG_SCALE_START, device=self.model.base.device))
        self.embedder = self._embedder()
        self.losses = self._losses()
        self.contrastive, self.language = self._objectives()
        self.optimizer = self._optimizer()
        self._require_memory()
        if config.activation_checkpointing:
            checkpoint_activations(self.model.base)
            self.model.parts.recomputes = True
        self.heldout: HeldOut | None = None
        if config.eval_every and self.processes.measures:
            self.heldout = HeldOut(self.model, config, held_out, keep=not self.processes.shards)
        self.best, self.average = Best(), Average()
        self.step = 0
        if resume:
            self.step, self.best, self.average = self.folder.load(self.optimizer)
        if config.push_to_hub and self.processes.is_main:
            make_repository(config)  # a login that is missing is found now, not after the training

    def _model(self) -> GemModel:
        c, device = self.config, self.processes.device
        prepare = partial(shard, device=device, config=c) if self.processes.shards else None
        model = new_model(c, device, prepare)
        use_grouped_attention(model.base)
        require_finite(model)
        require_context(model, c)
        return model

    def _rotation(self) -> Rotation:
        assert self.teacher is not None
        return Rotation(self.model.dim, self.teacher.dim).to(self.model.base.device)

    def _ranker(self) -> Ranker:
        c, rank = self.config, self.processes.rank
        return Ranker(
            self.model,
            candidates=c.ranker_candidates,
            temperature=c.ranker_temperature,
            max_length=c.max_length,
            memory=Path(f"{c.output}.scores{rank or ''}.jsonl"),
        )

    def _embedder(self) -> TrainedEmbedder:
        c = self.config
        return TrainedEmbedder(
            self.model,
            max_length=c.max_length,
            precision=c.mixed_precision,
            tokens_per_batch=c.gradcache_tokens or TOKENS_PER_BATCH,
            from_kept=c.examples > 0,
        )

    def _losses(self) -> BatchLosses:
        return BatchLosses(
            self.config,
            self.log_scale,
            teacher=self.teacher,
            rotation=self.rotation,
            ranker=self.ranker,
        )

    def _objectives(self) -> tuple[ContrastiveObjective, LanguageObjective]:
        contrastive = ContrastiveObjective(
            self.losses,
            self.embedder,
            self.processes,
            self._require_finite,
            cached=self.config.gradcache_tokens > 0,
        )
        language = LanguageObjective(
            self.model,
            self.rows,
            self.processes,
            self._require_finite,
            precision=self.config.mixed_precision,
        )
        return contrastive, language

    def _optimizer(self) -> torch.optim.Optimizer:
        turning = [] if self.rotation is None else self.rotation.parameters()
        return new_optimizer(
            self.model,
            [self.log_scale, *turning],
            full=self.config.full_fine_tuning,
            weight_decay=self.config.weight_decay,
        )

    def _require_memory(self) -> None:
        """By the first batch's lengths, and with cached gradients by its largest forward."""
        c = self.config
        chunks, lengths = self.embedder.batches(self._own_texts(0))
        at_once = chunks if c.gradcache_tokens else [list(range(len(lengths)))]
        read = [sum(lengths[i] for i in chunk) for chunk in at_once]
        live = [c.num_special_tokens * len(chunk) for chunk in at_once]
        if c.adapter_scope != "tokens":
            live = [specials + text for specials, text in zip(live, read, strict=True)]
        require_memory(
            self.model.base,
            parameters_of(self.optimizer),
            live=max(live) // (self.model.base.num_layers if c.activation_checkpointing else 1),
            read=max(read),
            advice="lower batch_size or max_length, or set gradcache_tokens (such as 2048)",
        )

    # The loop

    def run(self, show_progress: bool | None = None) -> Path:
        """Train to the last step, saving the state on the way, and write the checkpoint."""
        main = self.processes.is_main
        show = main and (sys.stderr.isatty() if show_progress is None else show_progress)
        if self.config.examples:
            self._prepare(show)
        if main:
            self.folder.trim_log(self.step)
        if self.heldout is not None and self.step == 0:
            self.heldout.record_checks(self.folder.folder, "before")
        board = self.folder.folder / "tensorboard" if main and self.config.tensorboard else None
        with reports(self.config.steps, self.step, show=show, tensorboard=board) as report:
            while self.step < self.config.steps and not self.is_stopped:
                facts = self.train_step()
                self._end_cycle()
                facts |= self._measure()
                if main:
                    report(facts)
                    self.folder.log(facts)
                    if self.step % self.config.checkpoint_every == 0:
                        self._save()
        return self._finish()

    def _prepare(self, show: bool) -> None:
        """Draw the pairs of the whole run and read their texts, or find them on disk."""
        assert not isinstance(self.data, Pool)
        with self.processes.main_first():  # what it makes on disk, the others find there
            self.data, kept = prepare(
                self.config, self.model, self.data, self.teacher, show_progress=show
            )
        self.embedder.kept = kept
        if self.teacher is not None and self.config.neighbourhood:
            texts = [text for text, _ in texts_of(self.data.pairs)]
            self.losses.known = KnownTexts(self.teacher, texts, self.model.base.device)
        if self.ranker is not None:
            self.ranker.read = partial(kept.readings, max_length=self.config.max_length)

    @property
    def is_stopped(self) -> bool:
        """Whether the held-out quality has not become better for long enough."""
        return 0 < self.config.patience <= self.best.worse_since

    def _end_cycle(self) -> None:
        """At the end of a cycle take the weights into their mean; at the last, go on with it."""
        c = self.config
        done, rest = divmod(self.step, c.cycle_steps)
        is_last = self.step == c.steps
        if c.cycles == 1 or not (is_last or (rest == 0 and done < c.cycles)):
            return
        self.average.add(parameters_of(self.optimizer))
        if is_last:
            self._take(self.average.weights)

    def _take(self, weights: Sequence[Tensor]) -> None:
        with torch.no_grad():
            for parameter, weight in zip(parameters_of(self.optimizer), weights, strict=True):
                parameter.copy_(weight)

    def _measure(self) -> dict[str, float]:
        """Held-out quality, where it is due; keeps the best weights."""
        every = self.config.eval_every
        if not every or (self.step % every and self.step < self.config.steps):
            return {}
        mine: dict[str, float] = {}
        if self.heldout is not None:
            with self._whitened():
                mine = self.heldout.measure()
        if self.config.adapter_scope != "tokens":
            # Measured at full precision, and trained at the run's.
            self.model.reader.forget_preambles()
        found: dict[str, float] = self.processes.from_main(mine)
        if self.config.best_metric not in found:
            raise GemError(
                f"best_metric is {self.config.best_metric!r}, but what was measured is "
                f"{sorted(found)}; choose one of these"
            )
        metric = self.config.best_metric
        self.best.offer(found[metric], metric, self.step, parameters_of(self.optimizer))
        return found

    @contextmanager
    def _whitened(self) -> Iterator[None]:
        """With the whitening a checkpoint would have now; training goes on without it."""
        before = self.model.parts.whitening
        self._whiten()
        yield
        self.model.parts.whitening = before

    def _whiten(self) -> None:
        c = self.config
        if not c.whitening:
            return
        texts = some_texts((self.data.batch(step) for step in range(c.steps)), self.model.dim)
        if texts:
            self.model.parts.whitening = half_whitening(self.embedder.embed_all(texts), c.whitening)

    def _save(self) -> None:
        self.folder.save(self.step, self.optimizer, self.best, self.average)

    def _finish(self) -> Path:
        """Write the best weights as the checkpoint, with card and recipe; hand it on."""
        if self.processes.is_main:
            self._save()
        if self.best.weights:
            self._take(self.best.weights)
        self.model.reader.forget_preambles()
        if self.processes.measures:
            self._whiten()
        seal(self.model.parts)
        if self.heldout is not None:
            self.heldout.record_checks(self.folder.folder, "after")
        if self.processes.is_main:
            measured_on = "" if self.heldout is None else self.heldout.what
            card = model_card(
                self.model,
                self.config,
                best=self.best.value,
                best_step=self.best.step,
                measured_on=measured_on,
            )
            full = self.config.full_fine_tuning
            self.model.save_pretrained(self.output, card=card, with_base=full)
            atomic_write(self.output / RECIPE, self.config.to_toml())
            write_report(self.folder.folder, self.output)
            if self.config.push_to_hub:
                push(self.output, self.config.push_to_hub)
        self.processes.wait()
        return self.output

    # One step

    def train_step(self) -> dict[str, float]:
        """One optimizer step; returns what to report."""
        started = time.perf_counter()
        step, c = self.step, self.config
        pairs = self.data.batch(step)
        if self.embedder.kept is not None:
            self.embedder.fetch(self._own_texts(step + 1))
        if self.teacher is not None:
            self.teacher.forget()  # what it knew decides its batches: a resumed run knows nothing
        share = alpha(step, c)
        self.optimizer.zero_grad(set_to_none=True)
        facts: dict[str, float] = {"step": step + 1, "loss": 0.0, "alpha": share, "tokens": 0.0}
        if share > 0:
            _add(facts, share, self.contrastive.backward(pairs, share))
        if share < 1:
            _add(facts, 1 - share, self.language.backward(step, pairs, 1 - share))
        rates = rate(step, c) * peak(step, c), rate(step, c) * c.token_learning_rate
        facts |= {
            "temperature": math.exp(-self.log_scale.item()),
            "grad_norm": self._update(rates),
            "lr": rates[0],
        }
        self.step += 1
        tokens = facts.pop("tokens") * self.processes.count
        facts["seconds"] = time.perf_counter() - started
        facts["tokens_per_second"] = tokens / facts["seconds"]
        return facts

    def _own_texts(self, step: int) -> list[Text]:
        """The texts of this process's part of a step's batch."""
        return texts_of(self.processes.slice_of(self.data.batch(step)))

    def _update(self, rates: tuple[float, float]) -> float:
        """Sum the processes' gradients, clip them, step; the gradients' norm."""
        parameters = parameters_of(self.optimizer)
        self.processes.sum_gradients(parameters)
        clipped = nn.utils.clip_grad_norm_(parameters, self.config.max_grad_norm or math.inf)
        norm = float(clipped)
        self._require_finite(norm, "gradients' norm")
        set_rates(self.optimizer, *rates)
        self.optimizer.step()
        keep_in_range(self.log_scale)
        if self.config.adapter_scope != "tokens":
            self.model.reader.forget_preambles()
        return norm

    def _require_finite(self, value: float, what: str = "loss") -> None:
        if not math.isfinite(value):
            raise GemError(
                f"the {what} is {value} at step {self.step}; look for broken texts in this "
                "step's batch, or start anew with a lower learning rate: delete "
                f"{self.folder.folder} or choose another output"
            )


def _add(facts: dict[str, float], weight: float, outcome: Outcome) -> None:
    """Take an objective's outcome into a step's facts."""
    facts |= outcome.facts
    facts["loss"] += weight * outcome.loss
    facts["tokens"] += outcome.tokens
