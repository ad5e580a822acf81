"""One readable training loop: batches by (seed, step), a resumable state, a loadable checkpoint."""

from __future__ import annotations

import ctypes
import json
import math
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from gem_rag.checkpoint import create, seal
from gem_rag.config import AdapterConfig, Task
from gem_rag.errors import GemError
from gem_rag.fetch import atomic_dir
from gem_rag.model import GemModel
from gem_rag.reader import by_budget
from gem_rag_train.card import model_card
from gem_rag_train.config import TrainConfig
from gem_rag_train.data import Pair, Pool, TrainingMix
from gem_rag_train.kept import KeptReadings
from gem_rag_train.losses import LOG_SCALE_START, distillation, info_nce
from gem_rag_train.questions import found_again, written_pairs
from gem_rag_train.teacher import Teacher

TOKENS_PER_BATCH = 4096  # in one forward; large, because each batch costs a backward pass too
KEPT_ROWS = 64  # in one forward from kept readings
SIDES = ("first", "second")
# A text this near to a pair's first, as a share of the pair's own similarity, may be a right answer
# too and is no negative (the idea of NV-Retriever's positive-aware mining).
FALSE_NEGATIVE = 0.95
FOUND_AMONG = 3  # of all passages, by the teacher, that of a written question must be
STATE, PROGRESS, LOG = "state.safetensors", "progress.json", "log.jsonl"


def train(config: TrainConfig, *, resume: bool = False, show_progress: bool | None = None) -> Path:
    """Train a checkpoint and write it to ``config.output``.

    Args:
        config: The recipe.
        resume: Go on from the last saved state of the same recipe; the weights become those of an
            uninterrupted run.
        show_progress: A live bar; None shows one on a terminal.

    Returns:
        The checkpoint's folder, which `GemModel.from_pretrained` loads.

    Raises:
        GemError: Nothing to resume, another recipe's state, or a loss that is not finite.
    """
    keep_freed_memory()
    return Trainer(config, resume=resume).run(show_progress)


