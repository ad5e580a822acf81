"""A run's state on disk: one file, replaced at once, that a killed run goes on from."""

from __future__ import annotations

import json
import os
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from gem_rag.checkpoints.folder import holds_something_else
from gem_rag.config import CONFIG_FILE
from gem_rag.errors import GemError
from gem_rag.files import atomic_write, sha256_of
from gem_rag_train.recipes.config import LOG, TrainConfig
from gem_rag_train.recipes.settings import more_is_better

STATE, PROGRESS = "state.safetensors", "progress.json"
# Settings that a run may be gone on with under other values: they do not change the weights.
FREE = (
    "output",
    "readings",
    "kept_gigabytes",
    "checkpoint_every",
    "tensorboard",
    "push_to_hub",
    "hub_private",
)


@dataclass
class Best:
    """The best measurement so far, and the weights that gave it.

    Attributes:
        value: The metric; None before the first measurement.
        step: When it was measured.
        worse_since: Measurements since then.
        weights: On the CPU, in the optimizer's order.
    """

    value: float | None = None
    step: int = 0
    worse_since: int = 0
    weights: list[Tensor] = field(default_factory=list, repr=False)

    def offer(self, value: float, metric: str, step: int, weights: Sequence[Tensor]) -> None:
        """Take these weights if they are better (`more_is_better` says which way)."""
        sign = 1 if more_is_better(metric) else -1
        if self.value is not None and sign * value <= sign * self.value:
            self.worse_since += 1
            return
        self.value, self.step, self.worse_since = value, step, 0
        self.weights = _copies(weights)


@dataclass
class Average:
    """The mean of the weights at the ends of the cycles so far.

    Attributes:
        count: Of cycles in it.
        weights: On the CPU, in the optimizer's order.
    """

    count: int = 0
    weights: list[Tensor] = field(default_factory=list, repr=False)

    def add(self, weights: Sequence[Tensor]) -> None:
        """Take one more cycle's into the mean."""
        ends = _copies(weights)
        self.count += 1
        if self.count == 1:
            self.weights = ends
        for mean, end in zip(self.weights, ends, strict=True):
            mean += (end - mean) / self.count


