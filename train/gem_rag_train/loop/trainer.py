"""One readable training loop: batches by (seed, step), a resumable state, a loadable checkpoint."""

from __future__ import annotations

import math
import sys
import time
import warnings
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from gem_rag.checkpoint import holds_something_else, seal
from gem_rag.config import CONFIG_FILE
from gem_rag.errors import GemError
from gem_rag.fetch import atomic_write
from gem_rag.reader import by_budget
from gem_rag_train.data.batches import Text, in_order, same_source, seconds_of, texts_of
from gem_rag_train.data.files import UserData, hold_out, load_files
from gem_rag_train.data.mix import Pool, TrainingMix
from gem_rag_train.data.pairs import Pair
from gem_rag_train.kept.readings import KeptReadings
from gem_rag_train.loop.checkpointing import checkpoint_activations
from gem_rag_train.loop.grouped import use_grouped_attention
from gem_rag_train.loop.preflight import (
    keep_freed_memory,
    require_context,
    require_extra,
    require_finite,
    require_memory,
    require_room_for_base,
)
from gem_rag_train.loop.prepare import prepare
from gem_rag_train.loop.processes import Processes
from gem_rag_train.loop.schedule import alpha, peak, rate
from gem_rag_train.loop.sharding import require_shardable, shard
from gem_rag_train.loop.start import language_rows, new_model
from gem_rag_train.loop.state import STATE, Average, Best, RunFolder, parameters_of
from gem_rag_train.monitor.card import model_card
from gem_rag_train.monitor.heldout import HeldOut
from gem_rag_train.monitor.live import reports, summary_writer
from gem_rag_train.monitor.report import REPORT, write_report
from gem_rag_train.objectives.gradcache import GradCache
from gem_rag_train.objectives.language import label_count, language_loss, spare_row
from gem_rag_train.objectives.losses import (
    LOG_SCALE_START,
    Rotation,
    alignment,
    distillation,
    info_nce,
    keep_in_range,
    neighbourhood,
    scale_of,
)
from gem_rag_train.objectives.ranker import Ranker
from gem_rag_train.objectives.teacher import KnownTexts, Teacher
from gem_rag_train.objectives.whitening import half_whitening, some_texts
from gem_rag_train.recipes.config import RECIPE, TrainConfig
from gem_rag_train.recipes.precision import autocast, require_precision