class Trainer:
    """A run: model, data, optimizer, and the step they are at."""

    def __init__(self, config: TrainConfig, *, resume: bool) -> None:
        self.config = config
        self.output = Path(config.output)
        self.folder = self.output.with_name(self.output.name + ".run")
        if not resume and self.folder.exists():
            raise GemError(
                f"{self.folder} holds a run already; pass --resume to go on with it, delete it, or "
                "choose another output"
            )
        self.model = new_model(config)
        self.kept: KeptReadings | None = None
        self.teacher = Teacher(config.teacher) if config.teacher else None
        self.data: TrainingMix | Pool = TrainingMix(
            config.shares, seed=config.seed, batch_size=config.batch_size
        )
        self.log_scale = nn.Parameter(torch.tensor(LOG_SCALE_START))
        self.optimizer = torch.optim.AdamW(
            [
                {"params": list(self.model.adapter.parameters()), "lr": config.learning_rate},
                {
                    "params": [self.model.special_vectors],
                    "lr": config.token_learning_rate,
                    "weight_decay": 0.0,
                },
                {"params": [self.log_scale], "lr": config.learning_rate, "weight_decay": 0.0},
            ],
            weight_decay=config.weight_decay,
        )
        self.schedule = torch.optim.lr_scheduler.LambdaLR(
            self.optimizer, lambda step: rate(step, config)
        )
        self.step = 0
        if resume:
            self._load()

    def prepare(self, show_progress: bool | None = None) -> None:
        """Draw the pairs, write the questions and read the texts that the whole run uses."""
        config, folder = self.config, self.output.with_name(self.output.name + ".readings")
        if not config.examples:
            return
        assert isinstance(self.data, TrainingMix)
        pairs = self.data.draw(config.examples)
        most = int(config.kept_gigabytes * 1e9)
        kept = KeptReadings(self.model, folder, most_bytes=most, show_progress=show_progress)
        self._keep(kept, "pairs", pairs)
        if config.written_questions:
            written = written_pairs(
                self.model,
                pairs,
                config.written_questions,
                kept,
                folder,
                max_length=config.max_length,
                seed=config.seed,
                show_progress=show_progress,
            )
            written = self._consistent(written)
            self._keep(kept, "questions", written)
            pairs += written
        self.kept = kept
        self.data = Pool(
            pairs,
            seed=config.seed,
            batch_size=config.batch_size,
            vectors=self.teacher.embed([p.second for p in pairs]) if self.teacher else None,
            neighbours=config.neighbours,
        )

    def _keep(self, kept: KeptReadings, name: str, pairs: Sequence[Pair]) -> None:
        texts = [(p.first, task_of(p)) for p in pairs]
        texts += [(p.second, "document") for p in pairs]
        ids = self._tokenize([text for text, _ in texts])
        kept.add(name, zip(ids, (task for _, task in texts), strict=True))

    def _consistent(self, pairs: list[Pair]) -> list[Pair]:
        """Written questions whose passage the teacher finds among all passages."""
        if self.teacher is None:
            return pairs
        place = {text: i for i, text in enumerate(dict.fromkeys(p.second for p in pairs))}
        found = found_again(
            self.teacher.embed([p.first for p in pairs]),
            self.teacher.embed(list(place)),
            [place[p.second] for p in pairs],
            top=FOUND_AMONG,
        )
        return [pair for pair, kept in zip(pairs, found, strict=True) if kept]

    def run(self, show_progress: bool | None = None) -> Path:
        """Train to the last step, saving the state on the way, and write the checkpoint."""
        show = sys.stderr.isatty() if show_progress is None else show_progress
        self.prepare(show)
        with live(self.config.steps, self.step, show) as report:
            while self.step < self.config.steps:
                facts = self.train_step()
                report(facts)
                self._log(facts)
                if self.step % self.config.checkpoint_every == 0:
                    self._save()
        self._save()
        seal(self.model)
        return self.model.save_pretrained(self.output, card=model_card(self.model, self.config))

    def train_step(self) -> dict[str, float]:
        """One optimizer step; returns what to report."""
        started = time.perf_counter()
        pairs = self.data.batch(self.step)
        self.optimizer.zero_grad(set_to_none=True)
        first, n_first = self._embed([(p.first, task_of(p)) for p in pairs])
        second, n_second = self._embed([(p.second, "document") for p in pairs])
        contrastive = info_nce(first, second, self.log_scale, same=self._no_negatives(pairs))
        distilled = self._distillation(pairs, torch.cat([first, second]))
        loss = contrastive + self.config.distillation * distilled
        if not torch.isfinite(loss):
            raise GemError(
                f"the loss is {loss.item()} at step {self.step}; lower the learning rate, or look "
                f"for broken texts in this step's batch (resume starts from {self.folder})"
            )
        loss.backward()
        parameters = [*self.model.parameters(), self.log_scale]
        norm = nn.utils.clip_grad_norm_(parameters, self.config.max_grad_norm)
        self.optimizer.step()
        self.schedule.step()
        self.step += 1
        if self.config.adapter_scope != "tokens":
            self.model.forget_preambles()
        seconds = time.perf_counter() - started
        right = (first @ second.T).argmax(1) == torch.arange(len(pairs))
        return {
            "step": self.step,
            "loss": loss.item(),
            "contrastive": contrastive.item(),
            "distillation": distilled.item(),
            "accuracy": right.float().mean().item(),
            "temperature": math.exp(-self.log_scale.item()),
            "grad_norm": float(norm),
            "lr": float(self.schedule.get_last_lr()[0]),
            "tokens_per_second": (n_first + n_second) / seconds,
        }

    def _distillation(self, pairs: Sequence[Pair], vectors: Tensor) -> Tensor:
        """The distillation loss over all of the batch's texts; zero without it."""
        if self.teacher is None or not self.config.distillation:
            return torch.zeros(())
        texts = [p.first for p in pairs] + [p.second for p in pairs]
        teacher = self.teacher.embed(texts).to(vectors.device)
        return distillation(vectors, teacher, self.config.distillation_temperature)

    def _no_negatives(self, pairs: Sequence[Pair]) -> Tensor:
        """bool ``[B, B]``: same source, or about as near as the pair itself by the teacher."""
        same = same_source(pairs)
        if self.teacher is None:
            return same
        first, second = (self.teacher.embed([getattr(p, n) for p in pairs]) for n in SIDES)
        scores = first @ second.T  # (B, B)
        return same | (scores > FALSE_NEGATIVE * scores.diagonal()[:, None])

    def _embed(self, texts: Sequence[tuple[str, Task]]) -> tuple[Tensor, int]:
        """``[B, d]`` with gradients, in batches of one task and similar length; token count.

        Args:
            texts: Each text and how to embed it.
        """
        ids = self._tokenize([t for t, _ in texts])
        lengths = [max(1, len(i)) for i in ids]
        order: list[int] = []
        rows: list[Tensor] = []
        source = self.kept or self.model
        for task in ("query", "document"):
            mine = [i for i, (_, t) in enumerate(texts) if t == task]
            longest_first = sorted(mine, key=lambda i: -lengths[i])
            for batch in self._batches(longest_first, lengths):
                rows.append(source.forward_texts([ids[i] for i in batch], task))
                order += batch
        back = torch.tensor(order).argsort()
        return torch.cat(rows)[back], sum(lengths)

    def _batches(self, order: Sequence[int], lengths: Sequence[int]) -> Iterator[list[int]]:
        """What one forward takes; from kept readings padding costs little, and rows are tokens."""
        if self.kept is None:
            yield from by_budget(order, lengths, TOKENS_PER_BATCH)
            return
        for start in range(0, len(order), KEPT_ROWS):
            yield list(order[start : start + KEPT_ROWS])

    def _tokenize(self, texts: Sequence[str]) -> list[list[int]]:
        return [t.ids for t in self.model.codec.encode_texts(texts, self.config.max_length)]

    def _parameters(self) -> list[nn.Parameter]:
        return [p for group in self.optimizer.param_groups for p in group["params"]]

    def _save(self) -> None:
        """Write the state atomically: weights, optimizer, step. Data order needs none (by step)."""
        from safetensors.torch import save_file

        tensors: dict[str, Tensor] = {}
        for i, parameter in enumerate(self._parameters()):
            tensors[f"{i}.weight"] = parameter.detach().contiguous()
            state = self.optimizer.state.get(parameter, {})
            tensors |= {f"{i}.{k}": v for k, v in state.items() if isinstance(v, Tensor)}
        log = self.folder / LOG
        kept = log.read_text(encoding="utf-8") if log.exists() else ""
        with atomic_dir(self.folder) as fresh:
            save_file(tensors, fresh / STATE)
            facts = {"step": self.step, "recipe": self.config.to_dict()}
            (fresh / PROGRESS).write_text(json.dumps(facts, indent=2), encoding="utf-8")
            (fresh / LOG).write_text(kept, encoding="utf-8")

    def _load(self) -> None:
        from safetensors.torch import load_file

        try:
            facts = json.loads((self.folder / PROGRESS).read_text(encoding="utf-8"))
            tensors = load_file(self.folder / STATE)
        except FileNotFoundError:
            raise GemError(f"nothing to resume in {self.folder}; start without --resume") from None
        if facts["recipe"] != self.config.to_dict():
            odd = sorted(k for k, v in self.config.to_dict().items() if facts["recipe"].get(k) != v)
            raise GemError(f"{self.folder} is a run of another recipe (it differs in {odd})")
        self.step = int(facts["step"])
        with torch.no_grad():
            for i, parameter in enumerate(self._parameters()):
                parameter.copy_(tensors[f"{i}.weight"])
                state = {
                    k: tensors[f"{i}.{k}"]
                    for k in ("step", "exp_avg", "exp_avg_sq")
                    if f"{i}.{k}" in tensors
                }
                if state:
                    self.optimizer.state[parameter] = state
        self.schedule.last_epoch = self.step
        for group, base_rate in zip(
            self.optimizer.param_groups, self.schedule.base_lrs, strict=True
        ):
            group["lr"] = base_rate * rate(self.step, self.config)
        self._trim_log()

    def _trim_log(self) -> None:
        """Drop log lines of steps that will be run again."""
        log = self.folder / LOG
        lines = log.read_text(encoding="utf-8").splitlines() if log.exists() else []
        kept = [line for line in lines if json.loads(line)["step"] <= self.step]
        log.write_text("".join(f"{line}\n" for line in kept), encoding="utf-8")

    def _log(self, facts: dict[str, float]) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        with (self.folder / LOG).open("a", encoding="utf-8") as file:
            file.write(json.dumps(facts) + "\n")