class RunFolder:
    """``<output>.run``: state and log.

    Weights, optimizer moments, the best so far and the cycles' mean are in one safetensors file,
    the step in its metadata. Data order, losses' weights and rates follow from the step, and no
    random state is carried: every draw is seeded by seed and step.

    Args:
        folder: Where.
        recipe: All that decides the weights, as plain values.
        defaults: Of settings that may have come later than a state: it was made with these.
        free: Names of those that may differ in a run that is gone on with.
        files: The user's data, whose contents have to stay.
    """

    def __init__(
        self,
        folder: Path,
        recipe: Mapping[str, Any],
        *,
        defaults: Mapping[str, Any],
        free: Collection[str] = (),
        files: Sequence[str] = (),
    ) -> None:
        self.folder = folder
        self._recipe = dict(recipe)
        self._defaults = dict(defaults)
        self._free = free
        self._files = list(files)
        self._data = [sha256_of(Path(f)) for f in files if Path(f).is_file()]

    def save(
        self, step: int, optimizer: torch.optim.Optimizer, best: Best, average: Average
    ) -> None:
        """Write the state: the old one or the new one is there at any moment, never a part."""
        from safetensors.torch import save_file

        self.folder.mkdir(parents=True, exist_ok=True)
        tensors: dict[str, Tensor] = {}
        for i, parameter in enumerate(parameters_of(optimizer)):
            tensors[f"{i}.weight"] = parameter.detach().contiguous()
            state = optimizer.state.get(parameter, {})
            tensors |= {f"{i}.{k}": v for k, v in state.items() if isinstance(v, Tensor)}
        for name, weights in (("best", best.weights), ("average", average.weights)):
            tensors |= {f"{name}.{i}": w for i, w in enumerate(weights)}
        own = {"value": best.value, "step": best.step, "worse_since": best.worse_since}
        facts = json.dumps(
            {
                "step": step,
                "recipe": self._recipe,
                "data": self._data,
                "best": own,
                "averaged": average.count,
            }
        )
        fresh = self.folder / f".{STATE}"
        save_file(tensors, fresh, metadata={"progress": facts})
        with fresh.open("r+b") as file:
            os.fsync(file.fileno())
        fresh.replace(self.folder / STATE)

    def close(self) -> None:
        """Drop the state of a run that has come to its end; the log stays."""
        (self.folder / STATE).unlink(missing_ok=True)

    def load(self, optimizer: torch.optim.Optimizer) -> tuple[int, Best, Average]:
        """Restore weights and moments; the step to go on from, the best so far, the cycles' mean.

        Raises:
            GemError: There is no state, or it is another recipe's.
        """
        from safetensors import safe_open

        try:
            with safe_open(self.folder / STATE, "pt") as file:
                facts = self._facts((file.metadata() or {}).get("progress"))
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        except FileNotFoundError:
            raise GemError(f"nothing to resume in {self.folder}; start without --resume") from None
        with torch.no_grad():
            for i, parameter in enumerate(parameters_of(optimizer)):
                parameter.copy_(tensors[f"{i}.weight"])
                names = [n for n in ("step", "exp_avg", "exp_avg_sq") if f"{i}.{n}" in tensors]
                if names:
                    optimizer.state[parameter] = {
                        n: _beside(tensors[f"{i}.{n}"], parameter, n) for n in names
                    }
        best = Best(**facts.get("best", {}), weights=_listed(tensors, "best"))
        average = Average(facts.get("averaged", 0), _listed(tensors, "average"))
        return int(facts["step"]), best, average

    def _facts(self, progress: str | None) -> dict[str, Any]:
        if progress is None:  # written by an earlier version, which kept it in a file of its own
            progress = (self.folder / PROGRESS).read_text(encoding="utf-8")
        facts: dict[str, Any] = json.loads(progress)
        mine = self._recipe
        # Settings that came later stand at their defaults in an older run.
        theirs = {**self._defaults, **facts["recipe"]}
        if odd := sorted(k for k in mine if k not in self._free and theirs.get(k) != mine[k]):
            raise GemError(f"{self.folder} is a run of another recipe (it differs in {odd})")
        if facts.get("data", self._data) != self._data:
            raise GemError(
                f"{self.folder} was trained on other contents of data_files "
                f"{self._files}; put them back, or start anew"
            )
        return facts

    def log(self, facts: dict[str, float]) -> None:
        """Append a step's facts."""
        self.folder.mkdir(parents=True, exist_ok=True)
        with (self.folder / LOG).open("a", encoding="utf-8") as file:
            file.write(json.dumps(facts) + "\n")

    def require_same(self) -> None:
        """Raise `GemError` unless there is a state, of this very recipe and data."""
        from safetensors import safe_open

        try:
            with safe_open(self.folder / STATE, "pt") as file:
                self._facts((file.metadata() or {}).get("progress"))
        except FileNotFoundError:
            raise GemError(f"nothing to resume in {self.folder}; start without --resume") from None

    def measured(self, step: int) -> dict[str, float]:
        """What was measured of held-out data at a step, by the log; nothing where it was not."""
        log = self.folder / LOG
        lines = log.read_text(encoding="utf-8").splitlines() if log.exists() else []
        of_step = (row for row in map(json.loads, lines) if row["step"] == step)
        row: dict[str, float] = next(of_step, {})
        return {name: value for name, value in row.items() if name.startswith("heldout_")}

    def trim_log(self, step: int) -> None:
        """Drop the lines of steps that will be run again, and one a kill cut short."""
        log = self.folder / LOG
        if not log.exists():
            return
        lines = log.read_text(encoding="utf-8").splitlines()
        kept = [line for line in lines if line.endswith("}") and json.loads(line)["step"] <= step]
        atomic_write(log, "".join(f"{line}\n" for line in kept))


def open_run(config: TrainConfig, *, resume: bool) -> RunFolder:
    """The folder of a recipe's run, ``<output>.run``.

    Raises:
        GemError: A run is there already and is not to be gone on with, or the output is taken.
    """
    output = Path(config.output)
    folder = output.with_name(output.name + ".run")
    if not resume and (folder / STATE).exists():
        raise GemError(
            f"{folder} holds a run already; pass --resume to go on with it, delete it, or "
            "choose another output"
        )
    is_checkpoint = (output / CONFIG_FILE).exists()
    if holds_something_else(output) or (is_checkpoint and not resume):
        raise GemError(
            f"{output} exists already; choose another output, or delete it: a checkpoint "
            "takes the whole folder"
        )
    return RunFolder(
        folder,
        config.to_dict(),
        defaults=TrainConfig().to_dict(),
        free=FREE,
        files=config.data_files,
    )


def parameters_of(optimizer: torch.optim.Optimizer) -> list[nn.Parameter]:
    """All parameters, in the order they are saved in."""
    return [p for group in optimizer.param_groups for p in group["params"]]


def _copies(weights: Sequence[Tensor]) -> list[Tensor]:
    return [w.detach().to("cpu", copy=True) for w in weights]


def _listed(tensors: Mapping[str, Tensor], name: str) -> list[Tensor]:
    count = sum(key.startswith(f"{name}.") for key in tensors)
    return [tensors[f"{name}.{i}"] for i in range(count)]


def _beside(state: Tensor, parameter: Tensor, name: str) -> Tensor:
    """A moment where its parameter is; AdamW keeps its step counter on the CPU."""
    return state if name == "step" else state.to(parameter.device)