TOKENS_PER_BATCH = 4096  # in one forward; large, because each batch costs a backward pass too
LM_TOKENS_PER_BATCH = 1024  # smaller, because every token has logits over the vocabulary
KEPT_ROWS = 64  # in one forward from kept readings
# A text this near to a pair's first, as a share of the pair's own similarity, may be a right answer
# too and is no negative (the idea of NV-Retriever's positive-aware mining).
FALSE_NEGATIVE = 0.95
# Tasks whose pairs are a question and its passage.
ASKING = ("clozes", "headings", "labelled", "questions", "soft_prompt", "titles")
FEW_ROWS = (
    "data_files have too few different passages to hold a tenth out: what is measured, and decides "
    "which weights are kept, is BoolQ's dev part; set eval_every to 0 to keep the last weights"
)
# Losses on embeddings, and the settings that weigh them.
WEIGHTS = {
    "contrastive": "contrastive",
    "alignment": "alignment",
    "neighbourhood": "neighbourhood",
    "distillation": "distillation",
    "ranking": "ranker_weight",
}


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
        self.processes = Processes()
        if self.processes.shards:
            require_shardable(config)
        for precision in (config.mixed_precision, config.reading_precision):
            require_precision(precision, torch.device(self.processes.device))
        if config.tensorboard:
            summary_writer()  # at the door, not after hours of reading
        self.config = config
        self.output = Path(config.output)
        folder = self.output.with_name(self.output.name + ".run")
        if not resume and (folder / STATE).exists():
            raise GemError(
                f"{folder} holds a run already; pass --resume to go on with it, delete it, or "
                "choose another output"
            )
        is_checkpoint = (self.output / CONFIG_FILE).exists()
        if holds_something_else(self.output) or (is_checkpoint and not resume):
            raise GemError(
                f"{self.output} exists already; choose another output, or delete it: a checkpoint "
                "takes the whole folder"
            )
        self.folder = RunFolder(folder, config)
        self.user, held_out = load_files(config.data_files), list[Pair]()
        if config.eval_every:
            self.user, held_out = hold_out(self.user, config.heldout_passages, config.seed)
            if config.data_files and not held_out:
                warnings.warn(FEW_ROWS, stacklevel=3)
        self.data: TrainingMix | Pool = training_mix(config, self.user, self.processes.count)
        device = self.processes.device
        require_room_for_base(config, torch.device(device))
        prepare = partial(shard, device=device, config=config) if self.processes.shards else None
        self.model = new_model(config, device, prepare)
        use_grouped_attention(self.model.base)
        require_finite(self.model)
        require_context(self.model, config)
        self.rows = language_rows(config, self.model, self.user)
        self.kept: KeptReadings | None = None
        self.teacher = Teacher(config.teacher) if config.teacher else None
        self.rotation = self._rotation() if config.alignment or config.neighbourhood else None
        self.known: KnownTexts | None = None
        self.ranker = self._ranker() if config.ranker_weight else None
        self.log_scale = nn.Parameter(torch.tensor(LOG_SCALE_START, device=self.model.base.device))
        self.optimizer = self._optimizer()
        self._require_memory()
        if config.activation_checkpointing:
            checkpoint_activations(self.model.base)
        self.heldout: HeldOut | None = None
        if config.eval_every and self.processes.measures:
            self.heldout = HeldOut(self.model, config, held_out, keep=not self.processes.shards)
        self.best, self.average = Best(), Average()
        self.step = 0
        if resume:
            self.step, self.best, self.average = self.folder.load(self.optimizer)
        if config.push_to_hub and self.processes.is_main:
            make_repository(config)  # a login that is missing is found now, not after the training

    def _optimizer(self) -> torch.optim.Optimizer:
        full = self.config.full_fine_tuning
        weights: nn.Module = self.model.base.model if full else self.model.adapter
        if full:
            weights.requires_grad_(True)
        groups: list[dict[str, Any]] = [
            {"params": list(weights.parameters())},
            {"params": [self.model.special_vectors], "weight_decay": 0.0},
            {"params": [self.log_scale], "weight_decay": 0.0},
        ]
        if self.rotation is not None:
            groups[-1]["params"] += list(self.rotation.parameters())
        return torch.optim.AdamW(groups, weight_decay=self.config.weight_decay)

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

    def _require_memory(self) -> None:
        """By the first batch's lengths, and with cached gradients by its largest forward."""
        c = self.config
        chunks, lengths = self._chunks(texts_of(self.processes.slice_of(self.data.batch(0))))
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
            assert not isinstance(self.data, Pool)
            with self.processes.main_first():  # what it makes on disk, the others find there
                self.data, self.kept = prepare(
                    self.config, self.model, self.data, self.teacher, show_progress=show
                )
            if self.teacher is not None and self.config.neighbourhood:
                texts = [text for text, _ in texts_of(self.data.pairs)]
                self.known = KnownTexts(self.teacher, texts, self.model.base.device)
            if self.ranker is not None:
                self.ranker.read = partial(self.kept.readings, max_length=self.config.max_length)
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
            self.model.forget_preambles()  # measured at full precision, and trained at the run's
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
        before = self.model.whitening
        self._whiten()
        yield
        self.model.whitening = before

    def _whiten(self) -> None:
        c = self.config
        if not c.whitening:
            return
        texts = some_texts((self.data.batch(step) for step in range(c.steps)), self.model.dim)
        if texts:
            self.model.whitening = half_whitening(self._embedded(texts), c.whitening)

    @torch.no_grad()
    def _embedded(self, texts: Sequence[Text]) -> Tensor:
        chunks, _ = self._chunks(texts)
        return torch.cat([self._embed([texts[i] for i in chunk]) for chunk in chunks])

    def _save(self) -> None:
        self.folder.save(self.step, self.optimizer, self.best, self.average)

    def _finish(self) -> Path:
        """Write the best weights as the checkpoint, with card and recipe; hand it on."""
        if self.processes.is_main:
            self._save()
        if self.best.weights:
            self._take(self.best.weights)
        self.model.forget_preambles()
        if self.processes.measures:
            self._whiten()
        seal(self.model)
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
        self._fetch(step + 1)
        if self.teacher is not None:
            self.teacher.forget()  # what it knew decides its batches: a resumed run knows nothing
        share = alpha(step, c)
        self.optimizer.zero_grad(set_to_none=True)
        facts: dict[str, float] = {"step": step + 1, "loss": 0.0, "alpha": share, "tokens": 0.0}
        if share > 0:
            self._contrastive(pairs, share, facts)
        if share < 1:
            self._language(pairs, 1 - share, facts)
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

    def _contrastive(self, pairs: Sequence[Pair], weight: float, facts: dict[str, float]) -> None:
        """Gradients of the contrastive loss and distillation, times `weight`."""
        parts = [self.processes.slice_of(pairs, r) for r in range(self.processes.count)]
        texts = texts_of(parts[self.processes.rank])
        chunks, lengths = self._chunks(texts)
        order = [i for chunk in chunks for i in chunk]
        back = torch.tensor(order, device=self.model.base.device).argsort()
        chunks = self.processes.as_many(chunks, [0])  # a spare one's vectors are not taken back

        def loss(vectors: Tensor) -> Tensor:
            sizes = [len(texts_of(part)) for part in parts]
            everyone = self.processes.gather(vectors[back], sizes)
            first, second, negatives = in_order(everyone, [len(part) for part in parts])
            same = self._no_negatives(pairs).to(vectors.device)
            columns = torch.cat([second, negatives])
            losses = {
                "contrastive": info_nce(first, second, self.log_scale, same, negatives),
                **self._taught(pairs, torch.cat([first, columns])),
                **self._ranking(pairs, first, columns),
            }
            total = sum(
                (getattr(self.config, WEIGHTS[name]) * value for name, value in losses.items()),
                start=torch.zeros((), device=first.device),
            )
            self._require_finite(total)
            right = (first @ second.T).argmax(1) == torch.arange(len(pairs), device=first.device)
            facts.update({name: value.item() for name, value in losses.items()})
            facts["accuracy"] = right.float().mean().item()
            facts["loss"] += weight * total.item()
            return weight * total

        def embed(chunk: Sequence[int]) -> Tensor:
            return self._embed([texts[i] for i in chunk])

        GradCache(embed, cached=self.config.gradcache_tokens > 0).backward(chunks, loss)
        if self.log_scale.grad is not None:  # every process has the whole of it
            self.log_scale.grad /= self.processes.count
        facts["tokens"] += sum(lengths)

    def _language(self, pairs: Sequence[Pair], weight: float, facts: dict[str, float]) -> None:
        """Gradients of the mean next-token loss, times `weight`."""
        rows = self.processes.slice_of(self.rows.rows(self.step, pairs))
        rows = [row for row in rows if label_count(self.model, row)]
        count = sum(label_count(self.model, row) for row in rows)
        device = self.model.base.device
        labels = self.processes.sum(torch.tensor(float(count), device=device)).clamp(min=1)
        total = torch.zeros((), device=device)
        for special in (False, True):
            kind = [row for row in rows if bool(row.suffix) == special]
            kind.sort(key=len, reverse=True)
            batches = by_budget(range(len(kind)), [len(r) for r in kind], LM_TOKENS_PER_BATCH)
            for batch in self.processes.as_many(list(batches), []):
                with self._autocast():
                    chosen = [kind[i] for i in batch] or [spare_row(special)]
                    loss = language_loss(self.model, chosen) / labels * bool(batch)
                if loss.requires_grad:
                    (weight * loss).backward()
                total += loss.detach()
        total = self.processes.sum(total)
        self._require_finite(total)
        facts["ntp"] = total.item()
        facts["loss"] += weight * total.item()
        facts["tokens"] += sum(map(len, rows))

    def _update(self, rates: tuple[float, float]) -> float:
        """Sum the processes' gradients, clip them, step; the gradients' norm."""
        parameters = parameters_of(self.optimizer)
        self.processes.sum_gradients(parameters)
        norm = nn.utils.clip_grad_norm_(parameters, self.config.max_grad_norm or math.inf)
        self._require_finite(norm, "gradients' norm")
        weights, tokens, scale = self.optimizer.param_groups
        weights["lr"], tokens["lr"], scale["lr"] = rates[0], rates[1], rates[0]
        self.optimizer.step()
        keep_in_range(self.log_scale)
        if self.config.adapter_scope != "tokens":
            self.model.forget_preambles()
        return float(norm)

    def _require_finite(self, value: Tensor, what: str = "loss") -> None:
        if not torch.isfinite(value):
            raise GemError(
                f"the {what} is {value.item()} at step {self.step}; look for broken texts in this "
                "step's batch, or start anew with a lower learning rate: delete "
                f"{self.folder.folder} or choose another output"
            )

    def _taught(self, pairs: Sequence[Pair], vectors: Tensor) -> dict[str, Tensor]:
        """The losses against the teacher's vectors of the batch's texts."""
        losses: dict[str, Tensor] = {}
        c = self.config
        if self.teacher is None or not c.taught:
            return losses
        texts = [p.first for p in pairs] + seconds_of(pairs)
        teacher = self.teacher.embed(texts).to(vectors.device)
        if self.rotation is not None:
            rotation = self.rotation(vectors, teacher)
            if c.alignment:
                losses["alignment"] = alignment(vectors, teacher, rotation)
            if self.known is not None:
                losses["neighbourhood"] = neighbourhood(
                    vectors,
                    teacher,
                    rotation,
                    self.known.vectors,
                    self.known.places(texts),
                    c.neighbourhood_temperature,
                )
        if c.distillation:
            losses["distillation"] = distillation(vectors, teacher, c.distillation_temperature)
        return losses

    def _ranking(self, pairs: Sequence[Pair], first: Tensor, passages: Tensor) -> dict[str, Tensor]:
        """The ranking's soft labels for the batch's questions."""
        if self.ranker is None:
            return {}
        asked = [i for i, pair in enumerate(pairs) if pair.kind == "query_document"]
        # The scale is detached: soft labels would lower it, and it is the contrastive loss's.
        similarity = scale_of(self.log_scale).detach() * first[asked] @ passages.T
        questions = [pairs[i].first for i in asked]
        return {"ranking": self.ranker.loss(questions, seconds_of(pairs), asked, similarity)}

    def _no_negatives(self, pairs: Sequence[Pair]) -> Tensor:
        """bool ``[B, B + M]``: same source, or about as near as the pair itself by the teacher."""
        same = same_source(pairs)
        if self.teacher is None:
            return same
        first = self.teacher.embed([p.first for p in pairs])
        scores = first @ self.teacher.embed(seconds_of(pairs)).T  # (B, B + M)
        return same | (scores > FALSE_NEGATIVE * scores.diagonal()[:, None])

    def _fetch(self, step: int) -> None:
        """Have a step's kept readings brought from disk while another is computed."""
        if self.kept is None:
            return
        texts = texts_of(self.processes.slice_of(self.data.batch(step)))
        ids = self._tokenize([text for text, _ in texts])
        self.kept.fetch(zip(ids, (task for _, task in texts), strict=True))

    # Embedding with gradients

    def _chunks(self, texts: Sequence[Text]) -> tuple[list[list[int]], list[int]]:
        """Indices in batches of one task and similar length, and each text's length."""
        lengths = [max(1, len(ids)) for ids in self._tokenize([text for text, _ in texts])]
        chunks: list[list[int]] = []
        for task in ("query", "document"):
            mine = [i for i, (_, t) in enumerate(texts) if t == task]
            chunks += self._batches(sorted(mine, key=lambda i: -lengths[i]), lengths)
        return chunks, lengths

    def _batches(self, order: Sequence[int], lengths: Sequence[int]) -> Iterator[list[int]]:
        """What one forward takes; from kept readings padding costs little, and rows are tokens."""
        if not self.config.examples:
            yield from by_budget(order, lengths, self.config.gradcache_tokens or TOKENS_PER_BATCH)
            return
        for start in range(0, len(order), KEPT_ROWS):
            yield list(order[start : start + KEPT_ROWS])

    def _embed(self, texts: Sequence[Text]) -> Tensor:
        """``[B, d]`` with gradients, of texts of one task."""
        ids = self._tokenize([text for text, _ in texts])
        with self._autocast():
            return (self.kept or self.model).forward_texts(ids, texts[0][1])

    def _autocast(self) -> AbstractContextManager[Any]:
        return autocast(self.model.base.device, self.config.mixed_precision)

    def _tokenize(self, texts: Sequence[str]) -> list[list[int]]:
        return [t.ids for t in self.model.codec.encode_texts(texts, self.config.max_length)]


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


def make_repository(config: TrainConfig) -> None:
    """The hub's repository that the checkpoint goes to, with the user's own login.

    Raises:
        GemError: The hub cannot be reached, or does not allow it.
    """
    from huggingface_hub import HfApi

    name = config.push_to_hub
    try:
        HfApi().create_repo(name, exist_ok=True, private=config.hub_private or None)
    except Exception as error:  # whatever its HTTP library raises, which is not always the same
        raise GemError(
            f"push_to_hub is {name!r}, but the hub did not take it ({error}); run `hf auth login`, "
            "check the name, or leave it out"
        ) from error


def push(folder: Path, name: str) -> None:
    """Upload a checkpoint; not its recipe and report, which name the user's own folders."""
    from huggingface_hub import HfApi

    HfApi().upload_folder(folder_path=str(folder), repo_id=name, ignore_patterns=[RECIPE, REPORT])