def new_model(config: TrainConfig) -> GemModel:
    """The model a recipe starts from: untrained, or with the weights of an earlier checkpoint."""
    model = untrained(config)
    if config.start_from:
        earlier = GemModel.from_pretrained(config.start_from)
        if earlier.reading_fingerprint != model.reading_fingerprint:
            raise GemError(f"start_from {config.start_from} is for another base or preamble")
        with torch.no_grad():
            for mine, theirs in zip(model.parameters(), earlier.parameters(), strict=True):
                mine.copy_(theirs)
        seal(model)
    return model


def untrained(config: TrainConfig) -> GemModel:
    """A model whose adapter changes nothing yet."""
    return create(
        config.base,
        seed=config.seed,
        num_special_tokens=config.num_special_tokens,
        pooling=config.pooling,
        adapter_scope=config.adapter_scope,
        embed_layers=config.embed_layers or None,
        query_instruction=config.query_instruction,
        document_instruction=config.document_instruction,
        adapter=AdapterConfig(config.adapter_rank, config.adapter_alpha),
    )


def task_of(pair: Pair) -> Task:
    """How a pair's first text is embedded."""
    return "query" if pair.kind == "query_document" else "document"


def same_source(pairs: Sequence[Pair]) -> Tensor:
    """bool ``[B, B]``: rows that are no negatives of each other (same passage, or same text)."""
    groups = [p.group for p in pairs]
    seconds = [p.second for p in pairs]
    return torch.tensor(
        [
            [g == h or s == t for h, t in zip(groups, seconds, strict=True)]
            for g, s in zip(groups, seconds, strict=True)
        ]
    )


def rate(step: int, config: TrainConfig) -> float:
    """Share of the peak learning rate: linear warm-up, then a cosine to zero."""
    if step < config.warmup_steps:
        return (step + 1) / (config.warmup_steps + 1)
    done = (step - config.warmup_steps) / max(1, config.steps - config.warmup_steps)
    return 0.5 * (1 + math.cos(math.pi * min(1.0, done)))


@contextmanager
def live(steps: int, start: int, show: bool) -> Iterator[Callable[[dict[str, float]], None]]:
    """A live line with the loss, the speed and the time left; the yielded function updates it."""
    if not show:
        yield lambda _: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (
        TextColumn("step {task.completed}/{task.total}"),
        BarColumn(),
        TextColumn("loss {task.fields[loss]:.3f}  acc {task.fields[accuracy]:.2f}"),
        TextColumn("T {task.fields[temperature]:.3f}  |g| {task.fields[grad_norm]:.2f}"),
        TextColumn("{task.fields[tokens_per_second]:.0f} tokens/s"),
        TimeRemainingColumn(),
    )
    names = ("loss", "accuracy", "temperature", "grad_norm", "tokens_per_second")
    nothing: dict[str, Any] = dict.fromkeys(names, 0.0)
    with Progress(*columns, console=Console(stderr=True)) as bar:
        task = bar.add_task("", total=steps, completed=start, **nothing)

        def report(facts: dict[str, float]) -> None:
            values: dict[str, Any] = {name: facts[name] for name in names}
            bar.update(task, advance=1, **values)

        yield report


def keep_freed_memory() -> None:
    """Tell glibc to keep freed memory: page faults cost more than half the time of CPU training."""
    if not sys.platform.startswith("linux"):
        return
    m_trim_threshold, m_mmap_max = -1, -4
    try:
        libc = ctypes.CDLL(None)
        libc.mallopt(m_mmap_max, 0)
        libc.mallopt(m_trim_threshold, 2**31 - 1)
    except (OSError, AttributeError):  # another libc: slower, nothing else
        pass
